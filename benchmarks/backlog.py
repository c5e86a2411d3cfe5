"""A back-log of events, and the same points for MLflow's own client; a part of the benchmark `tracking`."""

from __future__ import annotations

import time
from pathlib import Path

from tune.store.event_log import EventLog
from tune.store.events import NewEvent, now_ms
from tune.tracking.tracker import Tracker

METRIC_NAMES = (
    *("val/error", "val/loss", "train/loss", "train/loss_supervised", "train/loss_unsupervised"),
    *("ssl/mask_rate", "ssl/pseudo_label_accuracy", "lr", "time/epoch_seconds", "images_per_second"),
)
CALL = 1000  # points a call, as many as MLflow takes


class Backlog:
    """Runs whose metrics are owed, and the same ones for MLflow's own client.

    Args:
        folder: of the study.
        uri: where the sender delivers to.
        raw_uri: where MLflow's client logs.
        runs: how many; in quarters.
    """

    def __init__(self, folder: Path, uri: str, raw_uri: str, runs: int) -> None:
        from mlflow.tracking import MlflowClient

        from tune.delivery.deliverer import Deliverer
        from tune.delivery.sender import configure_mlflow

        configure_mlflow()
        self.runs = runs
        self.log = EventLog(folder / "events.db")
        self.tracker = Tracker(
            self.log,
            study="backlog",
            tracking_uri=uri,
            experiment="backlog",
            common_tags={"ssl.method": "vat"},
        )
        self.sender = Deliverer(self.log)
        self.client = MlflowClient(tracking_uri=raw_uri)

    def make_runs(self) -> float:
        """Deliver every run's start, parameters and configuration; seconds a run."""
        self.tracker.study_started({}, "study\n")
        for run in range(self.runs):
            self.tracker.trial_started(str(run), {"vat.eps": 1.0 + run}, {"lr": 0.03}, "config\n")
        began = time.perf_counter()
        self.sender.deliver_pending()
        return (time.perf_counter() - began) / self.runs

    def owe(self, first: int, last: int) -> None:
        """Append the metrics of some runs, a hundred epochs of each."""
        now = now_ms()
        for run in range(first, last):
            key = self.tracker.run_key(str(run))
            self.log.append_many(
                NewEvent("metrics", key, {"epoch": epoch, "metrics": values(epoch)}, None, now + epoch)
                for epoch in range(1, 101)
            )

    def deliver(self) -> float:
        """Seconds that the sender's code takes for what is owed."""
        began = time.perf_counter()
        self.sender.deliver_pending()
        assert self.log.pending() == 0 and self.log.refused() == 0
        return time.perf_counter() - began

    def log_batches(self, experiment: str, count: int) -> float:
        """Seconds that MLflow's own client takes for the same number of points of other runs."""
        from mlflow.entities import Metric

        runs = [self.client.create_run(experiment).info.run_id for _ in range(count)]
        now = now_ms()
        began = time.perf_counter()
        for run in runs:
            points = [
                Metric(name, value, now + epoch, epoch)
                for epoch in range(1, 101)
                for name, value in values(epoch).items()
            ]
            for start in range(0, len(points), CALL):
                self.client.log_batch(run, metrics=points[start : start + CALL])
        return time.perf_counter() - began


def values(epoch: int) -> dict[str, float]:
    """An epoch's ten metrics."""
    return {name: number + 1 / epoch for number, name in enumerate(METRIC_NAMES)}
