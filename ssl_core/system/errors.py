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
    near = _nearest(given, names)
    hint = f" Did you mean {near!r}?" if near else ""
    place = f"{where}: " if where else ""
    return ConfigError(f"{place}unknown {kind} {given!r}.{hint} Known: {', '.join(names)}.")


def _nearest(given: str, names: list[str]) -> str | None:
    """The known name that was meant, if any. Without its section a dotted name is known as well: ``threshold`` is
    ``pseudo_label.threshold``."""
    last = given.rpartition(".")[2]

    def likeness(name: str) -> float:
        ends = difflib.SequenceMatcher(None, name.rpartition(".")[2], last).ratio()
        return max(ends, difflib.SequenceMatcher(None, name, given).ratio())

    best = max(names, key=lambda name: (likeness(name), name), default=None)
    return best if best is not None and likeness(best) >= LIKE else None


LIKE = 0.5
"""How much of two names has to be the same, from 0 to 1, that one may have been meant for the other."""
