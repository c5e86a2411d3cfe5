"""Studies that only report, MLflow stores to report to, and a comparison of the two point by point."""

from __future__ import annotations

import math
import os
import shutil
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.tune.loaded_sender import ForkedSender
from tune.delivery.sender import configure_mlflow, serve
from tune.store.event_log import EventLog
from tune.tracking.tracker import Tracker

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENT = "digits@100"
TAGS = {"ssl.method": "vat", "ssl.dataset": "digits", "ssl.labels": "100", "ssl.split_hash": "abc123"}
POINTS = "SELECT key, step, timestamp, value, is_nan FROM metrics WHERE run_uuid = "
LARGEST = sys.float_info.max  # MLflow's way to keep infinity

Points = Counter[tuple[str, int, int, str]]


class Store:
    """A SQLite database that MLflow writes to, looked at from outside."""

    def __init__(self, database: Path, uri: str | None = None) -> None:
        self.database = database
        self.uri = uri or f"sqlite:///{database}"
        self._before: set[str] = set()

    def client(self) -> Any:
        """MLflow's client."""
        from mlflow.tracking import MlflowClient

        return MlflowClient(tracking_uri=self.uri)

    def all_runs(self) -> list[Any]:
        """Every run in use in the whole store, less those that were there before."""
        client = self.client()
        found: list[Any] = []
        for experiment in client.search_experiments():
            found += client.search_runs([experiment.experiment_id], max_results=5000)
        return [run for run in found if run.info.run_id not in self._before]

    def ignore_what_is_there(self) -> None:
        """Count as this test's own only what comes from now on: for a store that tests share."""
        self._before |= {run.info.run_id for run in self.all_runs()}

    def runs(self) -> dict[str, Any]:
        """Every run by its name; two of one name, or strays elsewhere, fail."""
        found = self.all_runs()
        names = [run.info.run_name for run in found]
        assert len(names) == len(set(names)), sorted(names)
        return {run.info.run_name: run for run in found}

    def rows(self, run_id: str) -> list[tuple[Any, ...]]:
        """A run's points as the database has them."""
        with sqlite3.connect(self.database) as db:
            return db.execute(f"{POINTS} ?", [run_id]).fetchall()

    def points(self, run: Any) -> Points:
        """Every stored point of a run, straight from the database."""
        return Counter(
            (str(key), int(step), int(time), (math.nan if nan else float(value)).hex())
            for key, step, time, value, nan in self.rows(run.info.run_id)
        )


class Home:
    """A home folder with one study, `s`, tracked in a store."""

    def __init__(self, path: Path, store: Store, study: str = "s") -> None:
        self.path, self.store, self.name = path, store, study
        self.tracking_uri = store.uri
        self.study = path / "studies" / study
        self.log = EventLog(self.study / "events.db")

    def tracker(self, uri: str | None = None, **options: Any) -> Tracker:
        """A driver's side of tracking."""
        return Tracker(
            self.log,
            study=self.name,
            tracking_uri=uri or self.tracking_uri,
            experiment=EXPERIMENT,
            common_tags=TAGS,
            **options,
        )

    def runs(self) -> dict[str, Any]:
        """See `Store.runs`."""
        return self.store.runs()

    def points(self, run: Any) -> Points:
        """See `Store.points`."""
        return self.store.points(run)

    def expected(self, run: str) -> Points:
        """What the log says the run's points are."""
        return Counter(
            (name, report.epoch, report.time_ms, value.hex())
            for report in self.log.reports(run)
            for name, value in report.metrics.items()
        )

    def sender(self, fault: str = "") -> int:
        """Run the sender process until it ends by itself; returns its exit status."""
        words = [sys.executable, "-P", "-m", "tune.delivery.sender", str(self.study)]
        with (self.study / "sender.log").open("ab") as output:
            process = ForkedSender(words, stdout=output, env={**os.environ, "SSL_TUNE_FAULT": fault})
        return process.wait(180)

    @contextmanager
    def sending(self) -> Iterator[None]:
        """A sender at work in a thread; at the end the log is complete, and it delivers the rest."""
        configure_mlflow()
        self.log.set_meta("complete", None)
        with EventLog(self.log.path) as log:
            thread = threading.Thread(target=serve, args=(log, None))
            thread.start()
            try:
                yield
            finally:
                self.log.set_meta("complete", "1")
                thread.join(60)
            assert not thread.is_alive(), self.log.get_meta("problem")


def tracked_home(path: Path, migrated_store: Path) -> Home:
    """A home with a SQLite store of its own."""
    path.mkdir()
    shutil.copy(migrated_store, path / "mlflow.db")
    return Home(path, Store(path / "mlflow.db"))


def metrics(epoch: int) -> dict[str, float]:
    """An epoch's metrics."""
    return {"val/error": 50.0 / epoch, "val/loss": 0.1 * epoch, "lr": 0.03}


def start(tracker: Tracker, *trials: str) -> None:
    """A study and its trials begin."""
    tracker.study_started({"method": "vat", "trials": len(trials)}, "study: s\n")
    for trial in trials:
        searched = {"vat": {"eps": 2.5 + int(trial)}, "warmup_epochs": 10}
        tracker.trial_started(trial, searched, {"lr": 0.03, "nesterov": True}, f"trial: {trial}\n")


def check_exact(home: Home) -> None:
    """MLflow has what the log says, run by run and point by point, and nothing else."""
    log, runs = home.log, home.runs()
    assert (log.pending(), log.dead()) == (0, [])
    study_id = log.get_meta("study_id")
    by_key = {run.data.tags["ssl.run_key"]: run for run in runs.values()}
    assert set(by_key) == {f"{study_id}:{run}" for run in log.runs()}
    for key in log.runs():
        run, first = by_key[f"{study_id}:{key}"], log.find(f"{key}:start")
        params, last = log.find(f"{key}:params"), log.last(key, "status")
        assert first is not None and params is not None
        parent: Any = first.payload["parent"]
        parent_id = by_key[f"{study_id}:{parent}"].info.run_id if parent else None
        assert run.data.tags.get("mlflow.parentRunId") == parent_id
        pairs: Any = params.payload["params"]
        best = log.find(f"{key}:best")  # a study's best parameters, known at its end
        found_best: Any = [] if best is None else best.payload["params"]
        assert run.data.params == dict([*pairs, *found_best])
        assert run.info.status == ("RUNNING" if last is None else last.payload["status"])
        wanted = home.expected(key)
        found = home.points(run)
        assert not wanted - found, f"{key} lacks points"
        assert max(found.values(), default=1) == 1, f"{key} has points twice"
        assert {name for name, *_ in found - wanted} <= {"best/val_error"}, f"{key} has points too many"
