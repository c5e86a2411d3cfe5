"""Shared losses against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from ssl_core.losses import (
    alpha_divergence,
    bhattacharyya_coefficient,
    cross_entropy,
    sharpened,
    soft_cross_entropy,
    squared_error,
)


def rows(*values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, math.log(3.0)], [5.0, 5.0]], dtype=torch.float64)
    each = cross_entropy(logits, torch.tensor([1, 0, 0]))
    assert each.tolist() == pytest.approx([math.log(4 / 3), math.log(4), math.log(2)], rel=1e-14)
    assert each.dtype == torch.float64


def test_cross_entropy_is_one_value_an_image() -> None:
    assert cross_entropy(torch.zeros(5, 7), torch.zeros(5, dtype=torch.int64)).shape == (5,)
    assert cross_entropy(torch.zeros(0, 7), torch.zeros(0, dtype=torch.int64)).shape == (0,)


def test_cross_entropy_survives_extreme_logits() -> None:
    each = cross_entropy(torch.tensor([[1e4, -1e4], [1e4, -1e4]]), torch.tensor([0, 1]))
    assert each.tolist() == [0.0, 2e4]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(dtype: torch.dtype) -> None:
    logits = torch.tensor([[0.25, 1.5, -2.0]], dtype=dtype)  # exact in either
    each = cross_entropy(logits, torch.tensor([2]))
    assert each.dtype == torch.float32
    expected = math.log(math.exp(0.25) + math.exp(1.5) + math.exp(-2.0)) + 2.0
    assert each.item() == pytest.approx(expected, rel=1e-6)


def test_the_gradient_is_the_probabilities_minus_the_label() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64, requires_grad=True)
    cross_entropy(logits, torch.tensor([0])).sum().backward()
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx([0.25 - 1, 0.75], rel=1e-14)


def test_squared_error_by_hand() -> None:
    each = squared_error(rows([0.5, 0.3, 0.2], [1, 0, 0]), rows([0.2, 0.3, 0.5], [0, 1, 0]))
    assert each.tolist() == pytest.approx([0.18 / 3, 2 / 3], rel=1e-14)


def test_soft_cross_entropy_by_hand() -> None:
    logits = rows([0.0, math.log(3.0)])  # a quarter and three quarters
    assert soft_cross_entropy(logits, rows([0.5, 0.5])).item() == pytest.approx(
        (math.log(4) + math.log(4 / 3)) / 2, rel=1e-14
    )
    hard = soft_cross_entropy(logits, rows([0, 1]))
    assert hard.item() == pytest.approx(cross_entropy(logits, torch.tensor([1])).item(), rel=1e-14)
    assert soft_cross_entropy(rows([0, -math.inf]), rows([1, 0])).item() == 0  # not NaN


def test_bhattacharyya_coefficient_by_hand() -> None:
    logits = rows([0.0, math.log(3.0)])
    assert bhattacharyya_coefficient(logits, rows([1, 0])).item() == pytest.approx(0.5, rel=1e-14)
    assert bhattacharyya_coefficient(logits, rows([0.25, 0.75])).item() == pytest.approx(1, rel=1e-14)
    expected = math.sqrt(0.5 * 0.25) + math.sqrt(0.5 * 0.75)
    assert bhattacharyya_coefficient(logits, rows([0.5, 0.5])).item() == pytest.approx(expected, rel=1e-14)


def test_bhattacharyya_coefficient_and_gradient_survive_underflow() -> None:
    logits = rows([2000.0, 0.0]).requires_grad_()
    value = bhattacharyya_coefficient(logits, rows([0.0, 1.0]))
    value.sum().backward()
    assert value.item() == 0 and logits.grad is not None and not logits.grad.any()


def test_alpha_divergence_by_hand() -> None:
    g, p = rows([0.5, 0.5]), rows([0.25, 0.75])
    # alpha 2: (sum g^2 / p - 1) / 2
    assert alpha_divergence(g, p, 2).item() == pytest.approx((1 + 1 / 3 - 1) / 2, rel=1e-14)
    # alpha 1/2: 4 (1 - BC)
    overlap = math.sqrt(0.5 * 0.25) + math.sqrt(0.5 * 0.75)
    assert alpha_divergence(g, p, 0.5).item() == pytest.approx(4 * (1 - overlap), rel=1e-13)
    # alpha -1: alpha 2 with the two exchanged
    assert alpha_divergence(g, p, -1).item() == pytest.approx((0.125 + 1.125 - 1) / 2, rel=1e-14)


def test_alpha_divergence_has_both_kl_divergences_as_limits() -> None:
    g, p = rows([0.5, 0.5]), rows([0.25, 0.75])
    forward = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    backward = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert alpha_divergence(g, p, 1).item() == pytest.approx(forward, rel=1e-14)
    assert alpha_divergence(g, p, 0).item() == pytest.approx(backward, rel=1e-14)
    assert alpha_divergence(g, p, 1 + 1e-6).item() == pytest.approx(forward, rel=1e-5)
    assert alpha_divergence(g, p, 1e-6).item() == pytest.approx(backward, rel=1e-5)


@pytest.mark.parametrize("alpha", [-1, 0, 0.5, 1, 1.5, 3])
def test_alpha_divergence_of_equal_predictions_is_0_with_certain_ones_too(alpha: float) -> None:
    p = rows([0.2, 0.8], [0, 1])
    assert alpha_divergence(p, p, alpha).tolist() == pytest.approx([0, 0], abs=1e-15)


def test_alpha_divergence_of_what_excludes_each_other() -> None:
    one, other = rows([1, 0]), rows([0, 1])
    assert alpha_divergence(one, other, 0.5).item() == 4
    assert math.isinf(alpha_divergence(one, other, 1).item())
    assert math.isinf(alpha_divergence(one, other, 1.5).item())
    assert math.isinf(alpha_divergence(one, other, 0).item())


@pytest.mark.parametrize("alpha", [-1, 0, 0.5, 1, 1.5])
def test_a_class_that_neither_has_gives_alpha_divergence_a_finite_gradient(alpha: float) -> None:
    p = rows([0.25, 0.75, 0]).requires_grad_()
    alpha_divergence(rows([0.5, 0.5, 0]), p, alpha).sum().backward()
    assert p.grad is not None and bool(torch.isfinite(p.grad[0, :2]).all())


def test_sharpened_by_hand() -> None:
    assert sharpened(rows([0.25, 0.75]), 0.5).tolist()[0] == pytest.approx([0.1, 0.9], rel=1e-14)
    assert sharpened(rows([0.25, 0.75]), 1).tolist()[0] == pytest.approx([0.25, 0.75], rel=1e-14)
    assert sharpened(rows([0, 1]), 0.5).tolist() == [[0, 1]]
