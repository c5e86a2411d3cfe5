"""The event log: order, idempotency, exact round trips, and readers beside the writer."""

from __future__ import annotations

import math
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tune.store.event_log import EventLog
from tune.store.events import NewEvent


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    with EventLog(tmp_path / "study" / "events.db") as log:
        yield log


def test_events_come_back_in_order_with_their_own_times(log: EventLog) -> None:
    log.append("start", "s/0", {"name": "trial 0"}, key="s/0:start", time_ms=5)
    log.append_many(
        [NewEvent("metrics", "s/0", {"epoch": i, "metrics": {}}, time_ms=9 - i) for i in (1, 2, 3)]
    )

    events = log.next_owed(9)
    assert [event.id for event in events] == [1, 2, 3, 4]
    assert [event.time_ms for event in events] == [5, 8, 7, 6]
    assert events[0].payload == {"name": "trial 0"}
    assert [event.id for event in log.next_owed(2)] == [1, 2]


def test_the_same_key_is_appended_once(log: EventLog) -> None:
    assert log.append("metrics", "s/0", {"epoch": 1, "metrics": {"a": 1.0}}, key="s/0:epoch:1")
    assert not log.append("metrics", "s/0", {"epoch": 1, "metrics": {"a": 2.0}}, key="s/0:epoch:1")
    again = [
        NewEvent("metrics", "s/0", {"epoch": i, "metrics": {"a": 3.0}}, f"s/0:epoch:{i}") for i in (1, 2)
    ]
    assert log.append_many(again) == 1
    assert [report.metrics["a"] for report in log.reports("s/0")] == [1.0, 3.0]


def test_events_without_a_key_may_repeat(log: EventLog) -> None:
    assert log.append("text", "s", {"file": "a"})
    assert log.append("text", "s", {"file": "a"})
    assert log.pending() == 2


def test_append_many_is_all_or_nothing(log: EventLog) -> None:
    with pytest.raises(TypeError):
        log.append_many([NewEvent("text", "s", {}), NewEvent("text", "s", {"no JSON": object()})])
    assert log.pending() == 0


def test_metrics_survive_bit_for_bit(log: EventLog) -> None:
    metrics = {
        "nan": math.nan,
        "inf": math.inf,
        "-inf": -math.inf,
        "tenth": 0.1,
        "tiny": 5e-324,
        "-0": -0.0,
    }
    log.append("metrics", "s/0", {"epoch": 1, "metrics": metrics}, time_ms=7)
    (report,) = log.reports("s/0")
    assert report.epoch == 1 and report.time_ms == 7
    assert list(report.metrics) == list(metrics)
    assert all(report.metrics[name].hex() == value.hex() for name, value in metrics.items())


def test_marked_events_are_no_longer_owed(log: EventLog) -> None:
    log.append_many([NewEvent("text", "s", {"file": str(i)}) for i in range(4)])
    log.mark_delivered([1, 3])
    log.mark_dead(2, "refused")
    assert log.pending() == 1
    assert [event.id for event in log.next_owed(9)] == [4]
    assert [(letter.event.id, letter.reason) for letter in log.dead()] == [(2, "refused")]

    log.mark_all_undelivered()
    assert [event.id for event in log.next_owed(9)] == [1, 3, 4]


def test_meta(log: EventLog) -> None:
    assert log.get_meta("run_id:s") is None
    for name in ("run_id:s", "run_id:s/0", "runs"):
        log.set_meta(name, "x")
    log.set_meta("runs", "y")
    log.drop_meta("run_id:")
    assert [log.get_meta(name) for name in ("run_id:s", "run_id:s/0", "runs")] == [None, None, "y"]
    log.set_meta("runs", None)
    assert log.get_meta("runs") is None


def test_reports_leave_summaries_out(log: EventLog) -> None:
    log.append("metrics", "s/0", {"epoch": 2, "metrics": {"a": 2.0}})
    log.append("metrics", "s/0", {"epoch": 1, "metrics": {"a": 1.0}})
    log.append("metrics", "s/0", {"step": 2, "metrics": {"best": 1.0}})
    log.append("metrics", "s/1", {"epoch": 1, "metrics": {"a": 9.0}})
    assert [report.epoch for report in log.reports("s/0")] == [1, 2]


def test_a_reader_sees_what_is_committed_while_the_writer_writes(log: EventLog) -> None:
    with EventLog(log.path, read_only=True) as view:
        for epoch in range(1, 51):
            log.append("metrics", "s/0", {"epoch": epoch, "metrics": {"a": 0.5}}, key=f"s/0:epoch:{epoch}")
            assert len(view.reports("s/0")) == epoch
        with log._transaction():  # not even an open transaction keeps readers out
            assert view.pending() == 50
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            view.append("text", "s", {})


def test_events_survive_a_killed_writer(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from tune.store.event_log import EventLog\n"
        "log = EventLog(Path(sys.argv[1]))\n"
        "for i in range(100): log.append('text', 's', {'file': str(i)}, key=str(i))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "events.db"
    killed = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert killed.returncode == -9
    with EventLog(path) as log:
        assert log.pending() == 100
        assert not log.append("text", "s", {"file": "0"}, key="0")


def test_the_log_of_a_study_on_a_cluster_needs_no_shared_memory(tmp_path: Path) -> None:
    path = tmp_path / "events.db"

    def mode() -> str:
        with sqlite3.connect(path) as database:
            return str(database.execute("PRAGMA journal_mode").fetchone()[0])

    with EventLog(path, shared=True) as log:
        log.append("text", "a", {"file": "x"})
        assert mode() == "delete"
        with EventLog(path) as sender, EventLog(path, read_only=True) as reader:  # they leave it as it is
            sender.mark_delivered([1])
            assert reader.pending() == 0
        assert not path.with_name(f"{path.name}-shm").exists()
    with EventLog(path):
        assert mode() == "delete"
    with EventLog(path, shared=False):
        assert mode() == "wal"
