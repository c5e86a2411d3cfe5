"""Faults of workers, disks and people in a study that ends as if nothing had happened."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

import tune
from ssl_core.training import checkpoint
from tests.tune.helpers import (
    Done,
    make_home,
    mlflow_runs,
    mlflow_steps,
    reports,
    shapes_options,
    told,
)
from tune.engine import worker_deaths
from tune.engine.searcher import StudySearcher
from tune.engine.storage_faults import is_storage_trouble
from tune.engine.worker_deaths import HangWatch
from tune.findings.study import load_study
from tune.store.home import Home
from tune.store.study_folder import StudyFolder

Command = Callable[..., Done]


def check_equal(home: Home, finished: Home) -> None:
    """The study `shapes` ended as it does without faults, bit for bit; in MLflow each epoch is there once."""
    assert told(home) == told(finished)
    runs = mlflow_runs(home)
    records = load_study("shapes", home=home.path).records()
    assert set(runs) == {"shapes", *(f"trial {r.trial}" for r in records)}
    for record in records:
        run = runs[f"trial {record.trial}"]
        assert run.info.status == ("FINISHED" if record.state == "completed" else "KILLED")
        assert mlflow_steps(home, run) == list(range(1, record.epoch + 1))


def worker() -> psutil.Process | None:
    """The process that trains a trial at this moment."""
    for process in psutil.Process().children(recursive=True):
        try:
            if "Trainable" in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                return process
        except psutil.NoSuchProcess:
            continue
    return None


@contextmanager
def meanwhile(action: Callable[[threading.Event], None]) -> Iterator[None]:
    """Something that happens while the block runs; it looks at the event to see that the block is over."""
    over, failed = threading.Event(), []

    def run() -> None:
        try:
            action(over)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    over.set()
    thread.join()
    assert not failed, failed


def wait_for(folder: Path, count: int, over: threading.Event) -> None:
    while reports(folder) < count and not over.wait(0.01):
        pass
    assert not over.is_set(), f"the study was over before epoch {count}"


@pytest.mark.long
def test_workers_that_are_killed_or_hang_and_a_damaged_checkpoint_change_nothing(
    finished: Home, ready_home: Home, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ready_home.study_folder("shapes")
    seen: dict[str, Any] = {}

    def sabotage(over: threading.Event) -> None:
        wait_for(folder, 3, over)
        killed = worker()
        assert killed is not None
        killed.suspend()  # that nothing is written any more
        (trial,) = (p for p in (folder / "trials").iterdir() if list(p.glob("*.ckpt")))
        seen["epochs"] = checkpoint.epochs_in(trial)
        newest = checkpoint.path_of(trial, seen["epochs"][0])
        data = bytearray(newest.read_bytes())
        data[len(data) // 2] ^= 1
        newest.write_bytes(data)
        killed.kill()
        wait_for(folder, 8, over)
        assert newest.with_suffix(".damaged").exists()
        hanging = worker()
        assert hanging is not None and hanging.pid != killed.pid
        hanging.suspend()
        monkeypatch.setattr(worker_deaths, "HANG_FLOOR_SECONDS", 1.0)
        while hanging.is_running() and hanging.status() != psutil.STATUS_ZOMBIE and not over.wait(0.1):
            pass
        # The next trial may take longer to start.
        monkeypatch.setattr(worker_deaths, "HANG_FLOOR_SECONDS", 120.0)
        seen["over"] = over.is_set()

    suggest = StudySearcher.suggest

    def kill_between_trials(self: StudySearcher, trial_id: str) -> Any:
        task = suggest(self, trial_id)
        idle = worker()
        if isinstance(task, dict) and task["trial"] == 1 and idle is not None and "between" not in seen:
            seen["between"] = idle
            idle.kill()  # it would have taken up this trial, and Ray does not start a trial again that waits
        return task

    monkeypatch.setattr(StudySearcher, "suggest", kill_between_trials)
    with meanwhile(sabotage):
        tune.search(**shapes_options(ready_home, pictures), max_failures=0, home=ready_home.path, quiet=True)
    assert len(seen["epochs"]) == 2 and not seen["over"] and "between" in seen
    check_equal(ready_home, finished)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(options, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system takes root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.long
def test_a_study_that_is_stopped_from_elsewhere_and_whose_disk_fills_up_carries_on(
    finished: Home,
    small_disk: Path,
    migrated_store: Path,
    pictures: Path,
    ssl_tune: Command,
) -> None:
    home = make_home(small_disk / "home", migrated_store)
    folder, began = home.study_folder("shapes"), time.monotonic()
    options = shapes_options(home, pictures)
    thread = threading.Thread(target=lambda: tune.search(**options, home=home.path, quiet=True))
    thread.start()
    while reports(folder) < 2:
        assert thread.is_alive() and time.monotonic() - began < 240
        time.sleep(0.02)
    done = ssl_tune("stop", "shapes", "--home", home.path)
    thread.join()
    assert done.code == 0, done
    assert "is interrupted" in done.out and f"ssl-tune resume shapes --home {home.path}" in done.out
    assert "nobody runs the study 'shapes'" in ssl_tune("stop", "shapes", "--home", home.path).out
    stopped = reports(folder)
    assert load_study("shapes", home=home.path).status()["trials"]["running"] <= 1  # none between two

    filler = small_disk / "filler"

    def fill(over: threading.Event) -> None:
        wait_for(folder, stopped + 2, over)
        with filler.open("wb", buffering=0) as file:
            try:
                while not over.is_set():
                    file.write(b"x" * 4096)
            except OSError:
                pass

    with meanwhile(fill):
        done = ssl_tune("resume", "shapes", "--home", home.path)
    assert done.code == 6, done
    assert "storage: " in done.err and "Traceback" not in done.err
    assert f"carry on with: ssl-tune resume shapes --home {home.path}" in done.err
    filler.unlink()
    study = load_study("shapes", home=home.path)
    assert study.status()["state"] == "interrupted"
    for trial in study.folder.trials.iterdir():  # the last good one is intact
        for epoch in checkpoint.epochs_in(trial):
            checkpoint.read(checkpoint.path_of(trial, epoch))
        assert not list(trial.glob(".*.tmp"))

    done = ssl_tune("resume", "shapes", "--home", home.path)
    assert done.code == 0, done
    check_equal(home, finished)


def test_a_request_to_stop_is_meant_for_the_driver_that_runs(home: Home, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    folder.request_stop()
    folder.lock()
    assert not folder.stop_requested()
    folder.request_stop()
    assert folder.stop_requested()


def test_stop_says_when_the_driver_takes_too_long(ssl_tune: Command, finished: Home, copied: Home) -> None:
    folder = StudyFolder(copied.study_folder("shapes"))
    folder.lock()
    done = ssl_tune("stop", "shapes", "--timeout", "0.2s")
    assert done.code == 8 and "has not ended yet" in done.err and folder.stop_requested()


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("tune.engine.worker_deaths.time.monotonic", lambda: self.now)


def test_a_worker_hangs_after_eight_of_its_epochs_and_the_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    watch = HangWatch(floor=20.0)

    def silent(seconds: float) -> list[int]:
        for _ in range(round(seconds)):
            clock.now += 1
            watch.hung()
        return watch.hung()

    watch.started(0, warmup=True)
    assert silent(3000) == [] and silent(601) == [0]  # nobody knows how long an epoch takes: an hour
    for seconds in (5.0, 6.0, 90.0):
        watch.reported(0, seconds, warmup=False)
    assert watch.patience(0) == 8 * 6.0 and silent(47) == [] and silent(2) == [0]
    watch.reported(0, 6.0, warmup=False)
    assert silent(40) == []
    watch.ended(0)
    assert silent(1000) == []

    watch.started(1, warmup=True)
    watch.reported(1, 1.0, warmup=True)
    # The first epoch after the warm-up may take as long as the longest that was seen of any trial.
    assert watch.patience(1) == 8 * 90.0
    watch.reported(1, 0.5, warmup=False)
    assert watch.patience(1) == 20.0


def test_before_the_first_warmup_is_over_its_epochs_tell_little(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    watch = HangWatch(floor=20.0)
    watch.started(0, warmup=True)
    for seconds in (2.0, 3.0, 2.0):
        watch.reported(0, seconds, warmup=True)
    assert watch.patience(0) == 8 * 20.0  # ten times their median


def test_nobody_hangs_because_the_driver_slept(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    watch = HangWatch(floor=20.0)
    watch.started(0, warmup=False)
    watch.reported(0, 1.0, warmup=False)
    clock.now += 3600  # the lid was closed
    assert watch.hung() == []
    clock.now += 9
    assert watch.hung() == []


def test_what_is_a_storage_s_trouble() -> None:
    full = OSError(28, "No space left on device")
    wrapped = RuntimeError("TuneError: ...")
    wrapped.__cause__ = full
    assert is_storage_trouble(full) and is_storage_trouble(wrapped)
    assert is_storage_trouble(RuntimeError("...OSError: [Errno 28] No space left on device..."))
    assert not is_storage_trouble(FileNotFoundError(2, "No such file"))
    assert not is_storage_trouble(ValueError("a loss is not finite"))
