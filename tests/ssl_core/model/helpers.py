"""A small training that reads the test set."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def document_of(pictures: Path, **fields: Any) -> dict[str, Any]:
    """A training of a few steps on a folder of images."""
    return {
        "method": "pseudo_label",
        "dataset": f"folder:{pictures}",
        "labels": 12,
        "network": "wrn-10-1",
        "epochs": 6,
        "steps_per_epoch": 8,
        "warmup_epochs": 3,
        "batch_size": 6,
        "mu": 1,
        "ema_decay": 0.5,
        "bn_momentum": 0.1,
        "precision": "float32",
        "device": "cpu",
        "threads": 1,
        "pseudo_label": {"threshold": 0.6},
        **fields,
    }
