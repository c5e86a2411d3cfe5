"""Training on a folder as a person has it: some images with a label, many without, no test/ and no valid/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ssl_core
from ssl_core.system.errors import ConfigError
from ssl_core.training.result import prepare


def picture(path: Path, bright: int, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 60, (16, 16, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((noise + bright).astype(np.uint8)).save(path)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """20 labelled images of each of two classes, 30 without a label."""
    root = tmp_path / "pets"
    for number in range(20):
        picture(root / "train" / "a" / f"{number}.png", 0, number)
        picture(root / "train" / "b" / f"{number}.png", 180, 100 + number)
    for number in range(30):
        picture(root / "unlabelled" / "2024" / f"{number}.png", 180 * (number % 2), 200 + number)
    return root


def config(root: Path, **changes: Any) -> dict[str, Any]:
    tiny = {"network": "wrn-10-1", "epochs": 3, "steps_per_epoch": 2, "batch_size": 4, "mu": 2}
    return {"method": "fixmatch", "dataset": f"folder:{root}", **tiny, **changes}


def test_all_labels_are_used_and_the_shares_are_held_out(pets: Path) -> None:
    resolved, data, split = prepare(config(pets))
    assert data.protocol == "real"
    unlabelled = np.flatnonzero(data.labels < 0)
    assert len(unlabelled) == 30 and set(unlabelled) <= set(split.unlabelled)
    # A fifth of the labelled images are test images, and are not here; a part of the rest validates.
    assert len(data.labels) - 30 < 40
    assert len(split.labelled) + len(split.valid) == len(data.labels) - 30
    assert not set(split.valid) & (set(split.labelled) | set(split.unlabelled))
    assert (resolved.labels, resolved.data.valid) == (len(split.labelled), len(split.valid))
    again, _, same = prepare(resolved)  # what a worker, a resume and an export are given
    assert same.hash == split.hash and again.labels == resolved.labels


def test_a_run_has_no_accuracy_of_pseudo_labels_and_goes_on_to_the_same_bits(
    pets: Path, tmp_path: Path
) -> None:
    reports: list[Any] = []
    whole = ssl_core.train(config(pets), out=tmp_path / "whole", final=True, on_report=reports.append)
    assert whole.test_error is not None
    assert all("ssl/mask_rate" in report.metrics for report in reports)
    assert not any("pseudo_label_accuracy" in name for report in reports for name in report.metrics)

    ssl_core.train(config(pets, stop_after_epoch=1), out=tmp_path / "parts")
    parts = ssl_core.train(config(pets), out=tmp_path / "parts", resume=True, final=True)
    assert (parts.val_error, parts.test_error) == (whole.val_error, whole.test_error)
    assert (
        parts.split_hash == whole.split_hash and parts.document()["val_loss"] == whole.document()["val_loss"]
    )


def test_a_method_that_needs_unlabelled_images_refuses_a_folder_without_any(pets: Path) -> None:
    (pets / "unlabelled").rename(pets.parent / "away")
    with pytest.raises(ConfigError, match="has no unlabelled images besides the labelled ones"):
        prepare(config(pets, labels=40))
    prepare(config(pets, labels=10))  # labels beyond ten are hidden


def test_own_validation_images_take_none_of_the_training_images(pets: Path) -> None:
    for number in range(10):
        picture(pets / "valid" / "a" / f"{number}.png", 0, 300 + number)
        picture(pets / "valid" / "b" / f"{number}.png", 180, 400 + number)
        picture(pets / "test" / "a" / f"{number}.png", 0, 500 + number)
        picture(pets / "test" / "b" / f"{number}.png", 180, 600 + number)
    (pets / "unlabelled").rename(pets.parent / "away")
    resolved, _, split = prepare(config(pets, labels=30))
    assert (len(split.labelled), len(split.valid), resolved.labels) == (30, 20, 30)
