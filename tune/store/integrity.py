"""A study's files as they are read: with no need to write anything, and with one message where one is damaged."""

from __future__ import annotations

import json
import shlex
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssl_core import method_file
from tune.errors import DamagedError
from tune.store.layout import (
    CONFIRM_FILE,
    EVENTS_DB,
    FETCH_LOCK,
    INCARNATION,
    LOCK_FILE,
    OPTUNA_DB,
    PLAN_FILE,
    STATE_FILE,
    STOP,
    STORE_FILE,
    STUDY_FILE,
    WARM_START_FILE,
)

SMALL = 16 * 2**20
"""Bytes up to which a database's indices are compared with its tables, too; of a larger one the pages are looked at."""
BUSY_SECONDS = 30.0

_LEFT = {
    STUDY_FILE: "The trials (optuna.db), the reports (events.db) and the checkpoints are not touched by that",
    STATE_FILE: "It says only how the last sitting ended: trials, reports and checkpoints are not touched by that",
    EVENTS_DB: "The trials are in optuna.db, and the curves of those that have checkpoints in these",
    OPTUNA_DB: "Every report is in events.db, and the checkpoints are in trials/",
    CONFIRM_FILE: "The trainings of the confirmation are in confirm/: `ssl-tune confirm` writes the file anew",
}
_MENDED = (STUDY_FILE, STATE_FILE, EVENTS_DB, OPTUNA_DB, CONFIRM_FILE, PLAN_FILE)
"""What `ssl-tune repair` can make again."""


def damaged(path: Path, reason: str) -> DamagedError:
    """The error for a file of a study that is not as it was written.

    Args:
        path: the file, in the study's folder.
        reason: what is wrong with it, a part of a sentence.
    """
    study = path.parent
    name = path.name
    left = f" {_LEFT[name]}." if name in _LEFT else ""
    marker = study.parent.parent / STORE_FILE
    home = marker.read_text() if marker.is_file() else str(study.parent.parent)
    command = shlex.join(["ssl-tune", "repair", study.name, "--home", home])
    remedy = f"See what can be mended with: {command}" if name in _MENDED else "Restore it from a backup."
    if name == WARM_START_FILE:
        remedy = "Remove it: the trials are taken over again from the earlier study."
    return DamagedError(f"{path} is damaged: {reason}.{left} {remedy}")


def half_made(folder: Path) -> bool:
    """Whether a study's folder holds no more than a driver writes before the specification: it was killed then."""
    before = {LOCK_FILE, STATE_FILE, INCARNATION, STOP, FETCH_LOCK, method_file.COPY}
    return all(path.name in before or path.name.endswith(".tmp") for path in folder.iterdir())


def read_json(path: Path) -> Any:
    """The content of a JSON file of a study.

    Raises:
        DamagedError: it is none.
        OSError: it cannot be read.
    """
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"it is no JSON ({error})") from None


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Open an SQLite file for reading alone, also while it is written.

    SQLite wants to make files beside a database that it reads (write-ahead log, shared memory). Where it may not (a
    read-only mount, a snapshot, another user's home), a database that has all of its content in its own file is
    opened as one that nobody changes; another one is read from a copy in memory.

    Raises:
        sqlite3.Error: it cannot be opened, or is none.
    """
    uri = path.absolute().as_uri()
    options: dict[str, Any] = {"uri": True, "timeout": BUSY_SECONDS, "check_same_thread": False}
    database: sqlite3.Connection = sqlite3.connect(f"{uri}?mode=ro", isolation_level=None, **options)
    try:
        database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        database.close()
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise
    else:
        return database
    beside = [path.with_name(f"{path.name}{end}") for end in ("-wal", "-journal")]
    waiting = [side for side in beside if side.exists() and side.stat().st_size > 0]
    if waiting:
        return _in_memory(path, waiting)
    database = sqlite3.connect(f"{uri}?mode=ro&immutable=1", isolation_level=None, **options)
    return database


def _in_memory(path: Path, beside: list[Path]) -> sqlite3.Connection:
    """A copy of a database with what waits beside it."""
    memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    with tempfile.TemporaryDirectory(prefix="ssl-tune-") as place:
        for file in (path, *beside):
            shutil.copyfile(file, Path(place) / file.name)
        copy = sqlite3.connect(Path(place) / path.name)
        try:
            copy.backup(memory)
        finally:
            copy.close()
    return memory


def is_damage(error: BaseException) -> bool:
    """Whether SQLite says with this error that a file is not a whole database (and not that it is busy, or away)."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return False
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or (
        code == sqlite3.SQLITE_ERROR and str(error).startswith("no such")
    )


@contextmanager
def whole(path: Path) -> Iterator[None]:
    """For a block that reads or writes an SQLite file, or what stands in it: says so where the file is damaged.

    Raises:
        DamagedError: SQLite says that it is, or a value in it is none.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        raise damaged(path, str(error)) from None
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        said = str(error).splitlines() or [""]
        raise damaged(path, f"a value in it cannot be read ({type(error).__name__}: {said[0]})") from error


def check_database(path: Path) -> None:
    """Look through an SQLite file for damage; nothing where there is no file.

    Raises:
        DamagedError: something is wrong with it.
    """
    if not path.exists():
        return
    with whole(path):
        database = connect_to_read(path)
        try:
            kind = "integrity_check" if path.stat().st_size <= SMALL else "quick_check"
            (found,) = database.execute(f"PRAGMA {kind}(1)").fetchone()
        finally:
            database.close()
    if found != "ok":
        raise damaged(path, str(found).strip().splitlines()[-1])
