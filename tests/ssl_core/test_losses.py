"""Shared losses against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from ssl_core.losses import cross_entropy


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
