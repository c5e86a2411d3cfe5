"""SimPLE: targets, both losses and the pairs against numbers, and where gradients go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_core import losses
from ssl_core.config import from_document
from ssl_core.methods.base import Batch, Progress, Step
from ssl_core.methods.simple import SimPLEConfig, pair_loss, pair_weights, unlabelled_loss
from ssl_core.methods.views import Views
from ssl_core.networks.wide_resnet import NetworkOutput
from ssl_core.pictures.panels import picture_of
from ssl_core.registry import get_method
from ssl_core.system.errors import ConfigError
from tests.matching import STRONG, WEAK, WEAK2, check_resumption, digits_run, leaf, normal

METHOD = get_method("simple")


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


TARGETS = double(
    [
        [0.997447, 0.002402, 0.000151],
        [0.993635, 0.005283, 0.001082],
        [0.000014, 0.999216, 0.000770],
        [0.322037, 0.390378, 0.287585],
    ]
)


def step_of(strong: Tensor) -> Step[None]:
    """The average gives WEAK and WEAK2 for the weak views, the network `strong` for the only strong one."""
    images = [torch.full((4, 3, 8, 8), float(n)) for n in range(4)]
    views = Views({"weak": images[1], "weak2": images[2], "strong": images[3]})

    def forward(given: Tensor, **options: Any) -> NetworkOutput:
        assert torch.equal(given, torch.cat([images[0], images[3]])) and not options
        return NetworkOutput(torch.cat([torch.zeros(4, 3, dtype=torch.float64), strong]), torch.empty(0))

    def averaged(given: Tensor, *, batch_statistics: bool = False) -> NetworkOutput:
        assert not batch_statistics
        return NetworkOutput(double(WEAK if torch.equal(given, images[1]) else WEAK2), torch.empty(0))

    batch = Batch(images[0], torch.zeros(4, dtype=torch.int64), torch.arange(4), views)
    return Step(forward, batch, None, Progress(0, 10, 0, 1, 1), torch.Generator(), averaged)


def test_losses_are_those_of_the_authors_code_and_of_exact_arithmetic() -> None:
    """Computed with zijian-hu/SimPLE at a23c717, and with 50 decimal digits: there L_P is 0.11959041914735, of which
    the authors' code has nine digits."""
    strong = leaf(STRONG)
    output = METHOD.compute_loss(SimPLEConfig(strong_views=1), step_of(strong))
    assert output.terms["loss_unsupervised"].item() == pytest.approx(0.1156414913, abs=1e-10)
    assert output.terms["loss_pair"].item() == pytest.approx(0.1195904190, abs=2e-10)
    assert output.terms["loss_unsupervised"].item() == pytest.approx(0.11564149125715, abs=1e-14)
    assert output.terms["loss_pair"].item() == pytest.approx(0.11959041914735, abs=1e-14)
    expected = output.terms["loss_supervised"].item() + 75 * (0.1156414913 + 0.1195904190)
    assert output.total.item() == pytest.approx(expected, abs=1e-8)
    assert output.pseudo is not None and output.pseudo.accepted.tolist() == [True, True, True, False]
    assert output.pseudo.labels.tolist() == [0, 0, 1, 1]


def test_targets_are_sharpened_means_of_the_average_s_predictions() -> None:
    found = METHOD._targets(SimPLEConfig(), step_of(leaf(STRONG)))  # type: ignore[attr-defined]
    assert torch.allclose(found, TARGETS, rtol=0, atol=6e-7)


def test_pairs_by_hand() -> None:
    """Images 1 and 2 are a pair both ways, 4 is like no other, and an image is no pair with itself."""
    confident = torch.tensor([True, False, True, False])
    weights = pair_weights(TARGETS, confident, 0.9)
    similar = float((TARGETS[0].sqrt() * TARGETS[1].sqrt()).sum())
    expected = torch.zeros(4, 4, dtype=torch.float64)
    expected[0, 1] = (
        similar  # weighed by the overlap, not by 1; the anchor is confident, the other need not be
    )
    assert torch.allclose(weights, expected, rtol=1e-14)


