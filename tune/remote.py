"""A study whose home is a place in an object store: its state there, and the working copy that a machine has of it.

A driver works on an ordinary folder of its own machine. What has to outlive that machine is *committed*: a snapshot of
the study's small files and databases, as one object, so that a reader sees all of it or none. `tune.searcher` commits
before a trial is started; a thread commits every few seconds what has changed since. Trials' checkpoints are objects of
their own, which workers write (`tune.trial_store`) and which hold all reports so far: a snapshot may be older than they
are, and loses nothing.

    test-readings/COPY.jsonl                      what a machine has read of test sets
    studies/NAME/state/0000000012-SHA256.tar.gz   the newest snapshot and the one before
                 trials/7/epoch-000004.ckpt       checkpoints, a run's picture, its traceback
                 driver.json                      who drives it, and when that driver was last heard of
                 stop                             there while somebody asks that driver to end its sitting

An object store has no locks. A driver writes its name every BEAT seconds and is taken for gone after LEASE seconds of
silence; it looks whether the study is still its own before it commits.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import io
import json
import os
import shutil
import socket
import sqlite3
import tarfile
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ssl_core.errors import ConfigError
from ssl_core.files import write_atomically
from tune.errors import Exit, ServiceError
from tune.events import LIMIT_FILE
from tune.home import READINGS_FILE
from tune.object_store import ObjectStore, StoreError
from tune.study import INCARNATION

LEASE, BEAT, COMMIT, LOOK = 60.0, 15.0, 5.0, 2.0
"""Seconds: a silent driver is gone; it is heard of; changes are committed; somebody may have asked it to stop."""
SETTLE = 1.0
"""Seconds that a driver waits before it believes that the study is its own: of two that begin at once, the one that
wrote its name last has it."""
SHARE = 0.05
"""Of the time, at most, goes into commits that nobody waits for: a large study's take longer, and come less often."""

KNOWN, DRIVER = "store.json", "driver.json"
_OWN_FILES = {KNOWN, LIMIT_FILE, "lock", "sender.lock", "stop"}  # of this machine alone
_OWN_FOLDERS = {"trials", "ray"}  # objects of their own; what Ray leaves, which nobody reads
_OWN_ENDS = (".tmp", ".ckpt", ".damaged", "-wal", "-shm", "-journal", ".lock")
_FIRST, _LAST = "optuna.db", "events.db"  # the log is always ahead of Optuna, as `tune.recorder` writes them


def prefix_of(study: str) -> str:
    """Where a study lies in its store."""
    return f"studies/{study}"


