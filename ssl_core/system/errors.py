"""Errors that a user can fix, and their common wording."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """Wrong usage, configuration or data: the message says what, where, what is accepted and what to do."""


class NonFiniteError(ArithmeticError):
    """A loss or gradient that is not finite: the run stops before the update."""


class MemoryExhaustedError(MemoryError):
    """The device had no memory left: the message says how much was asked for, and what to lower."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun: 1 file, 2 files."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def unknown(kind: str, given: str, known: Iterable[str], *, where: str = "") -> ConfigError:
    """A ConfigError for a name that is not known, with the nearest known name and the whole list.

    Args:
        kind: what was named, for example "method".
        given: the name as it was given.
        known: every accepted name.
        where: the place it was given at, for example a file and line; "" for the command line.
    """
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    place = f"{where}: " if where else ""
    return ConfigError(f"{place}unknown {kind} {given!r}.{hint} Known: {', '.join(names)}.")
