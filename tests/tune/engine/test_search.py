"""Searches end to end on real Ray: what is recorded, what is sealed, and faults that do not end a study."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

import tune
from search_spaces import load_yaml
from tests.tune.helpers import (
    SMALL,
    Done,
    make_home,
    make_study,
    mlflow_runs,
    mlflow_steps,
    shapes_options,
)
from tune.findings.study import Study, load_study
from tune.store.event_log import EventLog
from tune.store.home import Home
from tune.store.study_folder import StudyFolder
from tune.trials.optuna_storage import open_storage
from tune.trials.study_trials import StudyTrials

Command = Callable[..., Done]

SEALED = ("test/error", "test_error", "test/loss", "test_loss")
"""Words that nothing may hold before a final model has read the test set."""


# What a study leaves, seen in one that is finished: its trials 0, 4 and 5 completed, ASHA stopped the others


def optuna_trials(study: Study) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=study.name, storage=open_storage(study.folder)).trials


def test_the_baseline_is_tried_first_and_asha_stops_what_does_not_learn(finished: Home) -> None:
    records = load_study("shapes", home=finished.path).records()
    assert records[0].params == {"lr": 0.05, "warmup_epochs": 1}
    assert len(records) == 6
    for record in records:
        learns = record.params["lr"] == 0.05
        assert record.state == ("completed" if learns else "stopped_early")
    assert {r.state for r in records} == {"completed", "stopped_early"}


def test_optuna_knows_each_end_and_the_value_that_stopped_a_trial(finished: Home) -> None:
    study = load_study("shapes", home=finished.path)
    for trial, record in zip(optuna_trials(study), study.records(), strict=True):
        assert trial.state == (TrialState.COMPLETE if record.state == "completed" else TrialState.PRUNED)
        assert trial.value == record.val_error
        assert record.ssl_epoch is not None
        assert list(trial.intermediate_values) == list(range(1, record.ssl_epoch + 1))
        assert trial.intermediate_values[record.ssl_epoch] == record.val_error


def test_every_trial_is_one_mlflow_run_with_every_epoch_once(finished: Home) -> None:
    study = load_study("shapes", home=finished.path)
    runs = mlflow_runs(finished)
    assert set(runs) == {"shapes", *(f"trial {n}" for n in range(6))}
    parent = runs["shapes"]
    assert parent.info.status == "FINISHED" and parent.data.tags["ssl.stop_reason"] == "completed"
    best = study.best()
    assert best is not None and parent.data.tags["ssl.best_trial"] == best["trial"]
    assert parent.data.metrics == {"best/val_error": best["val_error"]}
    for record in study.records():
        run = runs[f"trial {record.trial}"]
        stopped = record.state == "stopped_early"
        assert run.info.status == ("KILLED" if stopped else "FINISHED")
        assert mlflow_steps(finished, run) == list(range(1, record.epoch + 1))
        assert run.data.metrics["val/error"] == record.val_error
        tags = run.data.tags
        assert tags["mlflow.parentRunId"] == parent.info.run_id
        assert tags["ssl.trial"] == record.trial and tags["ssl.study"] == "shapes"
        assert tags["ssl.stop_reason"] == ("asha" if stopped else "completed")
        assert tags["ssl.method"] == "pseudo_label" and tags["ssl.labels"] == "12"
        params = run.data.params
        assert float(params["lr"]) == record.params["lr"]
        assert int(params["warmup_epochs"]) == record.params["warmup_epochs"]
        assert not {"pid", "hostname", "timestamp"} & {*params, *run.data.metrics}
    assert all(run.data.tags["ssl.split_hash"] == study.spec.split_hash for run in runs.values())
    with EventLog(study.folder.events_db, read_only=True) as log:
        assert log.pending() == 0 and log.dead() == []


def test_trials_share_everything_that_is_not_searched(finished: Home) -> None:
    configs = []
    for run in mlflow_runs(finished).values():
        if run.info.run_name != "shapes":
            path = finished.artifacts / run.info.run_id / "artifacts" / "config.yaml"
            configs.append(load_yaml(path.read_text(), str(path)))
    first = configs[0]
    differing = {key for config in configs for key in config if config[key] != first[key]}
    assert differing == {"lr", "warmup_epochs"}
    assert first["seed"] == 14 and first["threads"] == 1 and first["data"]["valid"] == 12


def test_the_test_set_is_sealed(finished: Home, shared_folder: Path) -> None:
    # The search came through although none of the test images could be opened once it was ready for its first trial.
    assert (shared_folder / "finished" / "sealed").read_text() == "12"
    assert not finished.test_readings.exists()
    assert not list(finished.cache.rglob("test_images*")) and list(finished.cache.rglob("train_images*"))
    for path in (p for p in finished.path.rglob("*") if p.is_file() and p.stat().st_size < 50e6):
        content = path.read_bytes()
        for words in SEALED:
            assert words.encode() not in content, path


def test_no_database_of_a_search_holds_a_test_error(copied: Home) -> None:
    """Row by row: in the file itself long texts are torn over pages, and what is new is in the write-ahead log."""
    databases = {path.name: path for path in copied.path.rglob("*.db")}
    assert set(databases) == {"mlflow.db", "optuna.db", "events.db"}
    for path in databases.values():
        with closing(sqlite3.connect(path)) as database:
            rows = list(database.iterdump())
        assert any("val/error" in row or "val_error" in row for row in rows), path
        for row in rows:
            assert not any(words in row for words in SEALED), (path, row[:300])


def test_no_metric_parameter_tag_or_log_of_a_search_holds_a_test_error(copied: Home) -> None:
    for run in mlflow_runs(copied).values():
        for names in (run.data.metrics, run.data.params, run.data.tags):
            assert not any(words in f"{n} {v}" for n, v in names.items() for words in SEALED)
    study = load_study("shapes", home=copied.path)
    for trial in optuna_trials(study):
        assert not any(words in f"{trial.user_attrs} {trial.system_attrs}" for words in SEALED)
    with EventLog(study.folder.events_db, read_only=True) as log:
        assert all(words not in event for event in map(str, log.next_owed(10**6)) for words in SEALED)
        for run in log.runs():
            assert not any(words in name for r in log.reports(run) for name in r.metrics for words in SEALED)
    logs = list(copied.path.rglob("*.log"))
    assert logs and not any(words in path.read_text() for path in logs for words in SEALED)


def test_checkpoints_of_full_runs_are_kept_and_those_of_stopped_ones_go(finished: Home) -> None:
    study = load_study("shapes", home=finished.path)
    for record in study.records():
        kept = {p.name for p in (study.folder.trials / record.trial).glob("*")}
        assert kept == ({"epoch-000006.ckpt"} if record.state == "completed" else set())
    assert not (study.folder.path / "ray").exists()  # Ray's picture of its experiment, which nobody reads


# A driver that died


def rewrite(folder: StudyFolder, number: int, *, last: dict[str, Any]) -> None:
    """Put a trial back to where it was before its end was told."""
    with sqlite3.connect(folder.optuna_db) as database:
        (trial,) = database.execute("SELECT trial_id FROM trials WHERE number = ?", [number]).fetchone()
        query = "UPDATE trials SET state = 'RUNNING', datetime_complete = NULL WHERE trial_id = ?"
        database.execute(query, [trial])
        database.execute("DELETE FROM trial_values WHERE trial_id = ?", [trial])
        attributes = "trial_user_attributes WHERE trial_id = ? AND key ="
        database.execute(f"DELETE FROM {attributes} 'stop_reason'", [trial])
        database.execute(
            "UPDATE trial_user_attributes SET value_json = ? WHERE trial_id = ? AND key = 'last'",
            [json.dumps(last), trial],
        )
        database.execute(
            "DELETE FROM trial_intermediate_values WHERE trial_id = ? AND step > ?",
            [trial, last["ssl_epoch"]],
        )


def test_a_driver_that_died_while_it_noted_an_end_costs_nothing(local_ray: None, copied: Home) -> None:
    study = load_study("shapes", home=copied.path)
    before = study.records()
    completed, stopped = ([r for r in before if r.state == s][-1] for s in ("completed", "stopped_early"))
    whole = {t.number: t.user_attrs["last"] for t in optuna_trials(study)}
    # One had its last epoch noted in the event log alone; of the other, only the telling was left.
    known = next(r for r in optuna_trials(study) if str(r.number) == completed.trial)
    shorter = whole[known.number] | {
        "epoch": 5,
        "ssl_epoch": completed.ssl_epoch - 1 if completed.ssl_epoch else None,
        "stop_reason": None,
        "seconds": float(
            study.curves().query(f"trial == '{completed.trial}'")["time/epoch_seconds"][:-1].sum()
        ),
    }
    rewrite(study.folder, int(completed.trial), last=shorter)
    rewrite(study.folder, int(stopped.trial), last=whole[int(stopped.trial)])
    study.folder.set_state("running")
    assert [r.state for r in study.records()].count("running") == 2

    resumed = tune.resume("shapes", home=copied.path, quiet=True)
    assert resumed.folder.state() == "finished"
    after = resumed.records()
    assert [r.row() | {"seconds": 0} for r in after] == [r.row() | {"seconds": 0} for r in before]
    assert after[int(completed.trial)].seconds == pytest.approx(completed.seconds)  # nothing was run again
    runs = mlflow_runs(copied)
    assert len(runs) == 7
    for record in after:
        assert mlflow_steps(copied, runs[f"trial {record.trial}"]) == list(range(1, record.epoch + 1))
        assert runs[f"trial {record.trial}"].info.status in ("FINISHED", "KILLED")


# Faults of trials


FAULTY = """\
method: supervised
default:
  lr:
    type: categorical
    choices: [0.05, 10.0]
    role: nuisance
    why: with a weight decay of 1, the second grows past what a float holds within some forty steps
