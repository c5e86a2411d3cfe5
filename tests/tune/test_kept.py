"""What is kept, and where: readings of the test set, the format of the event log, the length of the sender's log."""

from __future__ import annotations

import json
import multiprocessing
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from ssl_core.system.errors import ConfigError
from ssl_core.training.reading import append_reading, recorded_in
from tests.tune.helpers import make_spec, make_study
from tune.confirmation.confirm import confirm
from tune.confirmation.trainings import Places, Trained, Training, bring_home, train_all
from tune.errors import ServiceError
from tune.store.event_log import VERSION, EventLog
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
