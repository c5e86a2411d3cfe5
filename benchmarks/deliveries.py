"""What a trial's run costs on its way to MLflow, on SQLite: in transactions that runs share, and call by call.

    python -m benchmarks.deliveries --runs 100 --rounds 3

The events are those of the real recorder and tracker for trials of at most two epochs that do nothing
(`benchmarks.scale`); no figures. The sender's own code delivers them into a database of its own, in turns as it is and
call by call: each call of MLflow commits for itself, and each run is looked for before it is made. Commits are counted
by SQLite in the file's header. Waiting for the disk takes no processor time.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

from benchmarks.scale import Simulation
from tune.delivery.deliverer import Deliverer
from tune.delivery.mlflow_runs import Destination
from tune.delivery.sender import configure_mlflow
from tune.store.event_log import EventLog
from tune.store.home import Home
from tune.store.layout import sqlite_url
from tune.tracking.destination import note_destination

KINDS = {"together": "in shared transactions", "single": "call by call, each run looked for"}


def owe(home: Path, runs: int) -> Path:
    """A study whose trials have all ended and are owed; its event log."""
    os.environ["SSL_TUNE_FIGURES"] = "0"
    study = Simulation(Home(home), runs, 2, 2)
    study.run(float("inf"))
    study.tracker.study_ended("finished", {})
    study.log.close()
    study.records.close()
    return study.folder.events_db


def deliver(events: Path, empty: Path, kind: str) -> dict[str, float]:
    """Deliver a copy of the log into a copy of the empty database; what that took, for each run."""
    with tempfile.TemporaryDirectory(prefix="ssl-tune-deliveries-") as folder, ExitStack() as stack:
        database, copied = Path(folder) / "mlflow.db", Path(folder) / "study" / events.name
        copied.parent.mkdir()
        shutil.copy(empty, database)
        shutil.copy(events, copied)
        log = stack.enter_context(EventLog(copied))
        note_destination(log, sqlite_url(database), log.get_meta("experiment") or "")
        if kind == "single":
            stack.enter_context(mock.patch("tune.delivery.mlflow_runs.joining", lambda client: None))
            stack.enter_context(mock.patch.object(Destination, "_has_runs", lambda place: True))
        delivering, runs = Deliverer(log), len(log.runs())
        delivering.place.connect()  # loads MLflow, once in a process
        before, began, busy = _commits(database), time.perf_counter(), time.process_time()
        delivering.deliver_pending()
        seconds, processor = time.perf_counter() - began, time.process_time() - busy
        assert log.pending() == log.refused() == 0
        return {
            "seconds": seconds / runs,
            "processor": processor / runs,
            "commits": (_commits(database) - before) / runs,
        }


def _commits(database: Path) -> int:
    return int.from_bytes(database.read_bytes()[24:28], "big")  # https://sqlite.org/fileformat.html


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description="what a trial's run costs on its way to MLflow")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    configure_mlflow()
    with tempfile.TemporaryDirectory(prefix="ssl-tune-owed-") as folder:
        from mlflow.tracking import MlflowClient

        empty = Path(folder) / "mlflow.db"
        MlflowClient(tracking_uri=sqlite_url(empty)).search_experiments(max_results=1)
        events = owe(Path(folder) / "home", options.runs)
        rows: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
        for _ in range(options.rounds):
            for kind in KINDS:
                rows[kind].append(deliver(events, empty, kind))
    print("| a run | ms | ms of a processor | commits |\n|---|---|---|---|")
    for kind, found in rows.items():
        ms, busy, commits = (
            statistics.median(row[name] for row in found) for name in ("seconds", "processor", "commits")
        )
        print(f"| {KINDS[kind]} | {1000 * ms:.1f} | {1000 * busy:.1f} | {commits:.2f} |")


if __name__ == "__main__":
    main()