class RemoteStudy:
    """A study in a store, and its working copy.

    Args:
        store: the home.
        folder: the working copy, whether there is one yet or not.
    """

    def __init__(self, store: ObjectStore, folder: Path) -> None:
        self.store, self.folder = store, folder
        self._prefix = prefix_of(folder.name)

    def place(self) -> dict[str, str]:
        """What a worker needs to know: see `tune.trial_store`."""
        return {
            "url": self.store.url,
            "study": self.folder.name,
            "incarnation": (self.folder / INCARNATION).read_text(),
        }

    def exists(self) -> bool:
        """Whether the store has this study."""
        return bool(self.states())

    def states(self) -> list[str]:
        """The snapshots that are there, oldest first."""
        return self.store.names(f"{self._prefix}/state")

    def fetch(self) -> bool:
        """Bring the working copy up to the store's state; False where the store has none.

        A copy that this machine's own driver is at work on, or left behind when it died, is ahead of its last
        snapshot and stays, as long as nobody else has carried the study on.
        """
        states = self.states()
        if not states:
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        with _free(self.folder) as free:
            if free and self.known() not in states[-1:]:
                self._unpack(states)
                self._fetch_notes()
        return True

    def known(self) -> str | None:
        """The snapshot that the working copy was made from or has last become."""
        path = self.folder / KNOWN
        return str(json.loads(path.read_text())["state"]) if path.exists() else None

    def note(self, state: str) -> None:
        """Remember which snapshot the working copy is."""
        write_atomically(self.folder / KNOWN, json.dumps({"state": state}).encode())

    def driver(self) -> dict[str, Any] | None:
        """Who drives the study, where somebody was heard of lately."""
        text = self.store.get(f"{self._prefix}/{DRIVER}")
        found: dict[str, Any] | None = None if text is None else json.loads(text)
        return found if found is not None and time.time() - found["beat"] < LEASE else None

    def request_stop(self) -> None:
        """Ask the driver, wherever it is, to end its sitting resumably."""
        self.store.put(f"{self._prefix}/stop", b"")

    def keep(self, trial: int, name: str) -> None:
        """Give a trial's file to whichever machine it goes on at."""
        data = (self.folder / "trials" / str(trial) / name).read_bytes()
        self.store.put(f"{self._prefix}/trials/{trial}/{name}", data)

    def bring(self, trial: int, name: str) -> None:
        """Have a trial's file here, where a worker elsewhere left one."""
        path = self.folder / "trials" / str(trial) / name
        data = None if path.exists() else self.store.get(f"{self._prefix}/trials/{trial}/{name}")
        if data is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data)

    def _fetch_notes(self) -> None:
        for name in self.store.all_below(f"{self._prefix}/trials"):
            trial, _, file = name.partition("/")
            if trial.isdigit() and not file.endswith(".ckpt"):
                self.bring(int(trial), file)

    def _unpack(self, states: list[str]) -> None:
        """Make the working copy the newest snapshot that is whole.

        Raises:
            StoreError: none is.
        """
        for state in reversed(states):
            data = self.store.get(f"{self._prefix}/state/{state}")
            if data is not None and state == _name(_number(state), data):
                break
        else:
            raise StoreError(f"{self.store.url} holds no whole state of the study {self.folder.name!r}")
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=self.folder.parent) as place:
            new = Path(place)
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                archive.extractall(new, filter="data")
            if _text(new / INCARNATION) != _text(self.folder / INCARNATION):
                shutil.rmtree(self.folder / "trials", ignore_errors=True)  # of another study of this name
            for old in _files(self.folder):
                for end in ("", "-wal", "-shm", "-journal"):
                    (self.folder / f"{old}{end}").unlink(missing_ok=True)
            for file in _files(new):
                (self.folder / file).parent.mkdir(parents=True, exist_ok=True)
                (new / file).replace(self.folder / file)
        (self.folder / LIMIT_FILE).unlink(missing_ok=True)
        self.note(state)