def test_pair_loss_by_hand() -> None:
    targets, weights = double([[1, 0], [0.5, 0.5]]), double([[0, 0.5], [0, 0]])
    logits = leaf([[3.0, 1.0], [0.0, 0.0]])
    value = pair_loss(logits, targets, weights)
    assert value.item() == pytest.approx(0.5 * (1 - 0.5**0.5), rel=1e-12)
    (gradient,) = torch.autograd.grad(value, logits)
    assert not gradient[0].any() and gradient[1, 0] < 0  # the second image learns the first one's class


def test_matrices_equal_a_loop_over_sixty_rows() -> None:
    logits, targets = normal(60, 5), (3 * normal(60, 5, seed=1)).softmax(dim=1)
    confident = targets.amax(dim=1) > 0.8
    value = pair_loss(logits, targets, pair_weights(targets, confident, 0.9)).item()
    total = 0.0
    q, p = targets.tolist(), logits.softmax(dim=1).tolist()
    for i in range(60):
        for j in range(60):
            similar = sum((a * b) ** 0.5 for a, b in zip(q[i], q[j], strict=True))
            if i != j and confident[i] and similar > 0.9:
                total += similar * (1 - sum((a * b) ** 0.5 for a, b in zip(q[i], p[j], strict=True)))
    assert value == pytest.approx(total / (60 * 59 / 2), rel=1e-12) and value > 0


def test_a_target_that_underflows_is_harmless() -> None:
    targets = losses.sharpened(double([[1.0, 0.0], [1.0, 0.0]]), 0.5)
    logits = leaf([[0.0, 2000.0], [0.0, 2000.0]])
    weights = pair_weights(targets, torch.ones(2, dtype=torch.bool), 0.9)
    value = pair_loss(logits, targets, weights) + unlabelled_loss(logits, targets, torch.ones(2))
    value.backward()  # type: ignore[no-untyped-call]
    assert value.item() == pytest.approx(3) and logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())


def test_one_row_has_no_pairs() -> None:
    logits = leaf([[1.0, 0.0]])
    assert pair_loss(logits, double([[1, 0]]), double([[0]])).item() == 0


def test_all_strong_views_of_an_image_are_pairs_of_each_other() -> None:
    run = digits_run("simple", simple={"threshold": 0.0, "similarity": 0.999999, "strong_views": 3})
    assert METHOD.views(run.config.parameters) == {"weak": 2, "strong": 3}
    rows = double([[0.9, 0.1], [0.1, 0.9]]).repeat(3, 1)
    weights = pair_weights(rows, torch.ones(6, dtype=torch.bool), 0.999999)
    assert int((weights > 0).sum()) == 12  # each of six rows with the two others of its image
    assert torch.allclose(weights[weights > 0], torch.ones(12, dtype=torch.float64))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weak_views": 0}, r"simple\.weak_views = 0: .*greater than or equal to 1"),
        ({"strong_views": 0}, r"simple\.strong_views = 0: .*greater than or equal to 1"),
        ({"temperature": 0.0}, r"simple\.temperature = 0.0: .*greater than 0"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_document({"method": "simple", "simple": values})


def test_idle_parameters() -> None:
    assert METHOD.idle(SimPLEConfig()) == {}
    assert METHOD.idle(SimPLEConfig(lambda_pair=0)).keys() == {"similarity"}
    assert METHOD.idle(SimPLEConfig(lambda_u=0, lambda_pair=0)).keys() == {
        "threshold",
        "similarity",
        "temperature",
    }


def test_the_picture_shows_each_image_beside_the_most_similar_one() -> None:
    picture = picture_of(digits_run("simple"), images=6)
    assert picture is not None
    assert [panel.title for panel in picture.panels] == [
        "weak view, target q",
        "strong view",
        "most similar image",
    ]
    weak, _, other = (panel.values for panel in picture.panels)
    assert other.shape == weak.shape
    for place, each in enumerate(other):
        assert (each != weak[place]).any() and any((each == one).all() for one in weak)


def test_runs_on_digits_resume_bit_for_bit(tmp_path: Path) -> None:
    parameters = {"threshold": 0.1, "strong_views": 2, "lambda_u": 1.0, "lambda_pair": 1.0}
    metrics = check_resumption(tmp_path, "simple", simple=parameters)[-1].metrics
    assert metrics["train/loss_pair"] > 0 and 0 < metrics["train/pairs_share"] < 1
