"""Homes that can be read and not written, locks that are looked at while they are taken, and half-made studies."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest

import tune
from ssl_core.system.errors import ConfigError
from tests.tune.helpers import Done, copy_home, make_spec, make_study
from tune.errors import Exit, ServiceError
from tune.findings.study import load_study
from tune.launch.preparation import create_study
from tune.store import home as home_module
from tune.store.event_log import EventLog
from tune.store.home import Home
from tune.store.integrity import connect_to_read
from tune.store.layout import STORE_FILE
from tune.store.study_folder import StudyFolder
from tune.trials.study_trials import StudyTrials

Command = Callable[..., Done]
NOBODY = 65534


@contextmanager
def reading_alone(folder: Path) -> Iterator[None]:
    """For the block, this process may read everything below a folder and write nothing: another user's home."""
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    user = os.geteuid()
    # Matplotlib looks into its user's folder when it is loaded: root's, which the other user cannot open.
    import matplotlib.pyplot  # noqa: F401

    if user == 0:  # root may write whatever the permissions say
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
    try:
        with pytest.raises(PermissionError):
            (folder / "canary").touch()
        yield
    finally:
        if user == 0:
            os.seteuid(0)
            os.setegid(0)
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user can go to."""
    place = Path(tempfile.mkdtemp(prefix="ssl-tune-public-"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


@pytest.mark.parametrize("left", ["as its driver left it", "with events that wait in the write-ahead log"])
def test_23_a_home_that_cannot_be_written_is_read_and_not_carried_on(
    finished: Home, public: Path, ssl_tune: Command, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = copy_home(finished, public / "home")
    folder = home.study_folder("shapes")
    waiting = "write-ahead" in left
    hold = None
    if waiting:  # a driver was killed: what it wrote last is beside the databases
        hold = [sqlite3.connect(folder / name) for name in ("events.db", "optuna.db")]
        for database in hold:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA wal_autocheckpoint = 0")
        with hold[0]:
            hold[0].execute("INSERT OR REPLACE INTO meta VALUES ('elapsed', '77.0')")
        copied = public / "snapshot"  # of a disk: nothing has the files open there
        shutil.copytree(home.path, copied)
        for database in hold:
            database.close()
        home = Home(copied)
        folder = home.study_folder("shapes")
        for path in folder.glob("*-shm"):
            path.unlink()
        assert (folder / "events.db-wal").stat().st_size > 0
    out = public / "out"
    out.mkdir()
    out.chmod(0o777)
    monkeypatch.setenv("HOME", str(out))
    monkeypatch.setattr(tempfile, "tempdir", str(out))
    before = {p.relative_to(home.path) for p in home.path.rglob("*")}
    with reading_alone(home.path):
        at = ("--home", home.path)
        assert ssl_tune("studies", *at).code == 0
        status = ssl_tune("status", "shapes", *at, "--json")
        assert status.code == 0 and status.document["state"] == "finished", status
        if waiting:
            assert status.document["cost"]["actual"]["seconds"] == 77.0
        assert len(ssl_tune("trials", "shapes", *at, "--json").document) == 6
        assert ssl_tune("export", "shapes", "-o", out / "best.yaml", *at).code == 0
        assert ssl_tune("figures", "shapes", "-o", out / "figures", *at).code == 0
        page = ssl_tune("report", "shapes", "-o", out / "page.html", *at)
        assert page.code == 0 and (out / "page.html").stat().st_size > 10_000, page
        for words in (("sync", "shapes"), ("repair", "shapes")):
            done = ssl_tune(*words, *at)
            assert done.code == Exit.STORAGE and len(done.err.splitlines()) == 1, done
            assert "can be read here, but not written" in done.err
    assert {p.relative_to(home.path) for p in home.path.rglob("*")} == before


def test_23_resume_of_a_study_that_cannot_be_written_is_one_message(
    home: Home, public: Path, ssl_tune: Command
) -> None:
    place = Home(public / "home")
    make_study(place)
    with reading_alone(place.path):
        assert ssl_tune("status", "s", "--home", place.path).code == 0
        done = ssl_tune("resume", "s", "--home", place.path)
    assert done.code == Exit.STORAGE and len(done.err.splitlines()) == 1, done
    assert "the study 's' can be read here, but not written" in done.err


def test_23_what_waits_in_a_journal_is_undone_in_a_copy(public: Path) -> None:
    """A hot journal: a transaction that was under way when the machine died."""
    path = public / "place" / "a.db"
    path.parent.mkdir()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE t (x)")
        database.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(5000)])
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("PRAGMA cache_size = 1")
    writer.execute("BEGIN")
    writer.execute("UPDATE t SET x = -1")
    shutil.copytree(path.parent, public / "snapshot")
    writer.close()
    assert (public / "snapshot" / "a.db-journal").stat().st_size > 0
    with reading_alone(public / "snapshot"):
        found = connect_to_read(public / "snapshot" / "a.db")
        assert found.execute("SELECT min(x), max(x) FROM t").fetchone() == (0, 4999)
        found.close()


# Locks


def test_9_polling_a_study_does_not_keep_its_driver_out(home: Home) -> None:
    folder, _ = make_study(home)
    over = threading.Event()

    def poll() -> None:
        while not over.is_set():
            StudyFolder(folder.path).is_locked()

    threads = [threading.Thread(target=poll) for _ in range(4)]
    for thread in threads:
        thread.start()
    taken = 0
    try:
        for _ in range(200):
            driver = StudyFolder(folder.path)
            driver.lock()  # raises where it is held
            taken += 1
            driver.unlock()
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert taken == 200 and not StudyFolder(folder.path).is_locked()


def test_9_a_lock_that_somebody_looks_at_is_waited_for_and_one_that_is_held_is_not(home: Home) -> None:
    folder, _ = make_study(home)
    with (folder.path / "lock").open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.3, lambda: fcntl.flock(looking, fcntl.LOCK_UN)).start()
        folder.lock()
    with pytest.raises(ServiceError, match=f"process {os.getpid()}") as refused:
        StudyFolder(folder.path).lock()
    assert refused.value.code == Exit.IN_USE
    folder.unlock()
    assert (folder.path / "lock").read_text() == ""  # nobody is told of a driver that has ended


def test_9_read_access_is_enough_to_look(public: Path) -> None:
    place = Home(public / "home")
    folder, _ = make_study(place)
    with reading_alone(place.path):
        assert not StudyFolder(folder.path).is_locked()
        assert StudyFolder(folder.path).state() == "interrupted"
    folder.lock()
    with reading_alone(place.path):
        assert StudyFolder(folder.path).is_locked()
        assert StudyFolder(folder.path).state() == "running"
    folder.unlock()


# Half-made studies


@pytest.mark.parametrize("kept", [(), ("lock",), ("lock", "state.json"), ("lock", "state.json", "method.py")])
def test_12_a_study_whose_driver_was_killed_before_its_specification_is_made_anew(
    home: Home, ssl_tune: Command, kept: tuple[str, ...]
) -> None:
    folder = StudyFolder(home.study_folder("s"))
    folder.path.mkdir(parents=True)
    for name in kept:
        (folder.path / name).write_text("{}" if name == "state.json" else "")
    done = ssl_tune("resume", "s")
    assert done.code == 2 and ("search --name s" in done.err or not kept), done
    assert ssl_tune("studies", "--json").document == []
    folder.create(make_spec(home))
    folder.unlock()
    assert load_study("s", home=home.path).status()["state"] == "interrupted"
    with pytest.raises(ConfigError, match="exists already"):
        StudyFolder(folder.path).create(make_spec(home))


def test_12_a_folder_that_is_being_made_is_left_to_its_driver(home: Home) -> None:
    folder = StudyFolder(home.study_folder("s"))
    folder.path.mkdir(parents=True)
    folder.lock()  # of the one that makes it
    with pytest.raises(ServiceError, match="in use by another driver"):
        StudyFolder(folder.path).create(make_spec(home))
    assert folder.path.exists()
    folder.unlock()


def test_12_a_warm_start_whose_storage_is_away_leaves_nothing(home: Home, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    earlier, spec = make_study(home, name="earlier", storage=url)
    StudyTrials(earlier, spec).close()
    later = make_spec(home, warm_start="earlier")
    (tmp_path / "trials.db").write_bytes(b"this is no database " * 500)
    with pytest.raises(ServiceError, match="cannot be used"):
        create_study(later, StudyFolder(home.study_folder("s")))
    assert not home.study_folder("s").exists() and home.study_names() == ["earlier"]


# A trial of somebody else


@pytest.fixture
def queued(ready_home: Home) -> tuple[StudyFolder, optuna.Study]:
    folder, spec = make_study(ready_home, trials=3, epochs=2)
    StudyTrials(folder, spec).close()
    return folder, optuna.load_study(study_name="s", storage=f"sqlite:///{folder.optuna_db}")


def test_14_a_trial_that_somebody_enqueued_is_run_like_any_other(
    local_ray: None, ready_home: Home, queued: tuple[StudyFolder, optuna.Study]
) -> None:
    _, study = queued
    study.enqueue_trial({"pseudo_label.threshold": 0.77})
    study.enqueue_trial({"lr": -3.0})
    study.enqueue_trial({"no such": 1})
    with pytest.warns(UserWarning, match=r"enqueued trial [12].*It is not run"):
        found = tune.resume("s", home=ready_home.path, quiet=True)
    records = found.records()
    assert [r.state for r in records] == ["completed"] * 3 or {r.state for r in records} <= {
        "completed", "stopped_early",
    }  # fmt: skip
    assert [r.trial for r in records] == ["0", "3", "4"]
    assert records[0].params["pseudo_label.threshold"] == 0.77
    assert found.status()["state"] == "finished" and found.status()["trials"]["running"] == 0


def test_14_a_trial_that_is_enqueued_between_two_asks_is_next(
    ready_home: Home, queued: tuple[StudyFolder, optuna.Study]
) -> None:
    folder, study = queued
    records = StudyTrials(folder, load_study("s", home=ready_home.path).spec)
    assert records.ask().number == 0
    study.add_trial(optuna.create_trial(value=1.0))  # number 1, somebody's result
    study.ask()  # number 2, which somebody else begins
    study.enqueue_trial({"pseudo_label.threshold": 0.66})
    enqueued = records.ask()
    assert enqueued.number == 3 and enqueued.params["pseudo_label.threshold"] == 0.66
    assert records.ask().number == 4 and records.asked() == 3
    records.close()
    assert [r.trial for r in load_study("s", home=ready_home.path).records()] == ["0", "3", "4"]


# The home's own note


def test_11_a_working_copy_s_url_is_written_once_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_TUNE_WORK", str(tmp_path / "work"))
    written: list[Path] = []
    write = home_module.write_atomically
    monkeypatch.setattr(
        home_module, "write_atomically", lambda path, data: (written.append(path), write(path, data))
    )
    homes = [Home("memory://bucket/place") for _ in range(3)]
    assert written == [homes[0].path / STORE_FILE]
    assert (homes[0].path / STORE_FILE).read_text() == "memory://bucket/place"
    with EventLog(tmp_path / "events.db"):
        pass
