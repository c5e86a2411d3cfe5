"""Mean Teacher: what is compared with what, the ramp, and which statistics move."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_core.config import from_document
from ssl_core.methods.base import Batch, Progress, Step
from ssl_core.methods.mean_teacher import MeanTeacherConfig
from ssl_core.methods.running import linear_ramp
from ssl_core.networks.wide_resnet import NetworkOutput
from ssl_core.registry import get_method
from ssl_core.system.errors import ConfigError
from tests.matching import STRONG, WEAK, WEAK2, check_resumption, digits_run, leaf
from tests.tiny import finish

METHOD = get_method("mean_teacher")


def at(step: int, total: int = 10) -> Progress:
    return Progress(step=step, total_steps=total, step_in_epoch=0, epoch=1, ssl_epoch=1)


def loss(student: Tensor, step: int = 10, **parameters: Any) -> Any:
    """The loss where the average gives WEAK for first views, and the network `student` for second ones."""
    images = [torch.full((len(WEAK), 3, 8, 8), float(n)) for n in range(3)]

    def forward(given: Tensor, *, update_statistics: bool = True, **_: Any) -> NetworkOutput:
        is_labelled = torch.equal(given, images[0])
        assert update_statistics == is_labelled and (is_labelled or torch.equal(given, images[2]))
        return NetworkOutput(leaf(STRONG) if is_labelled else student, torch.empty(0))

    def averaged(given: Tensor, *, batch_statistics: bool = False) -> NetworkOutput:
        assert batch_statistics and torch.equal(given, images[1])
        return NetworkOutput(leaf(WEAK), torch.empty(0))

    views = {"weak": images[1], "weak2": images[2]}
    batch = Batch(images[0], torch.zeros(len(WEAK), dtype=torch.int64), torch.arange(len(WEAK)), views)
    whole = Step(forward, batch, None, at(step), torch.Generator(), averaged)
    return METHOD.compute_loss(MeanTeacherConfig(**parameters), whole)


def test_the_loss_by_hand() -> None:
    output = loss(leaf(WEAK2))
    p, q = (torch.tensor(each, dtype=torch.float64).softmax(dim=1).tolist() for each in (WEAK2, WEAK))
    expected = (
        sum((a - b) ** 2 for one, other in zip(p, q, strict=True) for a, b in zip(one, other, strict=True))
        / 12
    )
    assert output.terms["loss_unsupervised"].item() == pytest.approx(expected, rel=1e-12)
    supervised = output.terms["loss_supervised"].item()
    assert output.total.item() == pytest.approx(supervised + 50 * expected, rel=1e-12)
    assert output.pseudo is None


def test_the_student_learns_and_the_teacher_does_not() -> None:
    student = leaf(WEAK2)
    loss(student).total.backward()
    assert student.grad is not None and bool(student.grad.any())


def test_the_ramp_by_hand() -> None:
    assert [linear_ramp(at(step), 0.4) for step in (0, 1, 4, 9)] == [0, 0.25, 1, 1]
    assert linear_ramp(at(0), 0) == 1
    quarter = loss(leaf(WEAK2), step=1)
    grown = quarter.total - quarter.terms["loss_supervised"]
    assert grown.item() == pytest.approx(50 / 4 * quarter.terms["loss_unsupervised"].item(), rel=1e-12)
    assert quarter.terms["ramp"].item() == 0.25


def test_only_the_labelled_pass_moves_the_running_statistics() -> None:
    """With weight 0 the network is that of the supervised run, its statistics too."""
    one, other = digits_run("mean_teacher", mean_teacher={"weight": 0.0}), digits_run("supervised")
    for run in (one, other):
        finish(run)
    for name, buffer in other.network.named_buffers():
        assert torch.equal(buffer, dict(one.network.named_buffers())[name]), name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weight": -1.0}, r"mean_teacher\.weight = -1.0: .*greater than or equal to 0"),
        ({"ramp": 1.5}, r"mean_teacher\.ramp = 1.5: .*less than or equal to 1"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_document({"method": "mean_teacher", "mean_teacher": values})


def test_idle_parameters() -> None:
    assert METHOD.idle(MeanTeacherConfig()) == {}
    assert METHOD.idle(MeanTeacherConfig(weight=0)).keys() == {"ramp"}


def test_runs_on_digits_resume_bit_for_bit(tmp_path: Path) -> None:
    metrics = check_resumption(tmp_path, "mean_teacher")[-1].metrics
    assert metrics["train/ramp"] == 1 and metrics["train/loss_unsupervised"] > 0
