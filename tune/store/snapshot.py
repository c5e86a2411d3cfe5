"""A study's state as one object: its small files and a consistent copy of its databases, as a compressed tar file.

Large databases are written in parts, of which a state names those that make it up (`tune.store.changes.chain`).

What is left out is of one machine alone (locks, what Ray leaves), or an object of its own (a trial's files).
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tune.store.changes.chain import Chain, Part, is_part
from tune.store.changes.patch import put_together
from tune.store.layout import (
    EVENTS_DB,
    INBOX,
    INCARNATION,
    KNOWN,
    LIMIT_FILE,
    LOCK_FILE,
    OPTUNA_DB,
    RAY_FOLDER,
    SENDER_LOCK,
    STOP,
    TRIALS,
    stays_inside,
)

_OWN_FILES = {KNOWN, LIMIT_FILE, LOCK_FILE, SENDER_LOCK, STOP}  # of this machine alone
_OWN_FOLDERS = {TRIALS, RAY_FOLDER, INBOX}  # trials and wishes are objects of their own; nobody reads Ray's
_OWN_ENDS = (".tmp", ".ckpt", ".damaged", "-wal", "-shm", "-journal", ".lock")
_NAME = re.compile(r"[0-9]{10}-[0-9a-f]{32}(\.parts)?\.tar\.gz")
PARTS_FILE = "parts.json"
"""In a state whose databases are in parts: the names of these, in order."""
WHOLE = 2**21
"""Bytes of databases that are written whole each time: one object is faster than two."""
FEW, MOST = 2**28, 200
"""Bytes that a snapshot may hold besides, and how many times its own size."""
# The log is always ahead of Optuna: `tune.engine.recorder` writes it first.
_FIRST, _LAST = OPTUNA_DB, EVENTS_DB


@dataclass(frozen=True)
class Packed:
    """A snapshot.

    Attributes:
        data: the state's object.
        last_event: number of the last event in it.
        part: what the store lacks of the databases, to be written first; None where they are in `data`.
    """

    data: bytes
    last_event: int
    part: Part | None


def pack(folder: Path, chain: Chain, number: int) -> Packed:
    """A snapshot of a working copy.

    Args:
        folder: the working copy.
        chain: what the store has of its databases.
        number: of the state.
    """
    buffer, last_event = io.BytesIO(), 0
    names = files_of(folder)
    order = {_FIRST: -1, _LAST: 1}
    with (
        tempfile.TemporaryDirectory(prefix="ssl-tune-") as place,
        gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as archive,
    ):
        copies = {}
        for name in sorted(names, key=lambda name: (order.get(name, 0), name)):
            if name.endswith(".db"):
                copies[name] = Path(place) / Path(name).name
                _copy_database(folder / name, copies[name])
                if name == _LAST:
                    last_event = _last_event(copies[name])
                continue
            with contextlib.suppress(FileNotFoundError):  # gone since
                archive.add(folder / name, name, recursive=False)
        part = _part(chain, number, copies)
        if part is None:
            for name, path in copies.items():
                archive.add(path, name, recursive=False)
        else:
            _add_text(archive, PARTS_FILE, json.dumps(part.chain))
    return Packed(buffer.getvalue(), last_event, part)


def _part(chain: Chain, number: int, copies: Mapping[str, Path]) -> Part | None:
    if sum(path.stat().st_size for path in copies.values()) <= WHOLE or not copies.keys() <= {_FIRST, _LAST}:
        return None
    return chain.part(number, copies)


def _add_text(archive: tarfile.TarFile, name: str, text: str) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(text.encode())
    archive.addfile(member, io.BytesIO(text.encode()))


def no_part(name: str) -> bytes | None:
    """Of a snapshot that stands alone."""
    return None


def unpack(data: bytes, folder: Path, part_of: Callable[[str], bytes | None] = no_part) -> bool:
    """Make a working copy what a snapshot holds; False, and nothing done, where a part of it is missing.

    Args:
        data: the snapshot.
        folder: the study's; what it has of another study of the same name is removed.
        part_of: gives a part by its name; None: there is none.

    Raises:
        tarfile.TarError: it is none, or one that would write elsewhere.
    """
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as place:
        new = Path(place)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            archive.extractall(new, _members(archive, len(data)), filter="data")
        if (new / PARTS_FILE).exists() and not _fetch_parts(new, part_of):
            return False
        if _text(new / INCARNATION) != _text(folder / INCARNATION):
            shutil.rmtree(folder / TRIALS, ignore_errors=True)
        for old in files_of(folder):
            for end in ("", "-wal", "-shm", "-journal"):
                (folder / f"{old}{end}").unlink(missing_ok=True)
        for file in files_of(new):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (new / file).replace(folder / file)
    return True


def _fetch_parts(new: Path, part_of: Callable[[str], bytes | None]) -> bool:
    """Put the databases together in a folder that holds the names of their parts; whether all are there."""
    try:
        names = json.loads((new / PARTS_FILE).read_text())
        if not isinstance(names, list) or not all(map(is_part, names)):
            raise ValueError(f"{PARTS_FILE} holds no names of parts")
        parts = [part_of(name) for name in names]
        whole = [data for name, data in zip(names, parts, strict=True) if data and is_part(name, data)]
        if len(whole) < len(names):
            return False
        put_together(whole, new, (_FIRST, _LAST))
    except (ValueError, RecursionError) as error:
        raise tarfile.TarError(str(error)) from None
    (new / PARTS_FILE).unlink()
    return True


def _members(archive: tarfile.TarFile, size: int) -> list[tarfile.TarInfo]:
    """What an archive holds, all of it files and folders with names that stay inside.

    Raises:
        tarfile.TarError: something else, or so much more than its own size that it cannot be a study.
    """
    left, members = FEW + MOST * size, []
    for member in archive:
        left -= member.size
        if left < 0:
            raise tarfile.TarError(f"it would take more than {MOST} times its size")
        if not (member.isreg() or member.isdir()) or not stays_inside(member.name):
            raise tarfile.TarError(f"{member.name!r} is neither a file nor a folder of a study")
        members.append(member)
    return members


def files_of(folder: Path) -> list[str]:
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


def signature(folder: Path) -> object:
    """What changes when anything in the state does."""
    found = []
    for name in files_of(folder):
        for end in ("", "-wal") if name.endswith(".db") else ("",):
            with contextlib.suppress(FileNotFoundError):
                status = (folder / f"{name}{end}").stat()
                found.append((name, end, status.st_mtime_ns, status.st_size))
    return found


def is_snapshot(name: str) -> bool:
    """Whether this can be a snapshot's name."""
    return _NAME.fullmatch(name) is not None


def name_of(number: int, data: bytes, *, in_parts: bool = False) -> str:
    """A snapshot's name: names sort by number, and tell damaged data.

    One whose databases are in parts has another ending: an earlier version does not take it for a study without any.
    """
    return f"{number:010d}-{hashlib.sha256(data).hexdigest()[:32]}{'.parts' if in_parts else ''}.tar.gz"


def is_whole(state: str, data: bytes | None) -> bool:
    """Whether this data is what was written under a snapshot's name."""
    return data is not None and state == name_of(number_of(state), data, in_parts=".parts." in state)


def number_of(name: str) -> int:
    """The number in a snapshot's name."""
    return int(name.partition("-")[0])


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


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
