"""What is kept, and where: readings of the test set, the format of the event log, the length of the sender's log."""

from __future__ import annotations

import json
import math
import multiprocessing
import sqlite3
import zlib
from pathlib import Path
from typing import Any

import pytest

from benchmarks import left_behind
from ssl_core.system.errors import ConfigError
from ssl_core.training.reading import append_reading, recorded_in
from tests.tune.helpers import make_spec, make_study
from tune.confirmation.confirm import confirm
from tune.confirmation.trainings import Places, Trained, Training, bring_home, train_all
from tune.errors import DamagedError, ServiceError
from tune.launch.remade_log import salvaged
from tune.store.event_log import VERSION, EventLog
from tune.store.events import LARGEST
from tune.store.home import Home
from tune.tracking import sender_process


def append(path: Path, number: int) -> None:
    for each in range(20):
        append_reading(path, {"by": number, "each": each, "fill": "x" * 20_000})


def test_processes_that_append_at_once_lose_no_reading(tmp_path: Path) -> None:
    record = tmp_path / "test-readings.jsonl"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=append, args=(record, number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted((r["by"], r["each"]) for r in recorded_in(record)) == [
        (b, e) for b in range(4) for e in range(20)
    ]


def test_a_reading_on_a_worker_s_own_disk_is_brought_home_once_and_the_training_is_not_made_again(
    s3: str, home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_TUNE_WORK", str(tmp_path / "work"))
    stored = Home(s3)
    training = Training(
        "trial 0, seed 1", make_spec(home).base_config(), stored.studies / "s" / "confirm" / "0-1"
    )
    reading = {"config": {}, "epochs": 6, "test_error": 12.5}
    result: dict[str, Any] = {"test_error": 12.5, "val_error": 10.0, "seconds": 1.0}
    for _ in range(2):
        bring_home(training, Trained(result, [], readings=[reading]), stored)
    assert recorded_in(stored.test_readings) == recorded_in(training.out / "test-readings.jsonl") == [reading]
    assert json.loads((training.out / "result.json").read_text()) == result

    def none(*_: object) -> object:
        raise AssertionError("trained again")

    monkeypatch.setattr("tune.confirmation.trainings._train", none)
    places = Places(home=stored, data_root=None, concurrent=1, cpus=1, gpus=0)
    (again,) = train_all([training], places, lambda line: None)
    assert again.result == result


def test_an_event_log_of_a_later_version_is_refused_and_left_alone(home: Home) -> None:
    folder, _ = make_study(home)
    with EventLog(folder.events_db) as log:
        log.append("tags", "s", {"tags": {}})
    with sqlite3.connect(folder.events_db) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (VERSION,)
        database.execute(f"PRAGMA user_version = {VERSION + 1}")
    for read_only in (True, False):
        with pytest.raises(ServiceError, match="written by a later version of ssl-tune"):
            EventLog(folder.events_db, read_only=read_only)


EPOCH = {
    "epoch": 7,
    "metrics": {f"ssl/pseudo_labels/class_{c:02d}": math.sqrt(c + 2) for c in range(10)}
    | {"val/error": math.nan},
    "classes": {"accepted": list(range(10)), "wrong": [3] * 10},
}


def test_15_what_an_event_holds_is_shorter_in_the_file_and_the_same_when_it_is_read(tmp_path: Path) -> None:
    texts = {"file": "config.yaml", "text": "ä 猫\n" * 200}
    with EventLog(tmp_path / "events.db") as log:
        log.append("metrics", "s/1", EPOCH, key="s/1:epoch:7")
        log.append("text", "s/1", texts)
        log.append(
            "status",
            "s/1",
            {"status": "FAILED", "tags": {"ssl.stop_reason": "error", "ssl.error": "x" * 900}},
        )
        read = [event.payload for event in log.next_owed(9)]
        assert json.dumps(read[:2]) == json.dumps([EPOCH, texts])
        assert log.reports("s/1")[0].classes == EPOCH["classes"]
        log.append("start", "s/1", {"name": "trial 1"})
        assert log.trials("s") == {1: True}  # read by SQL itself
    with sqlite3.connect(tmp_path / "events.db") as database:
        found = [row[0] for row in database.execute("SELECT payload FROM events ORDER BY id")]
    assert [type(payload) for payload in found] == [bytes, bytes, str, str]
    assert len(found[0]) < len(json.dumps(EPOCH)) / 2


def test_15_a_log_of_before_events_were_compressed_is_read_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with EventLog(path) as log:
        log.append("metrics", "s/1", EPOCH, key="s/1:epoch:7")
    with sqlite3.connect(path) as database:
        database.execute("UPDATE events SET payload = ?", [json.dumps(EPOCH)])
        database.execute("PRAGMA user_version = 1")
    with EventLog(path, read_only=True) as log:
        assert json.dumps(log.next_owed(1)[0].payload) == json.dumps(EPOCH)
    with EventLog(path) as log:
        log.append("metrics", "s/1", EPOCH | {"epoch": 8}, key="s/1:epoch:8")
        assert [report.epoch for report in log.reports("s/1")] == [7, 8]


@pytest.mark.parametrize("change", ["flipped", "cut", "endless"])
def test_15_an_event_that_was_damaged_or_expands_without_end_is_said_to_be_damaged(
    tmp_path: Path, change: str
) -> None:
    path = tmp_path / "events.db"
    with EventLog(path) as log:
        log.append("metrics", "s/1", EPOCH)
    with sqlite3.connect(path) as database:
        (payload,) = database.execute("SELECT payload FROM events").fetchone()
        if change == "flipped":
            payload = payload[:20] + bytes([payload[20] ^ 1]) + payload[21:]
        elif change == "cut":
            payload = payload[:-5]
        else:
            deflate = zlib.compressobj(9)
            payload = deflate.compress(b" " * 2 * LARGEST) + deflate.flush()
        database.execute("UPDATE events SET payload = ?", [payload])
    with EventLog(path) as log, pytest.raises(DamagedError, match=r"events.db is damaged"):
        log.next_owed(1)


def test_15_what_can_be_read_of_a_damaged_log_is_taken_as_it_lies(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.db") as log:
        for epoch in range(1, 4):
            log.append("metrics", "s/1", EPOCH | {"epoch": epoch}, key=f"s/1:epoch:{epoch}")
        log.append("start", "s/1", {"name": "trial 1 \N{CAT FACE}"})
        log.set_meta("study_id", "abc")
        whole = [event.payload for event in log.next_owed(9)]
    with sqlite3.connect(tmp_path / "events.db") as database:
        database.execute("UPDATE events SET payload = x'00ff' WHERE id = 2")
    kept = salvaged(tmp_path / "events.db")
    assert [row[0] for row in kept.rows] == [1, 3, 4] and kept.notes == (("study_id", "abc"),)
    with EventLog(tmp_path / "new.db") as log:
        log.take(kept.rows, kept.notes)
        read = [event.payload for event in log.next_owed(9)]
    assert json.dumps(read) == json.dumps([whole[0], *whole[2:]])


def test_15_a_thousand_trials_leave_no_more_than_is_promised() -> None:
    """A tenth of them, at the share of each; `benchmarks.left_behind` measures them all (docs/results.md)."""
    found = left_behind.measure(100, 15)
    assert found["besides_checkpoints_mb"] < 6
    assert found["checkpoints"] == found["completed"] > 0


def test_the_sender_s_log_stays_short(tmp_path: Path) -> None:
    log = tmp_path / "sender.log"
    lines = [f"{number:08d} not delivered" for number in range(20_000)]
    log.write_text("\n".join(lines) + "\n")
    sender_process._shorten(log)
    kept = log.read_text().splitlines()
    assert log.stat().st_size <= sender_process.LONGEST_LOG // 2
    assert kept == lines[-len(kept) :]
    sender_process._shorten(log)
    assert log.read_text().splitlines() == kept


def test_a_gpu_study_is_not_confirmed_where_it_would_wait_for_ever(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    make_study(home, gpus_per_trial=1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError, match=r"gpus_per_trial = 1: this machine has no GPUs.*--address"):
        confirm("s", home=home)
