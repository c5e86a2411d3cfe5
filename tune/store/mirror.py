"""What is committed of a study in an object store: the driver's side of it (`tune.store.remote_study`)."""

from __future__ import annotations

import threading
import time

from ssl_core.system.files import write_atomically
from tune.errors import Exit, ServiceError
from tune.store.changes.chain import Chain
from tune.store.layout import (
    INBOX,
    LIMIT_FILE,
    PARTS,
    READINGS_FILE,
    STOP,
    STUDY_FILE,
    is_wish_name,
    prefix_of,
)
from tune.store.lease import BEAT, LOOK, Lease, copy_name
from tune.store.object_store import StoreError
from tune.store.remote_study import LEASE, RemoteStudy
from tune.store.snapshot import name_of, number_of, pack, signature

COMMIT = 5.0
"""Seconds between two commits, where something has changed."""
KEPT_NUMBERS = 100
"""Numbers of states that stay taken, for writes that come late."""
SHARE = 0.05
"""Share of the time, at most, that goes into commits that nobody waits for: those of a large study take longer, and
come less often."""


class Mirror:
    """Holds a study, and commits its working copy until it is closed.

    Args:
        remote: the study, whose working copy this process has locked.

    Raises:
        ServiceError: another driver has it.
        StoreError: the store does not answer.
    """

    def __init__(self, remote: RemoteStudy) -> None:
        self._remote, self._store, self._folder = remote, remote.store, remote.folder
        self._prefix = prefix_of(remote.folder.name)
        self._mutex, self._end = threading.Lock(), threading.Event()
        self._committed: object = None
        self._chain = Chain()
        self._ended_trials: list[int] = []
        self._wishes_done: dict[str, bool] = {}  # by name, whether the store has it still
        self._readings = 0
        self._unwritten: str | None = None
        self._lease = Lease(remote)
        self._states = remote.states()
        # An earlier driver may have taken a number and died before it wrote the state: that one is left out.
        taken = [int(name) for name in self._store.names(f"{self._prefix}/numbers")]
        self._number = max([number_of(state) for state in self._states] + taken, default=0)
        if self._states and remote.known() != self._states[-1]:
            self._lease.release()
            raise ServiceError(
                f"the study {self._folder.name!r} was carried on by another driver a moment ago. Try again.",
                Exit.IN_USE,
            )
        if (self._folder / STUDY_FILE).exists():
            self.commit()
        self._fetch_wishes()
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
        self._thread.start()

    @property
    def trouble(self) -> str | None:
        """What could not be written for too long, or who has taken the study over; None where all is well."""
        return self._lease.lost or self._unwritten

    def commit(self) -> None:
        """Write what has changed since the last snapshot; returns when it is in the store.

        Raises:
            StoreError: it could not be written, or the study is another driver's now.
        """
        with self._mutex:
            self._lease.check()
            ended, found = list(self._ended_trials), signature(self._folder)
            if found != self._committed:
                self._write()
                self._committed = found
            for trial in ended:  # only now nobody needs its checkpoints any more
                self._store.remove_all(f"{self._prefix}/trials/{trial}")
                self._ended_trials.remove(trial)
            for name in [name for name, is_there in self._wishes_done.items() if is_there]:
                self._store.remove(f"{self._prefix}/{INBOX}/{name}")
                self._wishes_done[name] = False
            self._keep_readings()

    def forget_wish(self, name: str) -> None:
        """Remove a wish's object once what it asked for is committed."""
        self._wishes_done[name] = True

    def _fetch_wishes(self) -> None:
        """Bring what other machines ask of this driver."""
        for name in self._store.names(f"{self._prefix}/{INBOX}"):
            path = self._folder / INBOX / name
            if not is_wish_name(name) or name in self._wishes_done or path.exists():
                continue
            if (data := self._store.get(f"{self._prefix}/{INBOX}/{name}")) is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, data)

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
        self._lease.release()

    def abandon(self) -> None:
        """Let go of a study that came to nothing, and leave nothing of it."""
        self._end.set()
        self._thread.join()
        self._store.remove_all(self._prefix)

    def _write(self) -> None:
        number = self._number = self._number + 1
        packed = pack(self._folder, self._chain, number)
        part = packed.part
        state = name_of(number, packed.data, in_parts=part is not None)
        self._claim(number)
        if part is not None:
            self._store.put(f"{self._prefix}/{PARTS}/{part.name}", part.data)
        self._store.put(f"{self._prefix}/state/{state}", packed.data)
        if part is not None:
            self._chain.adopt(part)
        self._remote.note(state)
        # MLflow may hear of these events from now on: see `tune.store.event_log`.
        write_atomically(self._folder / LIMIT_FILE, str(packed.last_event).encode())
        self._states.append(state)
        while len(self._states) > 2:
            self._store.remove(f"{self._prefix}/state/{self._states.pop(0)}")
        if self._chain.may_clean:
            for name in self._chain.left_behind(self._store.names(f"{self._prefix}/{PARTS}")):
                self._store.remove(f"{self._prefix}/{PARTS}/{name}")
            self._chain.cleaned()

    def _claim(self, number: int) -> None:
        """Take a state's number, which one driver alone can have: a write of an earlier driver that comes late loses.

        Raises:
            StoreError: another driver has it.
        """
        if not self._store.create(f"{self._prefix}/numbers/{number:010d}", self._lease.me.encode()):
            self._lease.lost = "another driver has taken the study over: it wrote the next state first"
            raise StoreError(self._lease.lost)
        if number > KEPT_NUMBERS:
            self._store.remove(f"{self._prefix}/numbers/{number - KEPT_NUMBERS:010d}")

    def _keep_readings(self) -> None:
        """What this machine has noted of readings of a test set (`tune.store.home.Home.test_readings`)."""
        path = self._folder.parent.parent / READINGS_FILE
        size = path.stat().st_size if path.exists() else 0
        if size != self._readings:
            self._store.put(f"test-readings/{copy_name(self._folder)}.jsonl", path.read_bytes())
            self._readings = size

    def _run(self) -> None:
        next_commit, next_beat = time.monotonic() + COMMIT, time.monotonic() + BEAT
        while not self._end.wait(LOOK):
            try:
                self._lease.check()
                if self._lease.stop_requested():
                    (self._folder / STOP).touch()
                self._fetch_wishes()
                if time.monotonic() >= next_beat:
                    self._lease.renew()
                    next_beat = time.monotonic() + BEAT
                if (began := time.monotonic()) >= next_commit:
                    self.commit()
                    took = time.monotonic() - began
                    next_commit = time.monotonic() + max(COMMIT, took / SHARE)
            except (
                Exception
            ) as error:  # an SQLite error, say: a thread that ended would end the heartbeat unheard
                # No other driver takes the study over before the lease is out, so until then there is time.
                if self._lease.lost or time.monotonic() - self._lease.written > LEASE - BEAT:
                    self._unwritten = str(error)
                    return
