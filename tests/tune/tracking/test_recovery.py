"""What somebody does to the store behind a study's back, and what delivery makes of it."""

from __future__ import annotations

import shutil
import sqlite3
import time
from pathlib import Path

import pytest

from tests.tune.tracked import EXPERIMENT, Home, check_exact, metrics, start, tracked_home
from tune.delivery.deliverer import Deliverer
from tune.delivery.sender import deliver
from tune.tracking.tracker import Tracker


def whole_study(home: Home, *trials: str) -> Tracker:
    tracker = home.tracker()
    start(tracker, *trials)
    for trial in trials:
        tracker.report(trial, 1, metrics(1))
        tracker.trial_ended(trial, "completed")
    return tracker


def purge(home: Home, run_id: str) -> None:
    """Delete a run as `mlflow gc` does."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    home.store.client().delete_run(run_id)
    SqlAlchemyStore(home.store.uri, str(home.path / "mlartifacts"))._hard_delete_run(run_id)


def test_a_database_that_another_study_began_anew_gets_everything_again(
    tmp_path: Path, migrated_store: Path
) -> None:
    first = tracked_home(tmp_path / "first", migrated_store)
    tracker = whole_study(first, "0", "1")
    tracker.trial_interrupted("1")
    assert deliver(first.study, 30) == 0
    gone = {run.info.run_id for run in first.runs().values()}

    # The other study's database has an experiment of the same name with the same id.
    second = tracked_home(tmp_path / "second", migrated_store)
    second.log.set_meta("study_id", "another")
    tracker = whole_study(second, "7")
    assert deliver(second.study, 30) == 0
    tracker.study_ended("finished", {})  # SQLite tells two files apart by how often each was written to
    assert deliver(second.study, 30) == 0
    shutil.copy(second.store.database, first.store.database)
    first.store.ignore_what_is_there()

    assert first.log.pending() == 0
    assert deliver(first.study, 30) == 0  # `ssl-tune sync` looks, although nothing was owed
    check_exact(first)
    assert not gone & {run.info.run_id for run in first.runs().values()}


@pytest.mark.long
def test_a_database_that_is_deleted_under_a_live_sender_is_made_anew(tracked: Home) -> None:
    tracker = tracked.tracker()
    tracker.sender.start()
    start(tracker, "0")
    tracker.report("0", 1, metrics(1))
    deadline = time.monotonic() + 240
    while tracked.log.pending():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    tracked.store.database.unlink()  # MLflow has it open, and would go on writing to what nobody can see
    tracker.report("0", 2, metrics(2))
    tracker.trial_ended("0", "completed")
    tracker.study_ended("finished", {"best/val_error": 25.0})
    assert tracker.sender.close(240) == 0
    check_exact(tracked)


@pytest.mark.parametrize("trial", ["0", "1"])
def test_a_trial_that_was_deleted_in_the_ui_goes_on_in_its_run(tracked: Home, trial: str) -> None:
    tracker = whole_study(tracked, "1")
    tracker.trial_started("0", {}, {}, "config\n")
    assert deliver(tracked.study, 30) == 0
    before = tracked.runs()
    tracked.store.client().delete_run(before[f"trial {trial}"].info.run_id)
    tracker.report("0", 1, metrics(1))
    tracker.trial_ended("0", "asha")
    assert deliver(tracked.study, 30) == 0
    if trial == "0":
        check_exact(tracked)
    else:  # nothing more was to be said of this one: it stays deleted
        assert set(tracked.runs()) == {"s", "trial 0"} and tracked.log.dead() == []


@pytest.mark.parametrize("name", ["s", "trial 0"])
def test_a_run_that_was_purged_is_written_again_and_nothing_else(tracked: Home, name: str) -> None:
    tracker = whole_study(tracked, "1")
    tracker.trial_started("0", {"vat.eps": 2.0}, {}, "config\n")
    tracker.report("0", 1, metrics(1))
    assert deliver(tracked.study, 30) == 0
    before = {key: run.info.run_id for key, run in tracked.runs().items()}
    purge(tracked, before[name])
    tracker.report("0", 2, metrics(2))
    tracker.trial_ended("0", "asha")
    tracker.study_ended("finished", {"best/val_error": 25.0})
    assert deliver(tracked.study, 30) == 0
    check_exact(tracked)  # the trials hang below the study that was made anew, too
    after = {key: run.info.run_id for key, run in tracked.runs().items()}
    assert {key for key in after if after[key] != before[key]} == {name}


def test_an_experiment_that_was_renamed_is_gone_on_with(tracked: Home) -> None:
    tracker = tracked.tracker()
    start(tracker, "0")
    assert deliver(tracked.study, 30) == 0
    client = tracked.store.client()
    client.rename_experiment(client.get_experiment_by_name(EXPERIMENT).experiment_id, "my digits")
    tracker.report("0", 1, metrics(1))
    tracker.study_ended("finished", {})
    assert deliver(tracked.study, 30) == 0
    check_exact(tracked)
    assert client.get_experiment_by_name(EXPERIMENT) is None


def test_what_a_late_request_left_behind_is_taken_away(tracked: Home) -> None:
    """A server that was only slow carries out a request that its sender gave up and sent again."""
    tracker = whole_study(tracked, "0")
    Deliverer(tracked.log).deliver_pending()
    run = tracked.runs()["trial 0"]
    client = tracked.store.client()
    late = client.create_run(run.info.experiment_id, run_name="trial 0", tags=run.data.tags)
    client.update_run(run.info.run_id, status="RUNNING")
    tracked.log.set_meta("doubtful:s/0", "1")
    tracker.study_ended("finished", {})
    Deliverer(tracked.log).deliver_pending()
    check_exact(tracked)
    assert client.get_run(late.info.run_id).info.lifecycle_stage == "deleted"
    assert tracked.log.metas("doubtful:") == []


def test_a_database_of_another_mlflow_is_told_as_such(tracked: Home) -> None:
    with sqlite3.connect(tracked.store.database) as database:
        database.execute("UPDATE alembic_version SET version_num = '000000000000'")
    tracked.tracker().study_started({}, "study\n")
    assert deliver(tracked.study, 0) == 3 and tracked.log.dead() == []
    problem = tracked.log.get_meta("problem") or ""
    assert "another version of MLflow" in problem and "mlflow db upgrade" in problem
