"""UDA: the sharpened target, the mask, and training signal annealing, against numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from ssl_core.config import from_document
from ssl_core.methods.base import Progress
from ssl_core.methods.uda import Schedule, UDAConfig, signal_threshold
from ssl_core.registry import get_method
from ssl_core.system.errors import ConfigError
from tests.matching import STRONG, WEAK, check_resumption, compute, leaf, normal

METHOD = get_method("uda")


def at(step: int, total: int = 100) -> Progress:
    return Progress(step=step, total_steps=total, step_in_epoch=0, epoch=1, ssl_epoch=1)


def test_the_loss_by_hand() -> None:
    """At T = 0.4 the target is softmax of 2.5 times the logits; of the four images the last is not sure enough."""
    parts = leaf(torch.zeros(1, 3)), leaf(WEAK), leaf(STRONG)
    output = compute("uda", UDAConfig(), parts, [0])
    expected = 0.0
    for weak, strong in list(zip(WEAK, STRONG, strict=True))[:3]:
        target = [math.exp(2.5 * v) for v in weak]
        log_sum = math.log(sum(map(math.exp, strong)))
        expected += sum(t / sum(target) * (log_sum - s) for t, s in zip(target, strong, strict=True)) / 4
    assert output.terms["loss_unsupervised"].item() == pytest.approx(expected, rel=1e-12)
    assert output.total.item() == pytest.approx(math.log(3) + expected, rel=1e-12)
    assert output.pseudo is not None and output.pseudo.accepted.tolist() == [True, True, True, False]


def test_the_mask_is_strict_and_of_the_prediction_before_it_is_sharpened() -> None:
    half = [[0.0, 0.0], [0.1, 0.0]]
    parts = leaf(torch.zeros(1, 2)), leaf(half), leaf(torch.zeros(2, 2))
    output = compute("uda", UDAConfig(threshold=0.5, temperature=0.001), parts, [0])
    assert output.pseudo is not None and output.pseudo.accepted.tolist() == [False, True]
    output = compute("uda", UDAConfig(threshold=0.9, temperature=0.001), parts, [0])
    assert output.pseudo is not None and output.pseudo.accepted.tolist() == [False, False]


def test_schedules_by_hand() -> None:
    for schedule, halfway in (("linear", 0.5), ("exp", math.exp(-2.5)), ("log", 1 - math.exp(-2.5))):
        assert signal_threshold(schedule, at(50), 10) == pytest.approx(0.9 * halfway + 0.1, rel=1e-14)
    assert signal_threshold("linear", at(0), 10) == pytest.approx(0.1)
    assert signal_threshold("off", at(0), 10) == math.inf
    assert set(get_args(Schedule)) == {"off", "linear", "exp", "log"}


def test_annealing_leaves_out_labelled_images_that_are_learnt_and_keeps_the_mean_over_all() -> None:
    """At the first step eta is 1/C: of probabilities 3/4 and 1/4 of the label only the second counts."""
    labelled = leaf([[math.log(3), 0], [0, math.log(3)]])
    parts = labelled, leaf([[0.0, 0.0]]), leaf([[0.0, 0.0]])
    output = compute("uda", UDAConfig(tsa="linear"), parts, [0, 0])
    assert output.terms["loss_supervised"].item() == pytest.approx(math.log(4) / 2, rel=1e-12)
    assert output.terms["labelled_share"].item() == 0.5
    output.total.backward()
    assert labelled.grad is not None and not labelled.grad[0].any() and bool(labelled.grad[1].any())


def test_without_annealing_every_labelled_image_counts() -> None:
    parts = leaf([[50.0, 0], [0, 50.0]]), leaf([[0.0, 0.0]]), leaf([[0.0, 0.0]])
    output = compute("uda", UDAConfig(), parts, [0, 0])
    assert output.terms["loss_supervised"].item() == pytest.approx(25, rel=1e-12)
    assert "labelled_share" not in output.terms


def test_targets_get_no_gradient_and_weight_0_switches_off() -> None:
    for lambda_u in (1.0, 0.0):
        weak, strong = leaf(WEAK), leaf(STRONG)
        parts = leaf(normal(3, 3)), weak, strong
        compute("uda", UDAConfig(lambda_u=lambda_u), parts, [0, 1, 2]).total.backward()
        assert weak.grad is None or not weak.grad.any()
        assert strong.grad is not None and bool(strong.grad.any()) == (lambda_u > 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": 0.0}, r"uda\.temperature = 0.0: .*greater than 0"),
        ({"tsa": "cosine"}, r"uda\.tsa = 'cosine': .*'off', 'linear', 'exp' or 'log'"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_document({"method": "uda", "uda": values})


def test_idle_parameters() -> None:
    assert METHOD.idle(UDAConfig()) == {}
    assert METHOD.idle(UDAConfig(lambda_u=0)).keys() == {"temperature", "threshold"}


def test_runs_on_digits_resume_bit_for_bit(tmp_path: Path) -> None:
    reports = check_resumption(tmp_path, "uda", uda={"threshold": 0.1, "tsa": "exp"})
    assert reports[-1].metrics["ssl/mask_rate"] > 0 and reports[-1].metrics["train/labelled_share"] <= 1
