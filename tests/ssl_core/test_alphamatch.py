"""AlphaMatch: target and divergence against numbers and brute force, and the bound of its gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_core import losses
from ssl_core.config import from_document
from ssl_core.methods.alphamatch import Agreement, AlphaMatchConfig, agreement, view_weights
from ssl_core.pictures.panels import picture_of
from ssl_core.registry import get_method
from ssl_core.system.errors import ConfigError
from tests.matching import STRONG, WEAK, check_resumption, compute, digits_run, leaf, normal

METHOD = get_method("alphamatch")
CPU = torch.device("cpu")
FREE = 1e9  # a limit that no gradient here reaches


def views_of(*views: Any) -> Tensor:
    return torch.stack([torch.as_tensor(view, dtype=torch.float64) for view in views])


def found(logits: Tensor, alpha: float, *, beta: float = 0.5, limit: float = FREE) -> Agreement:
    return agreement(logits, view_weights(beta, len(logits) - 1, CPU), alpha, limit)


@pytest.mark.parametrize(
    ("alpha", "each", "mean", "target"),
    [
        (0.5, [0.168056, 0.241379, 0.077599, 0.001999], 0.12225806, [0.812462, 0.137101, 0.050437]),
        (1.0, [0.179755, 0.266699, 0.079959, 0.002000], 0.13210334, [0.873993, 0.092118, 0.033888]),
        (1.5, [0.176868, 0.302072, 0.071025, 0.002002], 0.13799159, [0.917389, 0.060393, 0.022218]),
        (2.0, [0.169364, 0.351064, 0.060773, 0.002003], 0.14580116, [0.937907, 0.045394, 0.016700]),
    ],
)
def test_divergence_and_target_are_those_of_an_independent_computation(
    alpha: float, each: list[float], mean: float, target: list[float]
) -> None:
    one = found(views_of(WEAK, STRONG), alpha)
    assert one.value.tolist() == pytest.approx(each, abs=6e-7)
    assert one.value.mean().item() == pytest.approx(mean, abs=6e-9)
    assert one.log_target.exp()[0].tolist() == pytest.approx(target, abs=6e-7)
    parts = leaf(torch.zeros(1, 3)), leaf(WEAK), leaf(STRONG)
    output = compute("alphamatch", AlphaMatchConfig(alpha=alpha), parts, [0])
    assert output.terms["loss_unsupervised"].item() == pytest.approx(mean, abs=6e-9)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.0 + 1e-4, 1.5, 2.0, 3.0])
def test_value_and_gradient_are_those_of_the_divergences_from_a_constant_target(alpha: float) -> None:
    """The envelope theorem, with three views of unequal weights."""
    logits = views_of(WEAK, STRONG, normal(4, 3)).requires_grad_()
    weights = view_weights(0.3, 2, CPU)
    assert weights.tolist() == pytest.approx([0.7, 0.15, 0.15])
    one = agreement(logits, weights, alpha, FREE)
    target = one.log_target.exp()
    each = torch.stack([losses.alpha_divergence(target, p, alpha) for p in logits.softmax(dim=2)])
    psi = (weights[:, None] * each).sum(dim=0)
    assert one.value.tolist() == pytest.approx(psi.tolist(), rel=1e-9)
    assert one.limited.tolist() == pytest.approx(psi.tolist(), rel=1e-9)
    (expected,) = torch.autograd.grad(psi.sum(), logits)
    (gradient,) = torch.autograd.grad(one.limited.sum(), logits)
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5, 3.0])
def test_no_other_prediction_is_closer_to_the_views(alpha: float) -> None:
    logits = views_of(WEAK, STRONG)
    best = found(logits, alpha)
    for number in range(200):
        other = (best.log_target + 0.3 * normal(4, 3, seed=number)).softmax(dim=1)
        psi = sum(0.5 * losses.alpha_divergence(other, p, alpha) for p in logits.softmax(dim=2))
        assert bool((torch.as_tensor(psi) >= best.value - 1e-12).all())


def test_where_the_views_agree_there_is_nothing_to_learn() -> None:
    logits = views_of(WEAK, WEAK).requires_grad_()
    one = found(logits, 1.5)
    (gradient,) = torch.autograd.grad(one.limited.sum(), logits)
    assert one.value.tolist() == pytest.approx([0] * 4, abs=1e-14) and float(gradient.abs().max()) < 1e-14


def opposed(margin: float) -> Tensor:
    """Two views, sure of different classes by a margin."""
    return views_of([[margin, 0, 0]], [[0, margin, 0]]).requires_grad_()


def test_without_a_bound_the_gradient_grows_exponentially() -> None:
    for margin, value, length in ((5.0, 4.5, 1.8), (10.0, 65, 22), (20.0, 9.8e3, 3.3e3)):
        logits = opposed(margin)
        one = found(logits, 1.5)
        (gradient,) = torch.autograd.grad(one.limited.sum(), logits)
        assert one.value.item() == pytest.approx(value, rel=0.05)
        assert gradient[:, 0].norm(dim=1).max().item() == pytest.approx(length, rel=0.05)


@pytest.mark.parametrize("margin", [10.0, 40.0, 400.0, 4000.0])
def test_an_image_s_gradient_is_shortened_to_the_limit_and_keeps_its_direction(margin: float) -> None:
    logits = opposed(margin)
    one = found(logits, 1.5, limit=1.5)
    (gradient,) = torch.autograd.grad(one.limited.sum(), logits)
    assert bool(torch.isfinite(one.limited).all()) and bool(torch.isfinite(one.value.float()).all())
    assert gradient.norm().item() == pytest.approx(1.5, rel=1e-9)
    if margin <= 40:
        (free,) = torch.autograd.grad(found(logits, 1.5).limited.sum(), logits)
        assert torch.allclose(gradient / gradient.norm(), free / free.norm(), atol=1e-9)


def test_the_limit_touches_no_image_that_is_below_it() -> None:
    logits = torch.cat([opposed(20.0).detach(), views_of(WEAK, STRONG)], dim=1).requires_grad_()
    gradients = [
        torch.autograd.grad(found(logits, 1.5, limit=x).limited.sum(), logits)[0] for x in (1.5, FREE)
    ]
    assert torch.allclose(gradients[0][:, 1:], gradients[1][:, 1:], rtol=1e-12)
    assert not torch.allclose(gradients[0][:, 0], gradients[1][:, 0])


def test_a_confident_disagreement_does_not_end_a_run_in_float32() -> None:
    weak, strong = ([[200.0, 0, 0]] * 2, [[0, 200.0, 0]] * 2)
    parts = [torch.tensor(rows).requires_grad_() for rows in ([[0.0] * 3], weak, strong)]
    output = compute("alphamatch", AlphaMatchConfig(), (parts[0], parts[1], parts[2]), [0])
    output.total.backward()  # type: ignore[no-untyped-call]
    assert bool(torch.isfinite(output.total)) and output.total.dtype == torch.float32
    assert all(part.grad is not None and float(part.grad.norm()) <= 1.5 for part in parts)


def test_both_views_learn_and_weight_0_switches_off() -> None:
    for lambda_u in (1.0, 0.0):
        weak, strong = leaf(WEAK), leaf(STRONG)
        parts = leaf(normal(3, 3)), weak, strong
        compute("alphamatch", AlphaMatchConfig(lambda_u=lambda_u), parts, [0, 1, 2]).total.backward()
        for view in (weak, strong):
            assert view.grad is not None and bool(view.grad.any()) == (lambda_u > 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"beta": 0.0}, r"alphamatch\.beta = 0.0: .*greater than 0"),
        ({"beta": 1.0}, r"alphamatch\.beta = 1.0: .*less than 1"),
        ({"strong_views": 0}, r"alphamatch\.strong_views = 0: .*greater than or equal to 1"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_document({"method": "alphamatch", "alphamatch": values})


def test_idle_parameters() -> None:
    assert METHOD.idle(AlphaMatchConfig()) == {}
    assert METHOD.idle(AlphaMatchConfig(lambda_u=0)).keys() == {"alpha", "beta", "gradient_limit"}


def test_the_picture_shows_the_common_prediction_beside_the_views() -> None:
    picture = picture_of(digits_run("alphamatch", alphamatch={"strong_views": 2}), images=4)
    assert picture is not None
    assert [panel.title for panel in picture.panels] == ["weak view", "strong view", "strong2 view", "g*"]
    assert all("Psi" in caption for caption in picture.panels[-1].captions)


def test_runs_on_digits_resume_bit_for_bit(tmp_path: Path) -> None:
    metrics = check_resumption(tmp_path, "alphamatch")[-1].metrics
    assert metrics["train/loss_unsupervised"] > 0 and 0.1 <= metrics["train/target_confidence"] <= 1
