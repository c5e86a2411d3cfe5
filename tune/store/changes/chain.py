"""A study's databases in an object store, as a chain of parts: the first is whole, each other has what changed since.

Where the later parts together have become larger than the first, or are many, the next is whole again. So a driver
writes about twice what has changed, however large the study is, and a reader gets at most twice its databases' size.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tune.store.changes.patch import Digests, cut

LONGEST = 200
"""Parts of a chain, at most."""
_NAME = re.compile(r"[0-9]{10}-[0-9a-f]{32}\.gz")


@dataclass(frozen=True)
class Part:
    """A part that is to be written.

    Attributes:
        name: its object's; it tells damaged data.
        data: its content.
        chain: names of the parts that make up the databases, in order; the last is this one.
        digests: of the blocks of each database.
    """

    name: str
    data: bytes
    chain: tuple[str, ...]
    digests: Mapping[str, Digests]


def name_of_part(number: int, data: bytes) -> str:
    """A part's name: the number of the state that it was written for, and a digest of what is in it."""
    return f"{number:010d}-{hashlib.sha256(data).hexdigest()[:32]}.gz"


def is_part(name: object, data: bytes | None = None) -> bool:
    """Whether this can be a part's name, and that of this data."""
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        return False
    return data is None or name == name_of_part(int(name[:10]), data)


class Chain:
    """What the store has of the databases of the study that this process drives. It begins with nothing."""

    def __init__(self) -> None:
        self._parts: tuple[str, ...] = ()
        self._sizes: list[int] = []
        self._digests: Mapping[str, Digests] = {}
        self._is_clean = False

    def part(self, number: int, databases: Mapping[str, Path]) -> Part:
        """What is to be written next.

        Args:
            number: of the state.
            databases: consistent copies of them, by name.
        """
        is_long = len(self._parts) >= LONGEST or sum(self._sizes[1:]) > sum(self._sizes[:1])
        before, parts = ({}, ()) if is_long else (self._digests, self._parts)
        data, digests = cut(databases, before)
        name = name_of_part(number, data)
        return Part(name, data, (*parts, name), digests)

    def adopt(self, part: Part) -> None:
        """The store has this part and the state that names it."""
        if len(part.chain) == 1:
            self._sizes, self._is_clean = [], False
        self._sizes.append(len(part.data))
        self._parts, self._digests = part.chain, part.digests

    @property
    def may_clean(self) -> bool:
        """Whether there are parts of earlier chains that nobody needs: both states that are kept are of this one."""
        return len(self._parts) == 2 and not self._is_clean

    def left_behind(self, names: Iterable[str]) -> list[str]:
        """Of parts in the store those of earlier chains. One of a later number is another driver's."""
        first = int(self._parts[0][:10])
        return [name for name in names if is_part(name) and int(name[:10]) < first]

    def cleaned(self) -> None:
        """The parts of earlier chains are gone."""
        self._is_clean = True
