"""FreeMatch: its averages, thresholds and fairness against numbers, and where gradients go."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_core.config import from_document
from ssl_core.methods.base import Progress
from ssl_core.methods.freematch import FreeMatchConfig, FreeMatchState, class_thresholds, fairness
from ssl_core.methods.running import momentum_of
from ssl_core.registry import get_method
from ssl_core.system.errors import ConfigError
from tests.matching import STRONG, WEAK, WEAK2, check_resumption, compute, leaf, normal

METHOD = get_method("freematch")


def uniform(classes: int) -> FreeMatchState:
    p = torch.full((classes,), 1 / classes, dtype=torch.float64)
    return FreeMatchState(p[0], p, p.clone())


def step(state: FreeMatchState, weak: Any, **parameters: Any) -> Any:
    config = FreeMatchConfig(**{"momentum": 0.9, **parameters})
    parts = leaf(torch.zeros(1, 3)), leaf(weak), leaf(STRONG)
    return compute("freematch", config, parts, [0], state=state)


def test_three_steps_give_the_reference_code_s_averages_and_mask() -> None:
    """Values of microsoft/Semi-supervised-learning, algorithms/freematch, at momentum 0.9."""
    state, found = uniform(3), []
    for weak in (WEAK, WEAK2, WEAK):
        output = step(state, weak)
        state = output.state
        found.append(state.tau.item())
    assert found == pytest.approx([0.379473, 0.421791, 0.459085], abs=1e-6)
    assert state.p.tolist() == pytest.approx([0.390789, 0.341078, 0.268133], abs=1e-6)
    assert output.pseudo.accepted.tolist() == [True, True, True, False]
    assert output.terms["threshold_highest"].item() == pytest.approx(0.459085, abs=1e-6)


def test_a_class_s_threshold_by_hand() -> None:
    p = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    state = FreeMatchState(torch.tensor(0.8, dtype=torch.float64), p, p)
    assert class_thresholds(state).tolist() == pytest.approx([0.8, 0.4, 0.4], rel=1e-14)


def test_fairness_by_hand() -> None:
    """Two accepted images, predicted (3/4, 1/4) and (1/4, 3/4), the third is left out: norm(s / h) = (1/2, 1/2)."""
    logits = leaf([[math.log(3), 0], [0, math.log(3)], [5, 0]])
    state = uniform(2)
    value = fairness(state, logits, torch.tensor([True, True, False]))
    assert value.item() == pytest.approx(math.log(0.5), rel=1e-9)
    (gradient,) = torch.autograd.grad(value, logits)
    assert not gradient[2].any()


def test_a_class_that_is_not_predicted_counts_by_the_constant_without_a_gradient() -> None:
    """Everything accepted is class 0: norm(s / h) = (1, 0)."""
    logits = leaf([[math.log(3), 0], [math.log(3), 0]])
    value = fairness(uniform(2), logits, torch.tensor([True, True]))
    assert value.item() == pytest.approx(0.5 * math.log(1e-12), rel=1e-9)
    (gradient,) = torch.autograd.grad(value, logits)
    assert bool(torch.isfinite(gradient).all()) and float(gradient.abs().max()) < 1e-9


def test_where_nothing_is_accepted_fairness_is_0_and_has_no_gradient() -> None:
    logits = leaf(normal(4, 3))
    value = fairness(uniform(3), logits, torch.zeros(4, dtype=torch.bool))
    assert value.item() == 0
    (gradient,) = torch.autograd.grad(value, logits)
    assert not gradient.any()


def test_fairness_spreads_the_predictions() -> None:
    """A step down its gradient lowers the most predicted class."""
    logits = leaf([[2.0, 0, 0], [1.0, 0, 0.9], [0.5, 1.0, 0]])
    (gradient,) = torch.autograd.grad(fairness(uniform(3), logits, torch.ones(3, dtype=torch.bool)), logits)
    before, after = (each.softmax(dim=1).mean(dim=0) for each in (logits, logits - gradient))
    assert after[0] < before[0]


def test_targets_get_no_gradient_and_weights_of_0_switch_off() -> None:
    for weights in ({}, {"lambda_u": 0, "lambda_f": 0}):
        weak, strong = leaf(WEAK), leaf(STRONG)
        parts = leaf(normal(3, 3)), weak, strong
        output = compute("freematch", FreeMatchConfig(**weights), parts, [0, 1, 2], state=uniform(3))
        output.total.backward()
        assert weak.grad is None or not weak.grad.any()
        assert strong.grad is not None and bool(strong.grad.any()) == (not weights)


def test_nothing_waits_for_the_device() -> None:
    """Tensors without values refuse whatever would have to know one."""
    state = FreeMatchState(*(torch.ones(shape, device="meta") for shape in ((), (3,), (3,))))
    logits: Tensor = torch.ones(4, 3, device="meta")
    assert class_thresholds(state).shape == (3,)
    assert fairness(state, logits, logits[:, 0] > 0).shape == ()


def test_the_memory_fits_the_run() -> None:
    def run_of(steps: int) -> Progress:
        return Progress(step=0, total_steps=steps, step_in_epoch=0, epoch=1, ssl_epoch=1)

    assert [momentum_of(None, run_of(steps)) for steps in (10, 2000, 2**20)] == pytest.approx(
        [0.9, 0.985, 0.999]
    )
    assert momentum_of(0.5, run_of(10)) == 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"momentum": 1.0}, r"freematch\.momentum = 1.0: .*less than 1"),
        ({"lambda_f": -1.0}, r"freematch\.lambda_f = -1.0: .*greater than or equal to 0"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_document({"method": "freematch", "freematch": values})


def test_idle_parameters() -> None:
    assert METHOD.idle(FreeMatchConfig()) == {}
    assert METHOD.idle(FreeMatchConfig(lambda_u=0, lambda_f=0)).keys() == {"momentum"}


def test_runs_on_digits_resume_bit_for_bit(tmp_path: Path) -> None:
    reports = check_resumption(tmp_path, "freematch")
    assert 0.1 < reports[-1].metrics["train/threshold_highest"] < 1
