"""Ctrl-C, SIGTERM and SIGKILL in real processes, and what `resume` makes of what they leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from ssl_core.training import checkpoint
from tests.tune.helpers import (
    Done,
    carry_on_words,
    driver,
    mlflow_runs,
    mlflow_steps,
    reports,
    shapes_options,
    signal_when,
    told,
    wait_until,
    words_of,
)
from tune.delivery.sender import deliver
from tune.findings.study import Study, load_study
from tune.store.event_log import EventLog
from tune.store.home import Home

Command = Callable[..., Done]
History = list[dict[str, Any]]
ROOT = Path(__file__).resolve().parents[3]


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
            told = {report.epoch: dict(report.metrics) for report in log.reports(f"{study.name}/{trial}")}
            for metrics in told.values():  # made of several epochs, no part of a checkpoint
                del metrics["val/error_and_loss"]
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


def ended(status: dict[str, Any]) -> int:
    """Trials that are over. Fewer than all: the study was caught in the middle, be it within a trial or between two."""
    return sum(status["trials"][state] for state in ("completed", "stopped_early", "failed"))


def check_interrupted(home: Home, output: str, words: list[str]) -> dict[str, History]:
    """A study that was asked to stop: its table is shown, its trials wait, and MLflow has none that runs."""
    assert "study shapes: best" in output and words[:2] == ["resume", "shapes"]
    study = load_study("shapes", home=home.path)
    status = study.status()
    assert status["state"] == "interrupted" and ended(status) < 6
    assert deliver(study.folder.path, 60) == 0  # what the driver did not wait for
    runs = mlflow_runs(home)
    assert not [name for name, run in runs.items() if run.info.status == "RUNNING"]
    assert runs["shapes"].data.tags["ssl.stop_reason"] == "user"
    for record in study.records():
        if record.state == "running" and f"trial {record.trial}" in runs:
            assert runs[f"trial {record.trial}"].info.status == "KILLED"
            assert "ssl.stop_reason" not in runs[f"trial {record.trial}"].data.tags
    return kept_histories(study)


def kept_histories(study: Study) -> dict[str, History]:
    """What the checkpoints hold: at least every epoch that was reported."""
    kept = histories(study)
    for record in study.records():
        if record.state == "running":
            assert len(kept.get(record.trial, [])) >= record.epoch, record
    return kept


def family(pid: int) -> list[psutil.Process]:
    """The processes of a driver that could still work on its study: Ray's, and the one that delivers to MLflow.

    Ray's two agents look once a minute whether they are still needed.
    """
    children = psutil.Process(pid).children(recursive=True)
    return [process for process in children if "Agent" not in " ".join(process.cmdline())]


def test_a_study_that_was_killed_interrupted_and_terminated_equals_one_that_was_not(
    finished: Home, ready_home: Home, pictures: Path, ssl_tune: Command
) -> None:
    options = shapes_options(ready_home, pictures)
    folder = ready_home.study_folder("shapes")
    # A cluster that RAY_ADDRESS names is not asked: a search runs on this machine.
    command = ["search", *words_of(options), "--home", ready_home.path]
    with driver(*command, RAY_ADDRESS="127.0.0.1:1") as process:
        wait_until(lambda: reports(folder) >= 3, process)
        process.send_signal(
            signal.SIGSTOP
        )  # it is killed in the middle of a trial, however long the looks below take
        refused = ssl_tune("resume", "shapes")
        assert refused.code == 8 and f"process {process.pid}" in refused.err and refused.out == ""
        assert ssl_tune("status", "shapes", "--json").document["state"] == "running"
        started = family(process.pid)
        process.kill()
        process.wait()
    study = load_study("shapes", home=ready_home.path)
    status = study.status()
    assert status["state"] == "interrupted" and status["trials"]["completed"] < 6
    killed = kept_histories(study)

    with driver("resume", "shapes", "--home", ready_home.path) as process:
        before = reports(folder)
        wait_until(lambda: reports(folder) >= before + 6, process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to everything that runs in it
        output, errors = process.communicate(timeout=240)
    assert process.returncode == 130, errors
    assert "stopping: trials end their epoch" in errors and "Traceback" not in errors
    assert "Carry on with: ssl-tune resume shapes --home" in output
    check_nothing_is_redone(killed, study)
    interrupted = check_interrupted(ready_home, output, carry_on_words(output))

    before = reports(folder)
    with signal_when(lambda: reports(folder) >= before + 3, signal.SIGTERM):
        done = ssl_tune(*carry_on_words(output))
    assert done.code == 143, done
    check_nothing_is_redone(interrupted, study)
    terminated = check_interrupted(ready_home, done.out, carry_on_words(done.out))

    done = ssl_tune(*carry_on_words(done.out))
    assert done.code == 0, done
    assert "Carry on with" not in done.out and "best: trial" in done.out
    assert f"ssl-tune export shapes --home {ready_home.path} -o best.yaml" in done.out
    assert "6/6 trials ended" in done.err and "epochs/s" in done.err
    check_nothing_is_redone(terminated, study)
    check_whole(ready_home, study, 6)

    assert told(ready_home) == told(finished)
    # What the killed driver had started ended by itself.
    assert not [p for p in started if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_sigterm_reaches_our_handler_after_ray_was_started() -> None:
    script = (
        "import os, signal\n"
        "from tune.cluster.local_ray import ray, start_ray\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('ours', flush=True))\n"
        "start_ray(1, 'tune.worker.task'); os.kill(os.getpid(), signal.SIGTERM)\n"
        "ray.shutdown()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | {"RAY_preload_python_modules": ""},  # nothing is trained
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert (done.returncode, done.stdout) == (0, "ours\n"), done.stderr