class Mirror:
    """The driver's side: holds the study, and commits its working copy until it is closed.

    Args:
        remote: the study, whose working copy this process has locked.

    Raises:
        ServiceError: another machine drives it.
    """

    def __init__(self, remote: RemoteStudy) -> None:
        self._remote, self._store, self._folder = remote, remote.store, remote.folder
        self._prefix = prefix_of(remote.folder.name)
        self._me = uuid.uuid4().hex
        self._mutex, self._end = threading.Lock(), threading.Event()
        self._states = remote.states()
        self._committed: object = None
        self._ended_trials: list[int] = []
        self._readings = 0
        self._heard = time.monotonic()
        self._looked = 0.0
        self.trouble: str | None = None
        """What could not be written for too long, or who has taken the study over."""
        self._take()
        if (self._folder / "study.yaml").exists():
            self.commit()
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
        self._thread.start()

    def commit(self) -> None:
        """Write what has changed since the last snapshot; back when it is in the store.

        Raises:
            StoreError: it could not be written, or the study is another driver's now.
        """
        with self._mutex:
            self._check_mine()
            ended, found = list(self._ended_trials), _signature(self._folder)
            if found != self._committed:
                self._write()
                self._committed = found
            for trial in ended:  # only now nobody needs its checkpoints any more
                self._store.remove_all(f"{self._prefix}/trials/{trial}")
                self._ended_trials.remove(trial)
            self._keep_readings()

    def forget_trial(self, trial: int) -> None:
        """Remove a trial's objects once its end is committed."""
        self._ended_trials.append(trial)

    def close(self) -> None:
        """Commit for the last time and let the study go.

        Raises:
            StoreError: the last state could not be written: it is in the working copy alone.
        """
        self._end.set()
        self._thread.join()
        self.commit()
        self._store.remove(f"{self._prefix}/{DRIVER}")

    def abandon(self) -> None:
        """Let go of a study that came to nothing, and leave nothing of it."""
        self._end.set()
        self._thread.join()
        self._store.remove_all(self._prefix)

    def _take(self) -> None:
        other = self._remote.driver()
        mine = other is not None and other["copy"] == _copy(
            self._folder
        )  # its lock, which is ours now, was free
        if other is not None and not mine:
            silent = time.time() - other["beat"]
            raise ServiceError(
                f"the study {self._folder.name!r} is in use by a driver on {other['host']} (process {other['pid']}), "
                f"last heard of {silent:.0f} s ago. Wait for it, or end its sitting with `ssl-tune stop "
                f"{self._folder.name}`; if that machine is gone, the study is free in {LEASE - silent:.0f} s.",
                Exit.IN_USE,
            )
        self._beat()
        self._store.remove(f"{self._prefix}/stop")  # meant for the driver before
        time.sleep(SETTLE)
        if (holder := self._holder()).get("driver") != self._me:
            raise ServiceError(
                f"the study {self._folder.name!r} was taken at the same moment by a driver on {holder.get('host')}.",
                Exit.IN_USE,
            )

    def _beat(self) -> None:
        document = {
            "driver": self._me,
            "copy": _copy(self._folder),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "beat": time.time(),
        }
        self._store.put(f"{self._prefix}/{DRIVER}", json.dumps(document).encode())
        self._heard = time.monotonic()

    def _check_mine(self) -> None:
        if time.monotonic() - self._looked < LOOK:
            return
        if (holder := self._holder()).get("driver") != self._me:
            self.trouble = (
                f"another driver, on {holder.get('host', 'an unknown machine')}, has taken the study over"
            )
            raise StoreError(self.trouble)
        self._looked = time.monotonic()

    def _holder(self) -> dict[str, Any]:
        text = self._store.get(f"{self._prefix}/{DRIVER}")
        return {} if text is None else dict(json.loads(text))

    def _write(self) -> None:
        data, last_event = _packed(self._folder)
        number = 1 + (_number(self._states[-1]) if self._states else 0)
        state = _name(number, data)
        self._store.put(f"{self._prefix}/state/{state}", data)
        self._remote.note(state)
        # From here on MLflow may hear of it: see `tune.events`.
        write_atomically(self._folder / LIMIT_FILE, str(last_event).encode())
        self._states.append(state)
        while len(self._states) > 2:
            self._store.remove(f"{self._prefix}/state/{self._states.pop(0)}")

    def _keep_readings(self) -> None:
        """What this machine has noted of readings of a test set (`tune.home.Home.test_readings`)."""
        path = self._folder.parent.parent / READINGS_FILE
        size = path.stat().st_size if path.exists() else 0
        if size != self._readings:
            self._store.put(f"test-readings/{_copy(self._folder)}.jsonl", path.read_bytes())
            self._readings = size

    def _run(self) -> None:
        next_commit, next_beat = time.monotonic() + COMMIT, time.monotonic() + BEAT
        while not self._end.wait(LOOK):
            try:
                self._check_mine()
                if self._store.get(f"{self._prefix}/stop") is not None:
                    (self._folder / "stop").touch()
                if time.monotonic() >= next_beat:
                    self._beat()
                    next_beat = time.monotonic() + BEAT
                if (began := time.monotonic()) >= next_commit:
                    self.commit()
                    took = time.monotonic() - began
                    next_commit = time.monotonic() + max(COMMIT, took / SHARE)
            except OSError as error:
                # Nobody takes the study over before the lease is out, so until then there is time.
                if self.trouble is not None or time.monotonic() - self._heard > LEASE - BEAT:
                    self.trouble = self.trouble or str(error)
                    return


