"""What the runs of trials are owed goes to a SQLite store in one transaction: all of it, or nothing."""

from __future__ import annotations

import resource
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.tune.tracked import Home, Store, check_exact, metrics, start, tracked_home
from tune.delivery import deliverer, mlflow_runs, sender
from tune.delivery.deliverer import Deliverer
from tune.delivery.drawing import Drawing
from tune.delivery.mlflow_runs import Destination
from tune.delivery.sender import configure_mlflow, deliver, serve
from tune.delivery.transaction import joining, one_transaction
from tune.store.events import Event
from tune.tracking.tracker import Tracker

TRIALS = ("0", "1", "2", "3", "4")


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, the five trials share a transaction."""
    monkeypatch.setattr(deliverer, "TOGETHER_SECONDS", 1000.0)


def end(tracker: Tracker, *trials: str) -> None:
    """Trials report twice and end."""
    for trial in trials:
        tracker.report(trial, 1, metrics(1))
        tracker.report(trial, 2, metrics(2))
        tracker.trial_ended(trial, "completed", summary={"best/val_error": 25.0})


def commits(database: Path) -> int:
    """How often a database has been written to, as it says itself (https://sqlite.org/fileformat.html, offset 24)."""
    return int.from_bytes(database.read_bytes()[24:28], "big")


def folders(home: Home) -> set[str]:
    """The runs that have artifacts."""
    return {path.name for path in (home.path / "mlartifacts").iterdir()}


def test_five_trials_that_did_nothing_are_one_commit(tracked: Home) -> None:
    tracker = tracked.tracker()
    start(tracker)
    delivering = Deliverer(tracked.log)
    delivering.deliver_pending()
    before = commits(tracked.store.database)
    start(tracker, *TRIALS)
    end(tracker, *TRIALS)
    delivering.deliver_pending()
    assert commits(tracked.store.database) - before == 1  # 30 where each call commits for itself
    check_exact(tracked)
    assert folders(tracked) == {run.info.run_id for run in tracked.runs().values()}


def test_a_store_that_cannot_join_is_delivered_to_call_by_call(
    tracked: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_runs, "joining", lambda client: None)
    tracker = tracked.tracker()
    start(tracker, *TRIALS)
    end(tracker, *TRIALS)
    before = commits(tracked.store.database)
    assert deliver(tracked.study, 30) == 0
    assert commits(tracked.store.database) - before > len(TRIALS)
    check_exact(tracked)


def test_a_sender_killed_within_a_transaction_leaves_nothing_of_it(tracked: Home) -> None:
    tracker = tracked.tracker()
    start(tracker, *TRIALS)
    end(tracker, *TRIALS)
    tracker.study_ended("finished", {})
    tracked.log.set_meta("complete", "1")
    assert tracked.sender("sender:before-commit") == -9
    runs = tracked.runs()
    assert set(runs) == {"s"} and folders(tracked) == {runs["s"].info.run_id}
    assert [key for key, _ in tracked.log.metas("run_id:")] == ["run_id:s"]
    assert tracked.sender() == 0
    check_exact(tracked)
    assert folders(tracked) == {run.info.run_id for run in tracked.runs().values()}


def test_what_is_refused_takes_nothing_else_with_it(tracked: Home) -> None:
    tracker = tracked.tracker()
    start(tracker, *TRIALS)
    tracker.report("2", 3, {"no such name: *?": 2.0})
    end(tracker, *TRIALS)
    assert deliver(tracked.study, 30) == 0
    (dead,) = tracked.log.dead()
    assert dead.event.run == "s/2" and "no such name" in dead.reason
    runs = tracked.runs()
    assert set(runs) == {"s", *(f"trial {trial}" for trial in TRIALS)}
    for trial in TRIALS:
        run = runs[f"trial {trial}"]
        assert run.info.status == "FINISHED"
        steps = {step for name, step, *_ in tracked.points(run) if name == "val/error"}
        assert steps == {1, 2}
    assert folders(tracked) == {run.info.run_id for run in runs.values()}


def test_a_full_disk_keeps_everything_owed(tracked: Home) -> None:
    tracker = tracked.tracker()
    start(tracker)
    assert deliver(tracked.study, 30) == 0
    start(tracker, *TRIALS)
    for trial in TRIALS:
        tracker.trial_started(
            f"{trial}/confirm-0", {}, {f"p{n}": "x" * 400 for n in range(20)}, "config\n", trial
        )
    end(tracker, *TRIALS)
    owed = tracked.log.pending()
    with sqlite3.connect(tracked.log.path) as log:  # it has room: its size is not what is tried here
        log.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (tracked.store.database.stat().st_size, hard))
    try:
        left = deliver(tracked.study, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert 0 < left <= owed and tracked.log.dead() == []
    with sqlite3.connect(tracked.store.database) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert deliver(tracked.study, 30) == 0
    check_exact(tracked)


def test_other_threads_read_what_is_committed_meanwhile(tracked: Home) -> None:
    start(tracked.tracker())
    assert deliver(tracked.study, 30) == 0
    client, seen = tracked.store.client(), list[int]()
    store, experiment = joining(client), tracked.log.get_meta("experiment_id")

    def look() -> None:
        seen.append(len(client.search_runs([experiment])))

    with pytest.raises(ValueError, match="taken back"), one_transaction(store):
        client.create_run(experiment)
        assert len(client.search_runs([experiment])) == 2
        raise ValueError("taken back")
    with one_transaction(store):
        client.create_run(experiment)
        thread = threading.Thread(target=look)
        thread.start()
        thread.join(60)
    look()
    assert seen == [1, 2]


def test_two_senders_write_to_one_database_at_a_time(tmp_path: Path, migrated_store: Path) -> None:
    first = tracked_home(tmp_path / "first", migrated_store)
    second = Home(tmp_path / "second", Store(first.store.database), "other")
    homes = (first, second)
    with first.sending(), second.sending():
        for home in homes:
            start(home.tracker(artifact_root=first.path / "mlartifacts"), *TRIALS)
        for home in homes:
            end(home.tracker(artifact_root=first.path / "mlartifacts"), *TRIALS)
    assert all((home.log.pending(), home.log.dead()) == (0, []) for home in homes)
    found = [run.data.tags["ssl.run_key"] for run in first.store.all_runs()]
    ids = {home: home.log.get_meta("study_id") for home in homes}
    assert sorted(found) == sorted(f"{ids[home]}:{run}" for home in homes for run in home.log.runs())
    assert {run.info.status for run in first.store.all_runs()} == {"RUNNING", "FINISHED"}


def test_no_run_is_looked_for_where_there_can_be_none(tracked: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """To look for a run by its tag takes MLflow 50 ms where it has 10,000."""
    looked_for = list[str]()
    search = Destination._search

    def noted(place: Destination, run: str) -> Any:
        looked_for.append(run)
        return search(place, run)

    monkeypatch.setattr(Destination, "_search", noted)
    tracker = tracked.tracker()
    start(tracker, "0", "1")
    tracked.log.set_meta("doubtful:s/1", "1")  # an answer was lost
    delivering = Deliverer(tracked.log)
    delivering.deliver_pending()
    assert set(looked_for) == {"s/1"}
    looked_for.clear()
    tracked.log.drop_meta("run_id:")
    tracked.log.mark_all_undelivered()
    start(tracker, "2")
    Deliverer(tracked.log).deliver_pending()  # another sitting: it cannot know
    assert set(looked_for) == {"s", "s/0", "s/1", "s/2"}
    check_exact(tracked)


def test_figures_are_drawn_while_the_rest_is_sent(tracked: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_TUNE_FIGURES", "1")
    owed = list[int]()
    begin = Drawing.start

    def begun(drawing: Drawing, fewest: int = 1, artists: int = 1) -> bool:
        owed.append(len(tracked.log.next_owed(100)))
        return begin(drawing, fewest, artists)

    monkeypatch.setattr(Drawing, "start", begun)
    tracker = tracked.tracker()
    start(tracker, "0")
    end(tracker, "0")
    Deliverer(tracked.log).deliver_pending()
    assert owed[0] > 0 and tracked.log.pending() == 0


def test_what_is_left_when_a_study_ends_is_sent_without_giving_way(
    tracked: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, owed = Deliverer._send_together, list[int]()

    def and_then_it_ends(delivering: Deliverer, events: list[Event]) -> bool:
        done = send(delivering, events)
        tracked.log.set_meta("complete", "1")
        return done

    monkeypatch.setattr(deliverer, "TOGETHER_SECONDS", 0.0)
    monkeypatch.setattr(Deliverer, "_send_together", and_then_it_ends)
    monkeypatch.setattr(sender, "_set_priority", lambda nice: owed.append(tracked.log.pending()))
    configure_mlflow()
    tracker = tracked.tracker()
    start(tracker, *TRIALS)
    end(tracker, *TRIALS)
    serve(tracked.log, None)
    assert owed[0] > 0 and tracked.log.pending() == 0
    check_exact(tracked)
