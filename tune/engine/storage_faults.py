"""Troubles that are not a trial's own: full disks and dead databases, workers that hang or are killed for memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import optuna
from sqlalchemy.exc import DBAPIError

from tune.errors import FULL, DamagedError

_SQLITE_WORDS = ("disk is full", "disk i/o error", "readonly database", "unable to open database file")
_RAY_WORDS = ("no space left on device", "disk quota exceeded", "database or disk is full")


def is_storage_trouble(error: BaseException) -> bool:
    """Whether this came from a storage: a disk that is full or broken, a database that does not answer."""
    for each in _chain(error):
        if isinstance(each, OSError) and each.errno in FULL:
            return True
        if isinstance(each, sqlite3.OperationalError) and any(w in str(each).lower() for w in _SQLITE_WORDS):
            return True
        if isinstance(each, DamagedError):
            return True
        if isinstance(each, DBAPIError | optuna.exceptions.StorageInternalError):
            return True
        if any(word in str(each).lower() for word in _RAY_WORDS):  # Ray passes on the text alone
            return True
    return False


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__


def headline(error: BaseException) -> str:
    """What went wrong, in a line: of an exception that wraps another, the inner one's words."""
    *_, last = _chain(error)
    lines = str(getattr(last, "orig", None) or last).strip().splitlines()
    return lines[-1] if lines else type(last).__name__
