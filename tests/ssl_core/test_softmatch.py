"""SoftMatch: alignment, weights and their averages against numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from ssl_core.config import from_document
from ssl_core.methods.softmatch import SoftMatchConfig, SoftMatchState, aligned, truncated_gaussian
from ssl_core.registry import get_method
from ssl_core.system.errors import ConfigError
from tests.matching import STRONG, WEAK, WEAK2, check_resumption, compute, leaf, normal

METHOD = get_method("softmatch")


def at_the_start(classes: int = 3) -> SoftMatchState:
    p = torch.full((classes,), 1 / classes, dtype=torch.float64)
    return SoftMatchState(p, p[0], torch.ones_like(p[0]), 0)


def test_alignment_by_hand() -> None:
    q = torch.tensor([[0.5, 0.5], [0.9, 0.1]], dtype=torch.float64)
    p = torch.tensor([0.75, 0.25], dtype=torch.float64)
    # the odds are divided by 3
    assert aligned(q, p).flatten().tolist() == pytest.approx([0.25, 0.75, 0.75, 0.25], abs=1e-5)
    assert torch.allclose(aligned(q, torch.tensor([0.5, 0.5], dtype=torch.float64)), q, atol=1e-12)


def test_weights_by_hand() -> None:
    confidence = torch.tensor([0.9, 0.7, 0.6, 0.5], dtype=torch.float64)
    mean, variance = torch.tensor(0.7), torch.tensor(0.04)  # standard deviation 0.2
    weights = truncated_gaussian(confidence, mean.double(), variance.double(), 2)
    assert weights.tolist() == pytest.approx([1, 1, math.exp(-0.5), math.exp(-2)], rel=1e-6)


def test_two_steps_by_hand() -> None:
    """Averages and loss of each step, computed here with numbers alone."""
    config, state = SoftMatchConfig(momentum=0.9), at_the_start()
    p: list[float] = []
    mean, variance = 1 / 3, 1.0
    for weak in (WEAK, WEAK2):
        output = compute(
            "softmatch", config, (leaf(torch.zeros(1, 3)), leaf(weak), leaf(STRONG)), [0], state=state
        )
        state = output.state
        q = [[math.exp(v) / sum(map(math.exp, row)) for v in row] for row in weak]
        now = [sum(row[c] for row in q) / 4 for c in range(3)]
        p = [0.9 * a + 0.1 * b for a, b in zip(p, now, strict=True)] if p else now
        scaled = [[v * (1 / 3 + 1e-6) / (m + 1e-6) for v, m in zip(row, p, strict=True)] for row in q]
        confidence = [max(row) / sum(row) for row in scaled]
        average = sum(confidence) / 4
        mean = 0.9 * mean + 0.1 * average
        variance = 0.9 * variance + 0.1 * sum((c - average) ** 2 for c in confidence) / 3
        expected, weights = 0.0, []
        for value, row, strong in zip(confidence, q, STRONG, strict=True):
            weights.append(math.exp(-(min(value - mean, 0) ** 2) / (2 * variance / 4)))
            loss = math.log(sum(map(math.exp, strong))) - strong[row.index(max(row))]
            expected += weights[-1] * loss / 4
        assert state.p.tolist() == pytest.approx(p, rel=1e-12)
        assert (state.mean.item(), state.variance.item()) == pytest.approx((mean, variance), rel=1e-12)
        assert output.terms["loss_unsupervised"].item() == pytest.approx(expected, rel=1e-12)
        assert output.pseudo is not None and output.pseudo.weights is not None
        assert output.pseudo.weights.tolist() == pytest.approx(weights, rel=1e-12)
        assert output.pseudo.accepted.tolist() == [w >= 0.5 for w in weights]
    assert state.steps == 2


def test_the_label_is_that_of_the_prediction_that_was_not_aligned() -> None:
    """Class 0 is predicted so often that alignment turns the last image's prediction; its label stays 0."""
    weak = [[5, 0], [5, 0], [5, 0], [0.5, 0.0]]
    q = torch.tensor(weak, dtype=torch.float64).softmax(dim=1)
    assert aligned(q, q.mean(dim=0))[3].argmax() == 1
    parts = leaf(torch.zeros(1, 2)), leaf(weak), leaf(torch.zeros(4, 2))
    output = compute("softmatch", SoftMatchConfig(), parts, [0], state=at_the_start(2))
    assert output.pseudo is not None and output.pseudo.labels.tolist() == [0, 0, 0, 0]


def test_targets_get_no_gradient_and_weight_0_switches_off() -> None:
    for lambda_u in (1.0, 0.0):
        weak, strong = leaf(WEAK), leaf(STRONG)
        parts = leaf(normal(3, 3)), weak, strong
        config = SoftMatchConfig(lambda_u=lambda_u)
        output = compute("softmatch", config, parts, [0, 1, 2], state=at_the_start())
        output.total.backward()
        assert weak.grad is None or not weak.grad.any()
        assert strong.grad is not None and bool(strong.grad.any()) == (lambda_u > 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_sigma": 0.0}, r"softmatch\.n_sigma = 0.0: .*greater than 0"),
        ({"momentum": 1.0}, r"softmatch\.momentum = 1.0: .*less than 1"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_document({"method": "softmatch", "softmatch": values})


def test_idle_parameters() -> None:
    assert METHOD.idle(SoftMatchConfig()) == {}
    assert METHOD.idle(SoftMatchConfig(lambda_u=0)).keys() == {"n_sigma", "momentum"}


def test_runs_on_digits_resume_bit_for_bit_and_log_the_mean_weight(tmp_path: Path) -> None:
    metrics = check_resumption(tmp_path, "softmatch")[-1].metrics
    assert 0 < metrics["train/weight_lowest"] <= metrics["train/weight_mean"] <= 1
    assert 0 < metrics["ssl/mask_rate"] <= 1
