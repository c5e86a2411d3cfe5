"""What a study leaves on the disk, by kind of file: 1,000 trials of ten classes.

    python -m benchmarks.left_behind --json
    python -m benchmarks.left_behind --trials 1000 --epochs 100

Searcher, scheduler, recorder, Optuna's storage and event log are real, as are the rules by which checkpoints are
kept; the training is simulated (`benchmarks.scale`). Reports have the metrics and counts of a run of FixMatch on ten
classes, with random values. A checkpoint is a sparse file of the size of a WRN-28-2's (weights, average, momentum), a
picture one of the size of a picture of 32x32 images. All events are marked as delivered.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.scale import Simulation
from ssl_core.pictures.file import FILE_NAME as PICTURE
from ssl_core.training import checkpoint
from tune.findings.study import Study
from tune.store.home import Home
from tune.worker.trial_files import checkpoints_kept

CLASSES = 10
CHECKPOINT_BYTES = 3 * 4 * 1_467_610
"""Weights, moving average and momentum of WRN-28-2 on ten classes, in float32."""
PICTURE_BYTES = 160_000
"""Four panels of eight images, compressed."""
IMAGES = 500
"""Validation images; a tenth of them of each class."""
NAMES = (
    *(
        "val/error",
        "val/error_balanced",
        "val/loss",
        "train/loss",
        "train/loss_supervised",
        "train/loss_unsupervised",
    ),
    *("ssl/mask_rate", "ssl/pseudo_label_accuracy", "lr", "time/epoch_seconds", "images_per_second"),
    *(f"ssl/pseudo_label_accuracy/class_{c:02d}" for c in range(CLASSES)),
)
COUNTS = (
    *("ssl/pseudo_labels_largest_class", "ssl/pseudo_labels_smallest_class"),
    *(f"ssl/pseudo_labels/class_{c:02d}" for c in range(CLASSES)),
)


class Leaving(Simulation):
    """A simulation whose workers leave files, and whose reports are as large as real ones."""

    def metrics(self) -> dict[str, float]:
        """See `Simulation`."""
        return {n: self.random.random() for n in NAMES} | {
            n: float(self.random.randrange(5000)) for n in COUNTS
        }

    def classes(self, *, is_last: bool) -> dict[str, list[int]]:
        """See `Simulation`."""
        accepted = [self.random.randrange(5000) for _ in range(CLASSES)]
        found = {
            "accepted": accepted,
            "right": [self.random.randrange(n + 1) for n in accepted],
            "images": [IMAGES // CLASSES] * CLASSES,
            "wrong": [self.random.randrange(IMAGES // CLASSES) for _ in range(CLASSES)],
        }
        if is_last:
            found["confusion"] = [self.random.randrange(10) for _ in range(CLASSES**2)]
        return found

    def trained(self, trial: Any) -> None:
        """See `Simulation`."""
        folder, last = Path(trial.config["folder"]), trial.config["config"]["epochs"]
        folder.mkdir(parents=True, exist_ok=True)
        _make(checkpoint.path_of(folder, trial.epoch), CHECKPOINT_BYTES)
        for old in checkpoint.epochs_in(folder)[checkpoints_kept(trial.epoch, last) :]:
            checkpoint.path_of(folder, old).unlink()
        if trial.epoch == last:
            _make(folder / PICTURE, PICTURE_BYTES)


def _make(path: Path, size: int) -> None:
    with path.open("wb") as file:
        os.truncate(file.fileno(), size)


def measure(trials: int, epochs: int) -> dict[str, Any]:
    """Megabytes by kind of file, and in all besides the checkpoints."""
    with tempfile.TemporaryDirectory(prefix="ssl-tune-left-") as place:
        study = Leaving(Home(Path(place)), trials, 64, epochs)
        study.run(float("inf"))
        study.tracker.study_ended("finished", {})
        study.log.mark_delivered(range(1, 1 + 20 * study.reports))  # more than there are events
        study.records.close()
        study.log.close()
        states = Counter(record.state for record in Study(study.folder.path).records())
        sizes: Counter[str] = Counter()
        checkpoints = 0
        for path in study.folder.path.rglob("*"):
            if path.is_file():
                is_checkpoint = checkpoint.epoch_of(path.name) is not None
                checkpoints += is_checkpoint
                sizes["checkpoints" if is_checkpoint else path.name] += path.stat().st_size
    besides = sum(size for name, size in sizes.items() if name != "checkpoints")
    return {
        "trials": trials,
        "epochs": epochs,
        "reports": study.reports,
        "completed": states["completed"],
        "checkpoints": checkpoints,
        "besides_checkpoints_mb": round(besides / 1e6, 1),
        "mb": {name: round(size / 1e6, 2) for name, size in sizes.most_common() if size > 5000},
    }


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description="what a study leaves on the disk")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.trials, options.epochs)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    for name, value in found.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
