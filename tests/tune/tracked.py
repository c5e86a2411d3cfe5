"""A home folder with a real MLflow store and one study's event log, for tests of tracking alone."""

from __future__ import annotations

import math
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tune.events import EventLog
from tune.tracking import Tracker

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENT = "digits@100"
TAGS = {"ssl.method": "vat", "ssl.dataset": "digits", "ssl.labels": "100", "ssl.split_hash": "abc123"}
POINT = "SELECT key, step, timestamp, value, is_nan FROM metrics WHERE run_uuid = ?"


class Home:
    """A home folder with a store and one study."""

    def __init__(self, path: Path, migrated: Path) -> None:
        self.path = path
        self.database = path / "mlflow.db"
        self.uri = f"sqlite:///{self.database}"
        self.study = path / "studies" / "s"
        path.mkdir()
        shutil.copy(migrated, self.database)
        self.log = EventLog(self.study / "events.db")

    def tracker(self, uri: str | None = None, **options: Any) -> Tracker:
        return Tracker(
            self.log,
            study="s",
            tracking_uri=uri or self.uri,
            experiment=EXPERIMENT,
            common_tags=TAGS,
            **options,
        )

    def client(self) -> Any:
        from mlflow.tracking import MlflowClient

        return MlflowClient(tracking_uri=self.uri)

    def runs(self) -> dict[str, Any]:
        """Every run in the whole store by its name; two of one name, or strays elsewhere, fail."""
        client = self.client()
        experiments = client.search_experiments()
        found = client.search_runs([item.experiment_id for item in experiments])
        names = [run.info.run_name for run in found]
        assert len(names) == len(set(names)), names
        return {run.info.run_name: run for run in found}

    def points(self, run: Any) -> Counter[tuple[str, int, int, str]]:
        """Every stored point of a run, straight from the database."""
        with sqlite3.connect(self.database) as db:
            rows = db.execute(POINT, [run.info.run_id]).fetchall()
        return Counter((k, s, t, (math.nan if nan else float(v)).hex()) for k, s, t, v, nan in rows)

    def expected(self, run: str) -> Counter[tuple[str, int, int, str]]:
        """What the log says the run's points are."""
        return Counter(
            (name, report.epoch, report.time_ms, value.hex())
            for report in self.log.reports(run)
            for name, value in report.metrics.items()
        )

    def sender(self, fault: str = "") -> int:
        """Run the sender process until it ends by itself; returns its exit status."""
        command = [sys.executable, "-m", "tune.sender", str(self.study)]
        env = {**os.environ, "SSL_TUNE_FAULT": fault, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, env=env, check=False, capture_output=True, timeout=60).returncode
