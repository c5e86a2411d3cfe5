"""The states of warm-ups on disk: FOLDER/<key>/epoch-<number>.ckpt, a checksummed checkpoint each.

Nothing here is ever in the way of a training. What is missing, damaged or cannot be read is trained; what cannot be
written is not kept. Files that were not used for longest go first.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_core.training import checkpoint
from ssl_core.training.checkpoint import DamagedCheckpointError

SHARE = 0.05
"""Of the disk space that would be free without the store: what it may take where nothing is said."""
STALE_SECONDS = 3600.0
"""A temporary file that is older was left by a process that was killed."""


@dataclass(frozen=True)
class _File:
    """A file of the store: its path, size in bytes, and when it was last written or taken, in Unix seconds."""

    path: Path
    size: int
    used: float


class WarmupStore:
    """A folder of warm-ups, shared by all processes that see it.

    Args:
        folder: made when there is something to keep.
        most: bytes that it may take; 0: nothing is kept or taken; None: `SHARE` of the free disk.
    """

    def __init__(self, folder: Path, most: int | None = None) -> None:
        self.folder, self.most = folder, most

    @property
    def is_off(self) -> bool:
        """Whether nothing is kept or taken."""
        return self.most == 0

    def epochs(self, key: str) -> list[int]:
        """Epochs after which the state of a warm-up is kept, the longest first."""
        try:
            return [] if self.is_off else checkpoint.epochs_in(self.folder / key)
        except OSError:
            return []

    def read(self, key: str, epoch: int) -> dict[str, Any] | None:
        """What is kept of a warm-up after an epoch; None where it is gone, damaged or cannot be read."""
        path = checkpoint.path_of(self.folder / key, epoch)
        try:
            return checkpoint.read(path)
        except DamagedCheckpointError as error:
            self.remove(key, epoch, str(error))
        except OSError:  # somebody made room, or the disk fails
            pass
        return None

    def used(self, key: str, epoch: int) -> None:
        """Note that a state was taken: what was not taken for longest goes first."""
        with contextlib.suppress(OSError):
            os.utime(checkpoint.path_of(self.folder / key, epoch))

    def remove(self, key: str, epoch: int, why: str) -> None:
        """Remove what no run can take.

        Args:
            key, epoch: which one.
            why: for the warning.
        """
        warnings.warn(f"a stored warm-up is removed and trained again: {why}", stacklevel=3)
        with contextlib.suppress(OSError):
            checkpoint.path_of(self.folder / key, epoch).unlink(missing_ok=True)

    def write(self, key: str, epoch: int, state: dict[str, Any]) -> bool:
        """Keep the state of a warm-up after an epoch, if there is room for it.

        Returns:
            Whether it is kept now.
        """
        path = checkpoint.path_of(self.folder / key, epoch)
        try:
            if self.is_off:
                return False
            if path.exists():
                self.used(key, epoch)
                return True
            data = checkpoint.packed(state)
            path.parent.mkdir(parents=True, exist_ok=True)
            if not self._make_room(len(data)):
                return False
            _write(path, data)
        except OSError:  # a full disk, a folder of somebody else's, one that was just removed
            return False
        return True

    def bound(self, taken: int) -> int:
        """Bytes that the store may take, if it takes `taken` now."""
        if self.most is not None:
            return self.most
        return int(SHARE * (shutil.disk_usage(self.folder).free + taken))

    def _make_room(self, size: int) -> bool:
        """Remove what was not used for longest until so many bytes more fit; False where they never will."""
        files = sorted(self._files(), key=lambda one: one.used)
        taken = sum(one.size for one in files)
        bound = self.bound(taken)
        if size > bound:
            return False
        for one in files:
            if taken + size <= bound:
                break
            one.path.unlink(missing_ok=True)
            taken -= one.size
            with contextlib.suppress(OSError):  # not empty yet
                if one.path.parent != self.folder:
                    one.path.parent.rmdir()
        return taken + size <= bound

    def _files(self) -> Iterator[_File]:
        """The store's files; those that a killed process left half-written are removed."""
        for folder in self.folder.iterdir():
            if not folder.is_dir():
                continue
            for path in folder.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    if path.name.startswith(".") and time.time() - status.st_mtime > STALE_SECONDS:
                        path.unlink(missing_ok=True)
                    else:
                        yield _File(path, status.st_size, status.st_mtime)


def _write(path: Path, data: bytes) -> None:
    """Write a file under another name, and rename it.

    It is not flushed to disk: after a power failure its checksum tells, and the warm-up is trained again. The name is
    unique among all machines that share the folder.
    """
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        aside.write_bytes(data)
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
