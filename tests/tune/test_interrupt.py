"""Ctrl-C, SIGTERM and SIGKILL in real processes, and what `resume` makes of what they leave."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

import tune
from ssl_core import checkpoint
from tests.tune.helpers import (
    Done,
    carry_on_words,
    driver,
    mlflow_runs,
    mlflow_steps,
    reports,
    shapes_options,
    wait_until,
    words_of,
)
from tune.events import EventLog
from tune.home import Home
from tune.study import Study, load_study

Command = Callable[..., Done]
History = list[dict[str, Any]]


def histories(study: Study) -> dict[str, History]:
    """What the newest checkpoint of every trial says of its epochs, their seconds among it."""
    found = {}
    for folder in study.folder.trials.glob("*"):
        state = checkpoint.load_newest(folder)
        if state is not None:
            found[folder.name] = state["history"]
    return found


def check_nothing_is_redone(before: dict[str, History], study: Study) -> None:
    """Every epoch that had a checkpoint is still that very one: even its seconds are the same."""
    after, survivors = histories(study), 0
    for trial, history in before.items():
        if trial in after:  # checkpoints of stopped trials are gone
            assert after[trial][: len(history)] == history, trial
            survivors += 1
    with EventLog(study.folder.events_db, read_only=True) as log:
        for trial, history in before.items():
            told = {report.epoch: report.metrics for report in log.reports(f"{study.name}/{trial}")}
            for epoch in history:
                assert told[epoch["epoch"]] == epoch["metrics"], (trial, epoch["epoch"])
    assert survivors or not before


def check_whole(home: Home, study: Study, trials: int) -> None:
    """No trial is lost and none is there twice, in Optuna and in MLflow; every epoch is there once."""
    records = study.records()
    assert [r.trial for r in records] == [str(n) for n in range(trials)]
    assert {r.state for r in records} <= {"completed", "stopped_early"}
    runs = mlflow_runs(home)
    assert set(runs) == {study.name, *(f"trial {n}" for n in range(trials))}
    assert runs[study.name].info.status == "FINISHED"
    for record in records:
        run = runs[f"trial {record.trial}"]
        assert run.info.status == ("FINISHED" if record.state == "completed" else "KILLED")
        assert run.data.tags["ssl.stop_reason"] == record.stop_reason
        assert run.data.tags["mlflow.parentRunId"] == runs[study.name].info.run_id
        for metric in ("val/error", "lr"):
            assert mlflow_steps(home, run, metric) == list(range(1, record.epoch + 1))
    with EventLog(study.folder.events_db, read_only=True) as log:
        assert log.pending() == 0 and log.dead() == []


def check_interrupted(home: Home, output: str, words: list[str]) -> dict[str, History]:
    """A study that was asked to stop: its table is shown, its trials wait, and MLflow has none that runs."""
    assert "study shapes: best" in output and words == ["resume", "shapes", "--home", str(home.path)]
    study = load_study("shapes", home=home.path)
    status = study.status()
    assert status["state"] == "interrupted" and status["trials"]["running"] >= 1
    assert status["tracking"]["pending"] == 0
    runs = mlflow_runs(home)
    assert not [name for name, run in runs.items() if run.info.status == "RUNNING"]
    assert runs["shapes"].data.tags["ssl.stop_reason"] == "user"
    kept = histories(study)
    for record in study.records():
        if record.state == "running":
            assert runs[f"trial {record.trial}"].info.status == "KILLED"
            assert "ssl.stop_reason" not in runs[f"trial {record.trial}"].data.tags
            # The epoch under way is ended and kept, although nobody heard of it any more.
            assert len(kept.get(record.trial, [])) >= record.epoch
    return kept


def test_sigterm_and_ctrl_c_are_carried_on_with_the_line_they_print(
    local_ray: None, ready_home: Home, pictures: Path, ssl_tune: Command
) -> None:
    options = shapes_options(ready_home, pictures) | {"epochs": 27, "concurrent": 2}
    folder = ready_home.study_folder("shapes")
    where = ["--home", ready_home.path]
    with driver("search", *words_of(options), *where) as process:
        wait_until(lambda: reports(folder) >= 8, process)
        refused = ssl_tune("resume", "shapes")
        assert refused.code == 8 and f"process {process.pid}" in refused.err and refused.out == ""
        assert ssl_tune("status", "shapes", "--json").document["state"] == "running"
        assert ssl_tune("search", "--name", "shapes").code == 2
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=240)
    assert process.returncode == 143, errors
    assert "stopping: trials end their epoch" in errors and "Traceback" not in errors
    words = carry_on_words(output)
    first = check_interrupted(ready_home, output, words)

    with driver(*words) as process:
        before = reports(folder)
        wait_until(lambda: reports(folder) >= before + 8, process)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=240)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    words = carry_on_words(output)
    study = load_study("shapes", home=ready_home.path)
    check_nothing_is_redone(first, study)
    second = check_interrupted(ready_home, output, words)

    done = ssl_tune(*words)
    assert done.code == 0, done
    assert "Carry on with" not in done.out
    check_nothing_is_redone(second, study)
    check_whole(ready_home, study, 6)
    assert study.folder.state() == "finished"


def family(pid: int) -> list[psutil.Process]:
    """The processes that a driver started: Ray's, and the one that delivers to MLflow."""
    return psutil.Process(pid).children(recursive=True)


def kill(study_folder: Path, least: int, *words: object, **environment: str) -> list[psutil.Process]:
    """Run a driver until its study has so many reports, and SIGKILL it; returns the processes it had."""
    with driver(*words, **environment) as process:
        wait_until(lambda: reports(study_folder) >= least, process)
        started = family(process.pid)
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    return started


def test_a_study_killed_twice_and_resumed_equals_one_that_was_not(
    finished: Home, ready_home: Home, pictures: Path
) -> None:
    options = shapes_options(ready_home, pictures)
    folder = ready_home.study_folder("shapes")
    where = ["--home", ready_home.path]
    # A cluster that RAY_ADDRESS names is not asked: a search runs on this machine.
    started = kill(folder, 3, "search", *words_of(options), *where, RAY_ADDRESS="127.0.0.1:1")
    study = load_study("shapes", home=ready_home.path)
    assert study.folder.state() == "interrupted"
    first = histories(study)
    at_least = reports(folder)
    assert at_least >= 3
    started += kill(folder, at_least + 12, "resume", "shapes", *where)
    check_nothing_is_redone(first, study)
    second = histories(study)

    study = tune.resume("shapes", home=ready_home.path, quiet=True)
    check_nothing_is_redone(second, study)
    check_whole(ready_home, study, 6)

    def told(home: Home) -> list[dict[str, Any]]:
        found = load_study("shapes", home=home.path).records()
        rows = [r.row() | r.params | {"values": r.values, "at": r.intermediate} for r in found]
        return [row | {"seconds": None} for row in rows]

    assert told(ready_home) == told(finished)
    # Ray and the sender end by themselves when their driver is gone.
    deadline = time.monotonic() + 120
    while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in started):
        assert time.monotonic() < deadline, started
        time.sleep(0.2)
