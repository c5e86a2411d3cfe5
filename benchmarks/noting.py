"""Notes of when a process passes certain places, for `benchmarks.starts`."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NOTES = "SSL_TUNE_BENCHMARK_STARTS"
"""The file into which driver and workers note what they pass, a line each."""


def note(what: str, at: float | None = None) -> None:
    """Note that this process passes a place, the first time that it does; `at`: when, where it was earlier."""
    if what not in _noted:
        _noted.add(what)
        with Path(os.environ[NOTES]).open("a") as notes:
            notes.write(json.dumps({"what": what, "at": time.time() if at is None else at}) + "\n")


_noted: set[str] = set()


def noting(owner: Any, name: str, what: str) -> None:
    """Have a function note when it is entered and left."""
    original: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(original)
    def noted(*arguments: Any, **named: Any) -> Any:
        note(f"{what}: begins")
        try:
            return original(*arguments, **named)
        finally:
            note(f"{what}: done")

    setattr(owner, name, noted)
