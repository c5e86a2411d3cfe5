"""What a study costs besides training: 100 trials of one epoch in which nothing is computed.

    python -m benchmarks.overhead          # about a minute after Ray has started

The real search: `tune.search` on Ray Tune with the real trainable, searcher, scheduler, recorder, storage, event log
and delivery to MLflow; two trials side by side, workers used again. Only the training itself is replaced by a report
and a checkpoint of a quarter of a megabyte. `--bare` leaves out checkpoints and tracking as well. On a machine that
other programs keep busy: `nice -n -20 python -m benchmarks.overhead --at-once`; what delivers and draws gives way to
nothing then.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.tracking import without_tracking
from ssl_core.schema import RunConfig
from ssl_core.training.run import Report
from tests.tune.at_once import started_at_once
from tune.worker import replicates, trainable
from tune.worker.trainable import TrialTrainable

TRIALS = 100
BARE = "SSL_TUNE_BENCHMARK_BARE"


class _Run:
    """Takes the place of `ssl_core.training.run.Run`."""

    def __init__(self, config: RunConfig, data: Any, split: Any) -> None:
        self.config, self.history, self.valid = config, list[Report](), range(100)

    @property
    def epoch(self) -> int:
        return len(self.history)

    def load_state(self, state: dict[str, Any]) -> None:
        raise AssertionError("nothing is resumed here")

    def state(self) -> dict[str, Any]:
        return {"network": torch.zeros(65_536), "config": self.config.document()}


def _train(run: _Run) -> Iterator[Report]:
    for epoch in range(1, run.config.last_epoch + 1):
        metrics = {"val/error": 50.0, "val/loss": 1.0, "train/loss": 1.0, "lr": 0.03}
        metrics |= {"time/epoch_seconds": 0.0, "images_per_second": 0.0}
        run.history.append(Report(epoch=epoch, ssl_epoch=epoch, metrics=metrics))
        yield run.history[-1]


class IdleTrainable(TrialTrainable):
    """The real trainable, whose training does nothing."""

    def setup(self, config: dict[str, Any]) -> None:
        """Prepare the trial, in the worker's process."""
        trainable.Run, replicates.run_epochs = _Run, _train  # type: ignore[assignment, misc]
        if os.environ.get(BARE):
            replicates.checkpoint.save = lambda *_, **__: Path()  # type: ignore[assignment]
        super().setup(config)


def measure(*, bare: bool, at_once: bool = False, trials: int = TRIALS) -> dict[str, float]:
    """Seconds of the whole search after Ray has started, and of its steady part."""
    import tune
    from tune.cluster import local_ray
    from tune.findings.study import load_study
    from tune.worker.task import PRELOAD

    options = {"epochs": 1, "concurrent": 2, "labels": 20, "name": "idle", "settings": {"threads": 1}}
    options["warmup_cache"] = 0  # nothing is trained
    with ExitStack() as stack:
        stack.enter_context(mock.patch("tune.engine.ray_loop.TrialTrainable", IdleTrainable))
        if at_once:
            stack.enter_context(mock.patch("tune.tracking.sender_process.Popen", started_at_once))
        if bare:
            stack.enter_context(mock.patch.dict(os.environ, {BARE: "1"}))
            stack.enter_context(without_tracking())
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        _migrated(place)
        stack.enter_context(local_ray.running(2, PRELOAD))
        began, clock = time.monotonic(), time.time()
        tune.search("supervised", trials=trials, home=place, quiet=True, **options)  # type: ignore[arg-type]
        seconds = time.monotonic() - began
        study = load_study("idle", home=place)
        assert [r.state for r in study.records()] == ["completed"] * trials
        ends = _ends(study.folder.optuna_db)
    return {
        "trials": trials,
        "seconds": seconds,
        "seconds_a_trial": seconds / trials,
        "steady": (ends[-1] - ends[9]) / (trials - 10),
        "first": ends[0] - clock,
        "after": seconds - (ends[-1] - clock),
    }


def _ends(database: Path) -> list[float]:
    """When each trial was told, in order."""
    import optuna

    study = optuna.load_study(study_name="idle", storage=f"sqlite:///{database}")
    return sorted(t.datetime_complete.timestamp() for t in study.trials if t.datetime_complete is not None)


def _migrated(home: Path) -> None:
    """MLflow makes its tables once for each home, which is not a trial's cost."""
    from mlflow.tracking import MlflowClient

    MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}").search_experiments(max_results=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--bare", action="store_true", help="without checkpoints and tracking")
    parser.add_argument("--at-once", action="store_true", help="senders and figures give way to nothing")
    parser.add_argument("--trials", type=int, default=TRIALS)
    options = parser.parse_args()
    row = measure(bare=options.bare, at_once=options.at_once, trials=options.trials)
    print(
        f"{row['trials']} trials in {row['seconds']:.1f} s after Ray had started: {row['seconds_a_trial']:.3f} s a "
        f"trial, {row['steady']:.3f} s once the workers were there\nthe first trial ended after {row['first']:.1f} s, "
        f"and {row['after']:.1f} s after the last the study had, with its deliveries"
    )


if __name__ == "__main__":
    main()