def _packed(folder: Path) -> tuple[bytes, int]:
    """A snapshot of a working copy as a compressed tar file, and the number of the last event in it."""
    buffer, last_event = io.BytesIO(), 0
    names = _files(folder)
    order = {_FIRST: -1, _LAST: 1}
    with (
        tempfile.TemporaryDirectory(prefix="ssl-tune-") as place,
        gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as archive,
    ):
        for name in sorted(names, key=lambda name: (order.get(name, 0), name)):
            path = folder / name
            if name.endswith(".db"):
                path = Path(place) / Path(name).name
                _copy_database(folder / name, path)
                if name == _LAST:
                    last_event = _last_event(path)
            with contextlib.suppress(FileNotFoundError):  # gone since
                archive.add(path, name, recursive=False)
    return buffer.getvalue(), last_event


def _copy_database(source: Path, target: Path) -> None:
    with (
        contextlib.closing(
            sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=30)
        ) as live,
        contextlib.closing(sqlite3.connect(target)) as copy,
    ):
        live.backup(copy)


def _last_event(database: Path) -> int:
    with contextlib.closing(sqlite3.connect(database)) as log:
        try:
            (found,) = log.execute("SELECT max(id) FROM events").fetchone()
        except sqlite3.OperationalError:  # its tables are still being made
            return 0
    return int(found or 0)


def _files(folder: Path) -> list[str]:
    """What belongs to a study's state, relative to its folder."""
    found = []
    for place, folders, files in os.walk(folder):
        here = Path(place)
        if here == folder:
            folders[:] = [name for name in folders if name not in _OWN_FOLDERS]
        folders[:] = [name for name in folders if not name.startswith(".")]
        mine = [n for n in files if not (n in _OWN_FILES or n.startswith(".") or n.endswith(_OWN_ENDS))]
        found += [str((here / name).relative_to(folder)) for name in mine]
    return sorted(found)


def _signature(folder: Path) -> object:
    """What changes when anything in the state does."""
    found = []
    for name in _files(folder):
        for end in ("", "-wal") if name.endswith(".db") else ("",):
            with contextlib.suppress(FileNotFoundError):
                status = (folder / f"{name}{end}").stat()
                found.append((name, end, status.st_mtime_ns, status.st_size))
    return found


def _name(number: int, data: bytes) -> str:
    return f"{number:010d}-{hashlib.sha256(data).hexdigest()[:32]}.tar.gz"


def _number(state: str) -> int:
    return int(state.partition("-")[0])


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def _copy(folder: Path) -> str:
    """A name for all working copies of this home folder: drivers that share it keep each other out by locks."""
    path = folder.parent.parent / "copy"
    if not path.exists():
        write_atomically(path, uuid.uuid4().hex.encode())
    return path.read_text()


@contextlib.contextmanager
def _free(folder: Path) -> Iterator[bool]:
    """Whether no driver of this machine is at work on a working copy; none begins within the block.

    Of several commands that bring it up to date, one does so at a time.
    """
    with (folder / "fetch.lock").open("a+") as turn, (folder / "lock").open("a+") as file:
        fcntl.flock(turn, fcntl.LOCK_EX)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def check_writable(store: ObjectStore) -> None:
    """Raise ConfigError unless objects can be written, read and removed there; leaves nothing behind."""
    name, word = f".token-{uuid.uuid4().hex}", uuid.uuid4().hex.encode()
    try:
        store.put(name, word)
        found = store.get(name)
        store.remove(name)
    except StoreError as error:
        raise ConfigError(
            f"the home {store.url} cannot be used: {error}. Check the login and the name."
        ) from None
    if found != word:
        raise ConfigError(f"the home {store.url} cannot be used: it does not give back what was written.")
