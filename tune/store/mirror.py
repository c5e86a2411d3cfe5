"""The driver's side of a study in an object store: holds the study and commits its working copy.

The other side is `tune.store.remote_study`.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from ssl_core.system.files import write_atomically
from tune.errors import Exit, ServiceError
from tune.store.layout import DRIVER, LIMIT_FILE, READINGS_FILE, STOP, prefix_of
from tune.store.object_store import StoreError
from tune.store.remote_study import LEASE, RemoteStudy
from tune.store.snapshot import name_of, number_of, pack, signature

BEAT, COMMIT, LOOK = 15.0, 5.0, 2.0
"""Seconds: the driver is heard of; changes are committed; somebody may have asked it to stop."""
SETTLE = 1.0
"""Seconds that a driver waits before it believes that the study is its own: of two that begin at once, the one that
wrote its name last has it."""
SHARE = 0.05
"""Of the time, at most, goes into commits that nobody waits for: a large study's take longer, and come less often."""


class Mirror:
    """Holds a study, and commits its working copy until it is closed.

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
        self._committed: object = None
        self._ended_trials: list[int] = []
        self._readings = 0
        self._heard = time.monotonic()
        self._looked = 0.0
        self.trouble: str | None = None
        """What could not be written for too long, or who has taken the study over."""
        self._take()
        self._states = remote.states()
        if self._states and remote.known() != self._states[-1]:
            self._store.remove(f"{self._prefix}/{DRIVER}")
            raise ServiceError(
                f"the study {self._folder.name!r} was carried on by another driver a moment ago. Try again.",
                Exit.IN_USE,
            )
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
            ended, found = list(self._ended_trials), signature(self._folder)
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
        if other is not None and other["copy"] != _copy(
            self._folder
        ):  # whose lock, which is ours now, was free
            silent = time.time() - other["beat"]
            raise ServiceError(
                f"the study {self._folder.name!r} is in use by a driver on {other['host']} (process {other['pid']}), "
                f"last heard of {silent:.0f} s ago. Wait for it, or end its sitting with `ssl-tune stop "
                f"{self._folder.name}`; if that machine is gone, the study is free in {LEASE - silent:.0f} s.",
                Exit.IN_USE,
            )
        self._beat()
        self._store.remove(f"{self._prefix}/{STOP}")  # meant for the driver before
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
        data, last_event = pack(self._folder)
        number = 1 + (number_of(self._states[-1]) if self._states else 0)
        state = name_of(number, data)
        self._store.put(f"{self._prefix}/state/{state}", data)
        self._remote.note(state)
        # From here on MLflow may hear of it: see `tune.store.event_log`.
        write_atomically(self._folder / LIMIT_FILE, str(last_event).encode())
        self._states.append(state)
        while len(self._states) > 2:
            self._store.remove(f"{self._prefix}/state/{self._states.pop(0)}")

    def _keep_readings(self) -> None:
        """What this machine has noted of readings of a test set (`tune.store.home.Home.test_readings`)."""
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
                if self._store.get(f"{self._prefix}/{STOP}") is not None:
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


def _copy(folder: Path) -> str:
    """A name for all working copies of this home folder: drivers that share it keep each other out by locks."""
    path = folder.parent.parent / "copy"
    if not path.exists():
        write_atomically(path, uuid.uuid4().hex.encode())
    return path.read_text()