baseline:
  lr: 0.05
"""


def faulty_options(home: Home, pictures: Path, **options: Any) -> dict[str, Any]:
    space = home.path / "faulty.yaml"
    space.write_text(FAULTY)
    settings = SMALL | {"steps_per_epoch": 30, "weight_decay": 1.0}
    own = {
        "space": str(space),
        "settings": settings,
        "epochs": 3,
        "trials": 4,
        "name": "faulty",
        "seed": 5,
        "sampler": "random",
    }
    return shapes_options(home, pictures) | own | {"method": "supervised", "concurrent": 2} | options


@contextmanager
def obstacle(folder: StudyFolder, trial: int) -> Iterator[set[int]]:
    """A folder where a trial's first checkpoint belongs, so that its worker raises; yields when it did."""
    place = folder.trials / str(trial) / "epoch-000001.ckpt"
    place.mkdir(parents=True)
    raised: set[int] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            if place.with_name("error.txt").exists():
                raised.add(place.with_name("error.txt").stat().st_mtime_ns)

    thread = threading.Thread(target=watch)
    thread.start()
    yield raised
    over.set()
    thread.join()


def test_trials_that_raise_or_diverge_fail_and_the_study_goes_on_and_exits_4(
    local_ray: None, ready_home: Home, pictures: Path, ssl_tune: Command
) -> None:
    folder, spec = make_study(ready_home, **faulty_options(ready_home, pictures))
    folder.write_spec(spec.model_copy(update={"no_work_twice": False}))  # two configurations, four trials
    with obstacle(folder, 1) as raised:
        done = ssl_tune("resume", "faulty")
    assert done.code == 4, done
    assert len(raised) == 2  # tried again once
    records = load_study("faulty").records()
    assert [(r.trial, r.stop_reason) for r in records[:3]] == [
        ("0", "completed"),
        ("1", "error"),
        ("2", "nan"),
    ]
    assert [r.params["lr"] for r in records] == [0.05, 0.05, 10.0, 0.05]
    assert records[3].state in ("completed", "stopped_early")
    assert records[1].error is not None and records[1].error.startswith("Traceback")
    assert "IsADirectoryError" in records[1].error.splitlines()[-1]
    diverged = records[2]
    assert diverged.error is not None and "is not finite at step" in diverged.error
    assert (
        diverged.state == "failed" and optuna_trials(load_study("faulty"))[int(diverged.trial)].value is None
    )
    assert "tune_controller" not in done.err  # Ray's own words
    for words in ("trial 1 failed (error)", "IsADirectoryError", f"trial {diverged.trial} failed (nan)"):
        assert words in done.err
    assert f"trial {diverged.trial}: " in ssl_tune("trials", "faulty").out

    runs = mlflow_runs(ready_home)
    assert len(runs) == 5 and not [r for r in runs.values() if r.info.status == "RUNNING"]
    failed = {n: runs[f"trial {n}"] for n in ("1", diverged.trial)}
    assert {r.info.status for r in failed.values()} == {"FAILED"}
    assert failed["1"].data.tags["ssl.stop_reason"] == "error"
    assert "IsADirectoryError" in failed["1"].data.tags["ssl.error"]
    assert failed[diverged.trial].data.tags["ssl.stop_reason"] == "nan"
    text = ready_home.artifacts / failed["1"].info.run_id / "artifacts" / "error.txt"
    assert text.read_text().startswith("Traceback")
    assert runs["faulty"].info.status == "FINISHED"


