"""FixMatch: who counts, over what it is averaged, and where gradients go."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from ssl_core.config import from_document
from ssl_core.losses import confident_class
from ssl_core.methods.fixmatch import FixMatchConfig
from ssl_core.registry import get_method
from ssl_core.system.errors import ConfigError
from tests.matching import check_resumption, compute, digits_run, leaf, normal

METHOD = get_method("fixmatch")
SURE, UNSURE = math.log(19.0), math.log(3.0)  # of two classes: 0.95 and 0.75


def test_defaults_are_the_paper_s() -> None:
    assert FixMatchConfig() == FixMatchConfig(threshold=0.95, lambda_u=1.0)
    assert METHOD.warmup_share == 0 and METHOD.has_warmup and METHOD.unlabelled_views == ("weak", "strong")
    assert METHOD.head(FixMatchConfig(), 8) is None and not METHOD.shares_crop(FixMatchConfig())
    assert digits_run("fixmatch").config.warmup_epochs == 0
    assert digits_run("fixmatch", warmup_epochs=2).config.warmup_epochs == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": 0}, r"fixmatch\.threshold = 0: .*greater than 0"),
        ({"threshold": 1.01}, r"fixmatch\.threshold = 1\.01: .*less than or equal to 1"),
        ({"threshold": "0.9"}, r"fixmatch\.threshold = '0\.9': .*number"),
        ({"lambda_u": -0.1}, r"fixmatch\.lambda_u = -0\.1: .*greater than or equal to 0"),
        ({"lambda_u": math.inf}, r"fixmatch\.lambda_u = inf: .*finite"),
        ({"lambda": 1}, r"unknown key 'fixmatch\.lambda'.*lambda_u"),
        ({"maps": 2}, r"unknown key 'fixmatch\.maps'"),
    ],
)
def test_bad_parameters_are_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_document({"method": "fixmatch", "fixmatch": values})


def test_the_loss_by_hand() -> None:
    """Two of three unlabelled images count; their cross-entropies are ln 4 and ln 4/3, over three images."""
    weak = leaf([[SURE + 0.01, 0.0], [UNSURE, 0.0], [0.0, SURE + 0.01]])
    strong = leaf([[0.0, UNSURE], [9.0, -9.0], [0.0, UNSURE]])
    output = compute("fixmatch", FixMatchConfig(lambda_u=0.5), (leaf([[0.0, 0.0]]), weak, strong), [1])
    unlabelled = (math.log(4) + math.log(4 / 3)) / 3
    assert output.terms["loss_supervised"].item() == pytest.approx(math.log(2), rel=1e-12)
    assert output.terms["loss_unsupervised"].item() == pytest.approx(unlabelled, rel=1e-12)
    assert output.total.item() == pytest.approx(math.log(2) + 0.5 * unlabelled, rel=1e-12)
    assert output.pseudo is not None
    assert output.pseudo.indices.tolist() == [0, 1, 2]
    assert output.pseudo.labels.tolist() == [0, 0, 1]
    assert output.pseudo.accepted.tolist() == [True, False, True]


def test_a_confidence_of_just_the_threshold_counts() -> None:
    parts = leaf([[0.0, 0.0]]), leaf([[1.0, 1.0]]), leaf([[0.0, 0.0]])  # exactly one half
    for threshold, accepted in ((0.5, True), (0.5 + 1e-9, False)):
        output = compute("fixmatch", FixMatchConfig(threshold=threshold), parts, [0])
        assert output.pseudo is not None and output.pseudo.accepted.tolist() == [accepted]


def test_confidence_and_class_by_hand() -> None:
    confidence, predicted = confident_class(leaf([[0.0, UNSURE], [SURE, 0.0], [-1e4, 1e4]]))
    assert confidence.tolist() == pytest.approx([0.75, 0.95, 1.0], rel=1e-12)
    assert predicted.tolist() == [1, 0, 1] and predicted.dtype == torch.int64
    assert not confidence.requires_grad
    confidence, _ = confident_class(torch.tensor([[1.0, math.nan], [math.nan, math.nan]]))
    assert not (confidence >= 0).any()
    assert confident_class(torch.zeros(2, 3, dtype=torch.bfloat16))[0].dtype == torch.float32


def random_parts(seed: int = 0, unlabelled: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    labelled, weak, strong = (normal(n, 5, seed=seed + i) for i, n in enumerate((3, unlabelled, unlabelled)))
    return leaf(labelled), leaf(2 * weak), leaf(strong)


def test_targets_get_no_gradient() -> None:
    labelled, weak, strong = random_parts()
    compute("fixmatch", FixMatchConfig(threshold=0.5), (labelled, weak, strong), [0, 1, 2]).total.backward()
    assert weak.grad is None or not weak.grad.any()
    assert strong.grad is not None and strong.grad.any() and labelled.grad is not None


@pytest.mark.parametrize("update", [{"lambda_u": 0.0}, {"threshold": 1.5}])
def test_switched_off_the_gradient_is_that_of_the_labelled_images(update: dict[str, float]) -> None:
    labelled, weak, strong = random_parts()
    config = FixMatchConfig(threshold=0.5).model_copy(update=update)
    compute("fixmatch", config, (labelled, weak, strong), [0, 1, 2]).total.backward()
    alone = leaf(labelled.detach())
    functional.cross_entropy(alone, torch.tensor([0, 1, 2])).backward()
    assert torch.equal(labelled.grad, alone.grad)
    assert strong.grad is None or not strong.grad.any()


def test_masked_out_images_change_nothing_but_the_count() -> None:
    labelled, weak, strong = random_parts()
    config = FixMatchConfig(threshold=0.6)
    output = compute("fixmatch", config, (labelled, weak, strong), [0, 1, 2])
    assert output.pseudo is not None
    kept = output.pseudo.accepted
    assert 0 < kept.sum() < len(kept)
    subset = compute("fixmatch", config, (labelled, weak[kept], strong[kept]), [0, 1, 2])
    expected = subset.terms["loss_unsupervised"].item() * int(kept.sum()) / len(kept)
    assert output.terms["loss_unsupervised"].item() == pytest.approx(expected, rel=1e-12)
    other = torch.where(kept[:, None], strong, 100 * strong)
    changed = compute("fixmatch", config, (labelled, weak, other), [0, 1, 2])
    assert changed.total.item() == output.total.item()


def test_runs_on_digits_resume_bit_for_bit(tmp_path: Path) -> None:
    reports = check_resumption(tmp_path, "fixmatch", fixmatch={"threshold": 0.15})
    assert [report.ssl_epoch for report in reports] == [1, 2, 3]
    for report in reports:
        assert report.metrics["train/loss_unsupervised"] > 0
        assert 0 < report.metrics["ssl/mask_rate"] <= 1
        assert 0 <= report.metrics["ssl/pseudo_label_accuracy"] <= 1
        total = report.metrics["train/loss_supervised"] + report.metrics["train/loss_unsupervised"]
        assert report.metrics["train/loss"] == pytest.approx(total, rel=1e-6)


def test_the_warmup_is_the_supervised_one(tmp_path: Path) -> None:
    reports = check_resumption(tmp_path, "fixmatch", warmup_epochs=2, fixmatch={"threshold": 0.15})
    assert [report.ssl_epoch for report in reports] == [None, None, 1]
    for report, at_work in zip(reports, (False, False, True), strict=True):
        assert ("train/loss_unsupervised" in report.metrics) == at_work
        assert ("ssl/mask_rate" in report.metrics) == at_work
