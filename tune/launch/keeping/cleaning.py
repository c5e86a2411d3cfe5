"""What can go of a home without a loss: decoded images, warm-ups, checkpoints of ended trials, logs, leftovers.

Decoded images are decoded again when they are wanted, and warm-ups that trainings share are trained again. A checkpoint
of a trial that has ended is not read again: a confirmation trains anew, and keeps its own. Studies that a driver runs
are left alone.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssl_core.system.faults import fault
from tune.errors import Exit, ServiceError
from tune.launch.keeping.deleting import DELETED, size_of
from tune.launch.keeping.unpacking import UNPACKING
from tune.store.home import Home
from tune.store.layout import RAY_FOLDER, SENDER_LOG, WARMUPS
from tune.store.study_folder import StudyFolder
from tune.trials.reading import read_records

DAY = 86_400.0
STALE_SECONDS = 3600.0
"""A leftover that is younger may still be somebody's work."""
KINDS = ("decoded images", "warm-ups", "checkpoints", "log", "leftover")


@dataclass(frozen=True)
class Item:
    """Something that can go.

    Attributes:
        kind: one of `KINDS`.
        path: file or folder.
        size: bytes.
        why: in words.
    """

    kind: str
    path: Path
    size: int
    why: str


@dataclass(frozen=True)
class Found:
    """What can go of a home.

    Attributes:
        items: files and folders.
        left_out: studies that were not looked at, and why.
    """

    items: tuple[Item, ...]
    left_out: dict[str, str]

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        return sum(item.size for item in self.items)


def find(home: Home, *, cache_age: float = 30 * DAY, cache_size: int | None = None) -> Found:
    """What can go; nothing is changed.

    Args:
        home: the home, a folder.
        cache_age: seconds after which decoded images that nobody has read, and warm-ups that nobody has taken, can go.
        cache_size: bytes that decoded images may take together; beyond, those that were not read for longest can go.
            None: any number.
    """
    items = [
        *_caches(home.cache, cache_age, cache_size),
        *_warmups(home.warmups, cache_age),
        *_leftovers(home),
    ]
    left_out = {}
    for name in home.study_names():
        folder = StudyFolder(home.study_folder(name))
        if folder.is_locked():
            left_out[name] = "a driver runs it"
            continue
        try:
            items += _of_study(folder)
        except ServiceError as error:
            left_out[name] = str(error)
    return Found(tuple(items), left_out)


def remove(home: Home, items: Sequence[Item]) -> tuple[int, list[str]]:
    """Remove what `find` found; a study that a driver has taken meanwhile is left alone.

    Returns:
        Bytes that were freed, and a sentence for each thing that could not be removed.
    """
    freed, problems = 0, []
    for item in items:
        try:
            with _held(home, item.path):
                _removed(item.path)
            freed += item.size
        except ServiceError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{item.path} cannot be removed: {error.strerror}.")
        fault("clean:item")
    return freed, problems


@contextlib.contextmanager
def _held(home: Home, path: Path) -> Iterator[None]:
    """For the block, hold the lock of the study that a path belongs to, if it belongs to one."""
    if not path.is_relative_to(home.studies) or path.parent == home.studies:
        yield
        return
    folder = StudyFolder(home.studies / path.relative_to(home.studies).parts[0])
    if folder.is_locked():
        raise ServiceError(f"{path} is left: a driver runs the study by now.", Exit.IN_USE)
    folder.lock()
    try:
        yield
    finally:
        folder.unlock()


def _removed(path: Path) -> None:
    """Remove a file, or a folder: renamed first, so that nobody finds half of it."""
    if path.is_dir() and not path.is_symlink():
        aside = path if path.name.startswith(".") else path.with_name(f".{path.name}-cleaned")
        if aside != path:
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
        fault("clean:renamed")
        shutil.rmtree(aside)
    else:
        path.unlink(missing_ok=True)


def _caches(cache: Path, age: float, most: int | None) -> Iterator[Item]:
    if not cache.is_dir():
        return
    now, kept = time.time(), []
    for entry in sorted(cache.iterdir()):
        if entry.name == WARMUPS:
            continue
        if entry.is_symlink():
            if not entry.exists():
                yield Item("leftover", entry, 0, "a name of decoded images that are gone")
        elif entry.name.startswith("."):
            if entry.is_dir() and now - _used(entry) > STALE_SECONDS:
                yield Item("leftover", entry, size_of(entry), "half-decoded images")
        elif entry.is_dir():
            unused = now - _used(entry)
            if unused > age:
                yield Item("decoded images", entry, size_of(entry), f"not read for {unused / DAY:.0f} days")
            else:
                kept.append((unused, entry, size_of(entry)))
    total = 0
    for _, entry, size in sorted(kept, key=lambda one: one[0]):  # the newest stay
        total += size
        if most is not None and total > most:
            yield Item("decoded images", entry, size, "more than --cache-size, and read longest ago")


def _warmups(folder: Path, age: float) -> Iterator[Item]:
    """Warm-ups that trainings share. How much room they take is bound when they are stored."""
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        unused = time.time() - _used(entry)
        if entry.name.startswith("."):
            if unused > STALE_SECONDS:
                yield Item("leftover", entry, size_of(entry), "of a warm-up that was removed")
        elif unused > age:
            yield Item("warm-ups", entry, size_of(entry), f"not taken for {unused / DAY:.0f} days")


def _used(entry: Path) -> float:
    """When a folder's files were last read or written, as far as the file system tells."""
    times = [0.0]
    for path in (entry, *entry.iterdir()):
        with contextlib.suppress(OSError):
            status = path.stat()
            times.append(status.st_mtime if path == entry else max(status.st_atime, status.st_mtime))
    return max(times)


def _leftovers(home: Home) -> Iterator[Item]:
    if not home.studies.is_dir():
        return
    for path in sorted(home.studies.iterdir()):
        if path.name.startswith(DELETED):
            yield Item("leftover", path, size_of(path), "of a study that was deleted")
        elif path.name.startswith((UNPACKING, ".fetch-")) and time.time() - _used(path) > STALE_SECONDS:
            yield Item("leftover", path, size_of(path), "of a study that was not fully unpacked")


def _of_study(folder: StudyFolder) -> Iterator[Item]:
    """Checkpoints of its ended trials, and logs.

    Raises:
        ServiceError: its trials cannot be read.
    """
    name = folder.path.name
    for record in read_records(folder):
        if record.state == "running":
            continue
        for path in sorted((folder.trials / record.trial).rglob("*.ckpt")):
            why = f"trial {record.trial} of {name} has ended"
            yield Item("checkpoints", path, path.lstat().st_size, why)
    for log in (folder.path / RAY_FOLDER, folder.path / SENDER_LOG):
        if log.exists():
            size = size_of(log) if log.is_dir() else log.lstat().st_size
            yield Item("log", log, size, f"of {name}; nobody reads it")
