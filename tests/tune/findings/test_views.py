"""What `studies`, `status` and `trials` show: documents for machines, tables for people and notebooks."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import tune
from tests.tune.helpers import Done, make_study, note_trials
from tune.findings.study import load_study
from tune.store.home import Home
from tune.trials.study_trials import StudyTrials

ROOT = Path(tune.__file__).parent.parent
Command = Callable[..., Done]
STATUS = {"study", "state", "method", "dataset", "protocol", "labels", "objective", "trials", "best"}
STATUS |= {
    "tracking",
    "cost",
    "created",
    "running",
    "seconds_left",
    "doubts",
    "pinned",
    "history",
    "outlook",
    "expected",
}
BEST = {
    "trial",
    "val_error",
    "val_error_balanced",
    "val_loss",
    "val_error_and_loss",
    "epoch",
    "params",
    "full_budget",
}
MEASURED = ("val_error", "val_error_balanced", "val_loss", "val_error_and_loss")
TRIAL = {"trial", "state", "stop_reason", *MEASURED, "epoch", "ssl_epoch", "params"}


def test_status_as_json(ssl_tune: Command, finished: Home, pictures: Path) -> None:
    done = ssl_tune("status", "shapes", "--home", finished.path, "--json")
    assert done.code == 0 and done.err == ""
    status = done.document
    assert set(status) == STATUS and set(status["best"]) == BEST
    assert status["study"] == "shapes" and status["state"] == "finished"
    assert status["method"] == "pseudo_label" and status["labels"] == 12
    assert status["dataset"] == f"folder:{pictures}"
    assert status["trials"] == {"total": 6, "completed": 3, "stopped_early": 3, "failed": 0, "running": 0}
    uri = f"sqlite:///{finished.path}/mlflow.db"
    assert status["tracking"] == {"uri": uri, "pending": 0, "refused": 0, "problem": None}
    assert status == json.loads(json.dumps(load_study("shapes", home=finished.path).status()))


def test_the_best_is_the_lowest_error_at_full_budget_ties_by_loss(finished: Home) -> None:
    study = load_study("shapes", home=finished.path)
    best = study.best()
    assert best is not None and best["full_budget"]
    completed = study.trials().query("state == 'completed'").sort_values(["val_error", "val_loss"])
    assert best["trial"] == completed.iloc[0]["trial"] and best["val_error"] == completed.iloc[0]["val_error"]
    assert best["epoch"] == 6 and set(best["params"]) == {"lr", "warmup_epochs"}


def test_trials_as_json_are_in_order_of_creation_with_exactly_these_keys(
    ssl_tune: Command, finished: Home
) -> None:
    done = ssl_tune("trials", "shapes", "--home", finished.path, "--json")
    assert done.code == 0 and done.err == ""
    trials = done.document
    assert all(set(trial) == TRIAL for trial in trials)
    assert [trial["trial"] for trial in trials] == [str(n) for n in range(6)]
    for trial in trials:
        reason = {"completed": "completed", "stopped_early": "asha"}[trial["state"]]
        assert trial["stop_reason"] == reason
        assert trial["ssl_epoch"] == trial["epoch"] - trial["params"]["warmup_epochs"]
        assert trial["epoch"] == 6 if reason == "completed" else trial["ssl_epoch"] == 2
        assert 0 <= trial["val_error"] <= 100
    assert trials[0]["params"] == {"lr": 0.05, "warmup_epochs": 1}


def test_trials_as_csv_are_the_table_of_the_notebook(ssl_tune: Command, finished: Home) -> None:
    done = ssl_tune("trials", "shapes", "--home", finished.path, "--csv")
    assert done.code == 0 and done.err == ""
    read = pd.read_csv(io.StringIO(done.out), dtype={"trial": str})
    table = tune.load_study("shapes", home=finished.path).trials()
    pd.testing.assert_frame_equal(read, table, check_dtype=False)
    assert list(table.columns) == [
        "trial",
        "state",
        "stop_reason",
        *MEASURED,
        "epoch",
        "ssl_epoch",
        "seconds",
        "lr",
        "warmup_epochs",
    ]


def test_curves_have_every_finished_epoch_once(finished: Home) -> None:
    study = tune.load_study("shapes", home=finished.path)
    curves = study.curves()
    for record in study.records():
        mine = curves[curves["trial"] == record.trial]
        assert list(mine["epoch"]) == list(range(1, record.epoch + 1))
        assert mine["val/error"].iloc[-1] == record.val_error and mine["val/loss"].iloc[-1] == record.val_loss
    wanted = {"val/error", "val/loss", "train/loss", "lr", "time/epoch_seconds", "images_per_second"}
    assert wanted <= set(curves.columns)
    assert not [column for column in curves.columns if "test" in column or column in ("pid", "timestamp")]


def test_studies_as_json_and_for_people(ssl_tune: Command, copied: Home) -> None:
    make_study(copied, name="young", trials=3)
    done = ssl_tune("studies", "--json")
    assert done.code == 0 and done.err == ""
    listed = done.document
    assert [d["study"] for d in listed] == ["shapes", "young"] and all(set(d) == STATUS for d in listed)
    assert [d["state"] for d in listed] == ["finished", "interrupted"]
    assert listed[1]["best"] is None and listed[1]["trials"]["total"] == 3
    shown = ssl_tune("studies")
    assert shown.code == 0 and "6/6" in shown.out and "0/3" in shown.out


def test_a_home_without_studies_says_how_to_start_one(ssl_tune: Command, home: Home) -> None:
    assert ssl_tune("studies", "--json").document == []
    assert "ssl-tune search" in ssl_tune("studies").out
    assert not home.path.exists()


def test_status_for_people_names_the_best_and_what_the_data_resolve(
    ssl_tune: Command, finished: Home
) -> None:
    done = ssl_tune("status", "shapes", "--home", finished.path)
    assert done.code == 0 and done.err == ""
    best = load_study("shapes", home=finished.path).status()["best"]
    assert f"best: trial {best['trial']}, val/error {best['val_error']:.2f} %" in done.out
    assert "12 validation images resolve about" in done.out  # equal points were drawn: a tie
    assert "3 completed, 3 stopped early" in done.out and "carry on" not in done.out


def test_trials_for_people_say_why_each_ended(ssl_tune: Command, finished: Home) -> None:
    done = ssl_tune("trials", "shapes", "--home", finished.path)
    assert done.code == 0
    rows = [line for line in done.out.splitlines() if "stopped early" in line]
    assert len(rows) == 3 and all("asha" in row for row in rows)


def summary(epoch: int, error: float) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "ssl_epoch": None if epoch == 1 else epoch - 1,
        "val_error": error,
        "val_loss": error / 50,
        "seconds": 1.0,
        "stop_reason": None,
    }


def test_a_study_that_was_interrupted_has_running_trials_and_says_how_to_carry_on(
    ssl_tune: Command, home: Home
) -> None:
    folder, spec = make_study(home)
    records = StudyTrials(folder, spec)
    for number, epochs in enumerate((3, 1, 0)):
        records.ask()
        for epoch in range(1, epochs + 1):
            records.report(number, summary(epoch, 40.0 - epoch))
    note_trials(folder, spec, home, range(3))
    status = ssl_tune("status", "s", "--json").document
    assert status["state"] == "interrupted" and status["trials"]["running"] == 3
    # No trial ran the full budget: the deepest one, and it says so.
    assert status["best"]["trial"] == "0" and status["best"]["full_budget"] is False
    assert status["best"]["epoch"] == 3
    trials = ssl_tune("trials", "s", "--json").document
    assert [(t["state"], t["stop_reason"], t["epoch"], t["ssl_epoch"]) for t in trials] == [
        ("running", None, 3, 2),
        ("running", None, 1, None),
        ("running", None, 0, None),
    ]
    assert trials[2]["val_error"] is None and set(trials[2]["params"]) == {
        "pseudo_label.threshold",
        "warmup_epochs",
    }
    shown = ssl_tune("status", "s")
    assert shown.code == 0 and "ssl-tune resume s" in shown.out
    folder.lock()
    assert ssl_tune("status", "s", "--json").document["state"] == "running"


def test_numbers_that_json_lacks_become_null(ssl_tune: Command, home: Home) -> None:
    folder, spec = make_study(home)
    records = StudyTrials(folder, spec)
    records.ask()
    records.report(0, summary(2, float("nan")))
    records.end(0, "nan")
    done = ssl_tune("trials", "s", "--json")
    assert done.document[0]["val_error"] is None and "NaN" not in done.out
    assert done.document[0]["state"] == "failed" and done.document[0]["stop_reason"] == "nan"


@pytest.mark.parametrize("verb", ["status", "trials", "studies"])
def test_reading_writes_nothing(ssl_tune: Command, copied: Home, verb: str) -> None:
    def content() -> dict[Path, tuple[int, int]]:
        files = [p for p in copied.path.rglob("*") if p.is_file() and not p.name.endswith(("-shm", "-wal"))]
        return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in files}

    before = content()
    words = [verb] if verb == "studies" else [verb, "shapes"]
    assert ssl_tune(*words).code == 0
    assert content() == before


def test_the_event_log_says_what_the_views_say(finished: Home) -> None:
    with sqlite3.connect(finished.study_folder("shapes") / "events.db") as log:
        reports = log.execute("SELECT count(*) FROM events WHERE kind = 'metrics'").fetchone()[0]
    epochs = sum(r.epoch for r in load_study("shapes", home=finished.path).records())
    assert reports == epochs + 1  # and the study's summary


@pytest.mark.parametrize("words", [["--help"], ["status", "s"], ["status", "s", "--json"], ["trials", "s"]])
def test_commands_that_only_look_load_no_library_that_they_do_not_use(
    ready_home: Home, words: list[str]
) -> None:
    make_study(ready_home)
    script = (
        "import atexit, sys\n"
        "heavy = {'torch', 'ray', 'mlflow', 'pandas', 'scipy', 'jinja2', 'matplotlib'}\n"
        "atexit.register(lambda: print('loaded', sorted(heavy & set(sys.modules))))\n"
        "from tune.cli import main\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        env={**os.environ, "SSL_TUNE_HOME": str(ready_home.path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "loaded []" and len(done.stdout.splitlines()) > 1
