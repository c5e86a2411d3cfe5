"""optuna-dashboard opens a study's storage as it is."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.tune.findings.test_views import summary
from tests.tune.helpers import make_study
from tests.tune.servers import free_port, needed
from tune.store.home import Home
from tune.store.layout import sqlite_url
from tune.trials.reading import read_records
from tune.trials.study_trials import StudyTrials


def test_optuna_dashboard_reads_the_study_also_while_it_runs(home: Home, tmp_path: Path) -> None:
    needed("optuna-dashboard", importlib.util.find_spec("optuna_dashboard"), "pip install optuna-dashboard")
    folder, spec = make_study(home)
    trials = StudyTrials(folder, spec)
    for number, error in enumerate((30.0, 20.0)):
        trials.ask()
        for epoch in range(1, 4):
            trials.report(number, summary(epoch, error - epoch))
    trials.end(0, "asha")
    port = free_port()
    program = str(Path(sys.executable).with_name("optuna-dashboard"))
    command = [
        sys.executable,
        "-X",
        "faulthandler",
        program,
        sqlite_url(folder.optuna_db),
        "--port",
        str(port),
    ]
    told = tmp_path / "dashboard.log"
    with (
        told.open("wb") as output,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=output) as server,
    ):
        try:
            (listed,) = _ask(port, "studies", server, told)["study_summaries"]
            assert listed["study_name"] == spec.name
            found = _ask(port, f"studies/{listed['study_id']}", server, told)["trials"]
        finally:
            server.kill()
    assert [trial["state"] for trial in found] == ["Pruned", "Running"]
    assert {p["name"] for p in found[0]["params"]} == {p.name for p in spec.search_space().parameters}
    steps = [(value["step"], value["value"]) for value in found[1]["intermediate_values"]]
    assert steps == [(epoch - 1, 20.0 - epoch) for epoch in (2, 3)]  # the warm-up's epoch has no rung
    assert len(read_records(folder)) == 2  # nothing that we read has changed


def _ask(port: int, what: str, server: subprocess.Popen[bytes], told: Path) -> Any:
    """What the dashboard answers; where it does not, it says where it hangs (faulthandler)."""
    deadline = time.monotonic() + 240
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/{what}", timeout=30) as answer:
                return json.load(answer)
        except (urllib.error.URLError, OSError):
            assert server.poll() is None, told.read_text()
            if time.monotonic() >= deadline:
                server.send_signal(signal.SIGABRT)
                server.wait(30)
                pytest.fail(f"no answer: {told.read_text()}")
            time.sleep(0.05)
