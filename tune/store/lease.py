"""Who drives a study in an object store. A store has no locks: the driver writes its name there again and again."""

from __future__ import annotations

import json
import os
import shlex
import socket
import time
import uuid
from pathlib import Path
from typing import Any

from ssl_core.system.files import write_atomically
from tune.errors import Exit, ServiceError
from tune.store.layout import COPY_FILE, DRIVER, LEASES, STOP, prefix_of
from tune.store.object_store import StoreError
from tune.store.remote_study import LEASE, RemoteStudy, mapping_of

BEAT, LOOK = 15.0, 2.0
"""Seconds between two writings of the driver's name, and between two looks whether the study is still its own."""
SETTLE = 1.0
"""Seconds that a driver waits before it believes that the study is its own: of two that begin at once, the one that
wrote its name last has it."""


class Lease:
    """This process's hold on a study, from when it is made until it is released.

    Args:
        remote: the study, whose working copy this process has locked.

    Raises:
        ServiceError: another driver has the study.
        StoreError: the store does not answer.
    """

    def __init__(self, remote: RemoteStudy) -> None:
        self._remote, self._store, self._folder = remote, remote.store, remote.folder
        self._prefix = prefix_of(remote.folder.name)
        self.me = uuid.uuid4().hex
        """This driver's own name."""
        self._looked = 0.0
        self.written = time.monotonic()
        """When the driver's name was written last."""
        self.lost: str | None = None
        """Who has taken the study over, once somebody has."""
        self._take()

    def _take(self) -> None:
        other = self._remote.driver()
        mine = copy_name(self._folder)
        if (
            other is not None and other.get("copy") != mine
        ):  # a driver of this copy has ended: its lock is ours now
            silent = time.time() - other["beat"]
            stop = shlex.join(["ssl-tune", "stop", self._folder.name, "--home", self._store.url])
            raise ServiceError(
                f"the study {self._folder.name!r} is in use by a driver on {other.get('host')} (process "
                f"{other.get('pid')}), last heard of {silent:.0f} s ago. Wait for it, or end its sitting with `{stop}`;"
                f" if that machine is gone, the study is free in {LEASE - silent:.0f} s.",
                Exit.IN_USE,
            )
        self._claim()
        self.renew()
        self._store.remove(f"{self._prefix}/{STOP}")  # meant for the driver before
        time.sleep(SETTLE)
        if (holder := self._holder()).get("driver") != self.me:
            raise ServiceError(
                f"the study {self._folder.name!r} was taken at the same moment by a driver on {holder.get('host')}.",
                Exit.IN_USE,
            )

    def _claim(self) -> None:
        """Become the newest of the study's drivers: of two that begin at once, one.

        Raises:
            ServiceError: another driver was faster.
        """
        place = f"{self._prefix}/{LEASES}"
        known = self._store.names(place)
        mine = f"{1 + max(map(int, known), default=0):010d}"
        if not self._store.create(f"{place}/{mine}", self.me.encode()):
            raise ServiceError(
                f"the study {self._folder.name!r} was taken at the same moment by another driver.",
                Exit.IN_USE,
            )
        for old in known:
            self._store.remove(f"{place}/{old}")

    def _is_newest(self) -> bool:
        """Whether no driver has come after this one."""
        place = f"{self._prefix}/{LEASES}"
        known = self._store.names(place)
        return bool(known) and self._store.get(f"{place}/{known[-1]}") == self.me.encode()

    def renew(self) -> None:
        """Write the driver's name, with the time.

        Raises:
            StoreError: the store does not answer.
        """
        document = {
            "driver": self.me,
            "copy": copy_name(self._folder),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "beat": time.time(),
        }
        self._store.put(f"{self._prefix}/{DRIVER}", json.dumps(document).encode())
        self.written = time.monotonic()

    def check(self) -> None:
        """Look whether the study is still this driver's; the store is asked every LOOK seconds at most.

        Raises:
            StoreError: it is another's now, or the store does not answer.
        """
        if time.monotonic() - self._looked < LOOK:
            return
        holder = self._holder()
        if holder.get("driver") != self.me and self._is_newest():
            self.renew()  # an earlier driver's name came late
        elif holder.get("driver") != self.me:
            host = holder.get("host", "an unknown machine")
            self.lost = f"another driver, on {host}, has taken the study over"
            raise StoreError(self.lost)
        self._looked = time.monotonic()

    def stop_requested(self) -> bool:
        """Whether somebody has asked the driver to end its sitting."""
        return self._store.get(f"{self._prefix}/{STOP}") is not None

    def release(self) -> None:
        """Let the study go."""
        self._store.remove(f"{self._prefix}/{DRIVER}")

    def _holder(self) -> dict[str, Any]:
        text = self._store.get(f"{self._prefix}/{DRIVER}")
        return {} if text is None else mapping_of(text)


def copy_name(folder: Path) -> str:
    """The name of all working copies in this home folder: drivers that share it exclude each other by file locks."""
    path = folder.parent.parent / COPY_FILE
    if not path.exists():
        write_atomically(path, uuid.uuid4().hex.encode())
    return path.read_text()