def test_a_study_whose_trials_all_failed_exits_3(ready_home: Home, ssl_tune: Command) -> None:
    folder, spec = make_study(ready_home, trials=2, name="bad")
    records = StudyTrials(folder, spec)
    for _ in range(2):
        records.end(records.ask().number, "nan", error="the loss is not finite")
    done = ssl_tune("resume", "bad")
    assert done.code == 3, done
    assert "no trial succeeded" in done.out and "ssl-tune trials bad" in done.out
    status = load_study("bad").status()
    assert status["state"] == "finished" and status["trials"]["failed"] == 2 and status["best"] is None
    assert ssl_tune("confirm", "bad").code == 2


def test_a_time_budget_ends_the_study_also_from_a_thread_tracked_elsewhere_and_in_silence(
    local_ray: None,
    home: Home,
    tmp_path: Path,
    migrated_store: Path,
    pictures: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    elsewhere = make_home(tmp_path / "elsewhere", migrated_store)
    home.path.mkdir()
    options = shapes_options(home, pictures) | {"epochs": 5000, "time_budget": 5.0}
    options["tracking_uri"] = elsewhere.default_tracking_uri
    found: list[Study] = []
    began = time.monotonic()
    thread = threading.Thread(target=lambda: found.append(tune.search(**options, home=home.path, quiet=True)))
    thread.start()
    thread.join()
    assert time.monotonic() - began < 120
    (study,) = found
    assert capsys.readouterr() == ("", "")
    assert study.status()["state"] == "finished"
    records = study.records()
    assert 1 <= len(records) < 6 and records[-1].stop_reason == "time"
    assert {r.state for r in records} == {"stopped_early"}
    runs = mlflow_runs(elsewhere)
    assert len(runs) == 1 + len(records) and not (home.path / "mlflow.db").exists()
    assert runs["shapes"].data.tags["ssl.stop_reason"] == "time"
    assert runs[f"trial {records[-1].trial}"].info.status == "KILLED"
    assert tune.resume("shapes", home=home.path, quiet=True).records() == records


def test_a_trial_that_never_got_a_worker_is_in_mlflow_all_the_same(
    local_ray: None, ready_home: Home, ssl_tune: Command
) -> None:
    folder, spec = make_study(ready_home, time_budget="0.001")
    StudyTrials(folder, spec).ask()
    done = ssl_tune("resume", "s")
    assert done.code == 0 and "time budget is spent" in done.err
    (record,) = load_study("s").records()
    assert (record.stop_reason, record.epoch, record.val_error) == ("time", 0, None)
    run = mlflow_runs(ready_home)["trial 0"]
    assert run.info.status == "KILLED" and run.data.tags["ssl.stop_reason"] == "time"
    assert float(run.data.params["pseudo_label.threshold"]) == 0.95
    with EventLog(folder.events_db, read_only=True) as log:
        assert log.dead() == [] and log.pending() == 0
