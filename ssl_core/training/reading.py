"""Readings of the test set: made once for each final model, and recorded (invariant 1)."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ssl_core.measures import balanced_error, count_confusion, images_and_wrong, matrix_of
from ssl_core.same_run import differences
from ssl_core.schema import RunConfig
from ssl_core.training.run import Run

READINGS_FILE = "test-readings.jsonl"


def confusion_of(run: Run, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> list[list[int]]:
    """The EMA model's confusion matrix on some images, (n, H, W, 3) uint8 and (n,) int64 arrays."""
    truth, size, parts = torch.tensor(labels).to(run.device), run.config.eval_batch_size, []
    for start in range(
        0, len(images), size
    ):  # a map of a file that is larger than memory is read batch by batch
        pixels = torch.tensor(images[start : start + size]).to(run.device)
        parts.append(run.evaluated_in_batches(pixels, torch.arange(len(pixels), device=run.device)))
    return matrix_of(count_confusion(torch.cat(parts), truth).tolist())


def reading_of(run: Run, matrix: list[list[int]]) -> dict[str, Any]:
    """A reading of the test set as a document: when, of which model, and its errors.

    Args:
        run: the finished run.
        matrix: the confusion matrix on the test images.
    """
    images, wrong = images_and_wrong(matrix)
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "config": run.config.document(),
        "split_hash": run.split.hash,
        "epochs": run.epoch,
        "test_error": 100 * sum(wrong) / sum(images),
        "test_error_balanced": balanced_error(images, wrong),
        "test_confusion": matrix,
    }


def append_reading(path: Path, reading: Mapping[str, Any]) -> None:
    """Append a reading to a record; half a line that a crash left behind stays on its own line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # machines that share a folder append one after the other
        end = file.seek(0, os.SEEK_END)
        broken = False
        if end:
            file.seek(end - 1)
            broken = file.read(1) != b"\n"
        file.write((b"\n" if broken else b"") + json.dumps(reading).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def recorded_in(path: Path) -> list[dict[str, Any]]:
    """The readings in a record, oldest first; none where there is no such file."""
    found: list[dict[str, Any]] = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:  # half a line, from a crash
            continue
    return found


def is_recorded(path: Path, reading: Mapping[str, Any]) -> bool:
    """Whether a record has this very reading."""
    return any(each == reading for each in recorded_in(path))


def recorded_reading(path: Path, config: RunConfig) -> dict[str, Any] | None:
    """The recorded reading of this model, if a crash came before its result was written."""
    for reading in recorded_in(path):
        same = not differences(reading["config"], config.document())
        if same and reading["epochs"] == config.last_epoch:
            return reading
    return None
