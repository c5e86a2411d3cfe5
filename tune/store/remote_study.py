"""A study whose home is a place in an object store: its state there, and the working copy that a machine has of it.

A driver works on an ordinary folder of its own machine. What has to outlive that machine is *committed*: a snapshot of
the study's small files and databases, as one object (`tune.store.snapshot`), so that a reader sees all of it or none.
It is committed before a trial is started, and every few seconds if anything has changed since (`tune.store.mirror`).
Trials' checkpoints are objects of their own, which workers write (`tune.worker.trial_files`) and which hold all reports
so far: a snapshot may be older than they are, and loses nothing.

    test-readings/COPY.jsonl                      what a machine has read of test sets
    studies/NAME/state/0000000012-SHA256.tar.gz   the newest snapshot and the one before
                 parts/0000000012-SHA256.gz       what changed in databases that are too large to be written each time
                 trials/7/epoch-000004.ckpt       checkpoints, a run's picture, its traceback
                 driver.json                      who drives it, and when that driver was last heard of
                 inbox/                           what else somebody asks of that driver, one object each
                 stop                             there while somebody asks that driver to end its sitting

An object store has no locks. A driver writes its name every few seconds (`tune.store.lease`) and is taken for gone
after LEASE seconds of silence; before it commits it looks whether the study is still its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import tarfile
import time
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ssl_core.system.errors import ConfigError
from ssl_core.system.files import write_atomically
from tune.store.layout import (
    DRIVER,
    FETCH_LOCK,
    INBOX,
    INCARNATION,
    KNOWN,
    LIMIT_FILE,
    LOCK_FILE,
    PARTS,
    STOP,
    STORE_FILE,
    TRIALS,
    prefix_of,
)
from tune.store.object_store import ObjectStore, StoreError
from tune.store.snapshot import is_snapshot, is_whole, unpack

LEASE = 60.0
"""Seconds of silence after which a driver is taken for gone."""


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
        """What a worker needs to know: see `tune.worker.trial_files`."""
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
        return [name for name in self.store.names(f"{self._prefix}/state") if is_snapshot(name)]

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
                self._unpack_newest(states)
                self._fetch_notes()
        return True

    def known(self) -> str | None:
        """The snapshot that the working copy was made from or has last become."""
        path = self.folder / KNOWN
        document = mapping_of(path.read_bytes()) if path.exists() else {}
        return str(document["state"]) if "state" in document else None

    def note(self, state: str) -> None:
        """Remember which snapshot the working copy is."""
        write_atomically(self.folder / KNOWN, json.dumps({"state": state}).encode())

    def driver(self) -> dict[str, Any] | None:
        """Who drives the study, where somebody was heard of lately."""
        text = self.store.get(f"{self._prefix}/{DRIVER}")
        found = {} if text is None else mapping_of(text)
        beat = found.get("beat")
        return found if isinstance(beat, int | float) and time.time() - beat < LEASE else None

    def request_stop(self) -> None:
        """Ask the driver, wherever it is, to end its sitting resumably."""
        self.store.put(f"{self._prefix}/{STOP}", b"")

    def put_wish(self, name: str, data: bytes) -> None:
        """Ask something else of the driver, wherever it is (`tune.steering.inbox`)."""
        self.store.put(f"{self._prefix}/{INBOX}/{name}", data)

    def wishes(self) -> list[str]:
        """Names of the wishes that the store has."""
        return self.store.names(f"{self._prefix}/{INBOX}")

    def keep(self, trial: int, name: str) -> None:
        """Write a trial's file to the store, for the machine on which it goes on."""
        data = (self.folder / TRIALS / str(trial) / name).read_bytes()
        self.store.put(f"{self._prefix}/trials/{trial}/{name}", data)

    def drop(self, trial: int, name: str) -> None:
        """Remove a trial's file from the store."""
        self.store.remove(f"{self._prefix}/trials/{trial}/{name}")

    def bring(self, trial: int, name: str) -> None:
        """Get a trial's file, where a worker elsewhere wrote one and it is not here yet."""
        path = self.folder / TRIALS / str(trial) / name
        data = None if path.exists() else self.store.get(f"{self._prefix}/trials/{trial}/{name}")
        if data is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data)

    def _fetch_notes(self) -> None:
        for name in self.store.all_below(f"{self._prefix}/trials"):
            trial, _, file = name.partition("/")
            if trial.isdecimal() and trial.isascii() and "/" not in file and not file.endswith(".ckpt"):
                self.bring(int(trial), file)

    def _part(self, name: str) -> bytes | None:
        """A part of a state's databases; None where it is gone."""
        return self.store.get(f"{self._prefix}/{PARTS}/{name}")

    def _unpack_newest(self, states: list[str]) -> None:
        """Make the working copy the newest snapshot, also while a driver writes others and removes those.

        Raises:
            StoreError: none is whole.
        """
        while True:
            try:
                self._unpack(states)
                return
            except StoreError:
                if (now := self.states()) == states:
                    raise
                states = now

    def _unpack(self, states: list[str]) -> None:
        """Make the working copy the newest snapshot that is whole.

        Raises:
            StoreError: none is.
        """
        for state in reversed(states):
            data = self.store.get(f"{self._prefix}/state/{state}")
            if data is None or not is_whole(state, data):
                continue
            try:
                if unpack(data, self.folder, self._part):
                    break
            except (tarfile.TarError, EOFError, zlib.error) as error:
                raise StoreError(
                    f"{self.store.url}: the state {state} of the study {self.folder.name!r} cannot be unpacked: {error}"
                ) from None
        else:
            raise StoreError(f"{self.store.url} holds no whole state of the study {self.folder.name!r}")
        (self.folder / LIMIT_FILE).unlink(missing_ok=True)
        self.note(state)


def mapping_of(text: bytes) -> dict[str, Any]:
    """A JSON object; an empty one where it is none, as where there is no file."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def _free(folder: Path) -> Iterator[bool]:
    """Hold a working copy for the block; yields False where a driver of this machine is at work on it.

    Commands that bring it up to date wait for each other.
    """
    with (folder / FETCH_LOCK).open("a+") as turn, (folder / LOCK_FILE).open("a+") as file:
        fcntl.flock(turn, fcntl.LOCK_EX)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def check_store_writable(store: ObjectStore) -> None:
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


def remote_of(folder: Path) -> RemoteStudy | None:
    """The place in an object store of which a study's folder is the working copy; None where it is none."""
    marker = folder.parent.parent / STORE_FILE
    if not marker.exists():
        return None
    return RemoteStudy(ObjectStore(marker.read_text()), folder)
