"""Unlabelled images help: FixMatch beside supervised training on 50 labelled digits, the same labels and steps."""

from __future__ import annotations

import statistics
from typing import Any

import ssl_core

SEEDS = (0, 1)
MARGIN = 4.0
"""Points by which FixMatch has to be better on the mean of the seeds. When this was written it was WRITTEN."""


def error_of(method: str, seed: int) -> float:
    """Percent of 500 validation images that are misclassified after a short training."""
    config: dict[str, Any] = {
        "method": method,
        "dataset": "digits",
        "labels": 50,
        "network": "wrn-10-1",
        "epochs": 1,
        "steps_per_epoch": 300,
        "batch_size": 16,
        "mu": 3,
        "lr": 0.1,
        "threads": 1,
        "precision": "float32",
        "seed": seed,
        "data": {"image_size": 8, "valid": 500, "label_seed": seed},
    }
    found = ssl_core.train(config).val_error
    assert found is not None
    return found


def gain() -> float:
    """Supervised error minus FixMatch's, mean over the seeds."""
    return statistics.fmean(error_of("supervised", seed) - error_of("fixmatch", seed) for seed in SEEDS)


def test_unlabelled_images_help() -> None:
    assert gain() > MARGIN
