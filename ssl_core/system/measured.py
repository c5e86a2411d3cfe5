"""What was measured on this machine, kept in a small file, so that an estimate is made once and repeats itself."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ssl_core.system.files import write_atomically

MOST = 500
"""Measurements that are kept; the oldest go."""


class Measured:
    """Numbers by what they were measured of. A file that is damaged counts as empty: all can be measured again.

    Args:
        path: the file; its folder is made where there is none. None: nothing is kept.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def get(self, what: Mapping[str, Any]) -> list[float] | None:
        """What was measured of this, or None.

        Args:
            what: all that the numbers depend on, as JSON can hold it: configuration, processor, threads, versions.
        """
        found = self._read().get(_key(what))
        return None if found is None else found["numbers"]

    def keep(self, what: Mapping[str, Any], numbers: Sequence[float]) -> None:
        """Keep what was measured; where the file cannot be written, it is measured again another time."""
        if self._path is None:
            return
        entries = self._read() | {_key(what): {"numbers": list(numbers), "at": time.time()}}
        kept = dict(sorted(entries.items(), key=lambda item: item[1]["at"])[-MOST:])
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, json.dumps(kept).encode())

    def _read(self) -> dict[str, dict[str, Any]]:
        if self._path is None:
            return {}
        try:
            document = json.loads(self._path.read_bytes())
            return {key: entry for key, entry in document.items() if _is_entry(entry)}
        except (OSError, ValueError, AttributeError, RecursionError):
            return {}


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("at"), float):
        return False
    numbers = entry.get("numbers")
    return isinstance(numbers, list) and all(isinstance(n, int | float) and math.isfinite(n) for n in numbers)


def _key(what: Mapping[str, Any]) -> str:
    text = json.dumps(what, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
