"""Workers that hang, or that the kernel kills for memory."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

HANG_FLOOR_SECONDS = 120.0
"""No worker is taken for hung sooner: it may have to start Python, load libraries and decode images."""


HANG_EPOCHS = 8
"""A worker hangs that has not reported for this many times what an epoch takes."""


HANG_SECONDS_UNKNOWN = 3600.0
"""Where nobody knows yet what an epoch takes."""


LONGER_AFTER_WARMUP = 10
"""How much longer an epoch after the warm-up may take than one of it, where none has been seen (times HANG_EPOCHS:
at the defaults VAT's is some fifty times as long)."""


PAUSE_SECONDS = 10.0


def out_of_memory_kills() -> int:
    """How often the kernel has killed a process of this machine for memory; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


class HangWatch:
    """Knows when each worker last gave a sign of life, and how long an epoch takes.

    A warm-up's epoch and one after it take different times, so each is compared with its own kind: of the
    trial itself, else of the study's other trials.

    Args:
        floor: no worker is taken for hung sooner, in seconds; None: HANG_FLOOR_SECONDS.
    """

    def __init__(self, floor: float | None = None) -> None:
        self._floor = floor
        self._alive: dict[int, float] = {}
        self._next_is_warmup: dict[int, bool] = {}
        self._own: dict[tuple[int, bool], list[float]] = {}
        self._longest: dict[bool, float] = {}
        self._looked = time.monotonic()

    def started(self, trial: int, *, warmup: bool) -> None:
        """A worker begins, or begins again; `warmup`: the trial has no epoch after the warm-up yet."""
        self._alive[trial] = time.monotonic()
        self._next_is_warmup[trial] = warmup

    def reported(self, trial: int, seconds: float, *, warmup: bool) -> None:
        """An epoch came in that took so long."""
        self._alive[trial] = time.monotonic()
        self._next_is_warmup[trial] = (
            warmup  # the first epoch after the warm-up is allowed the time of either kind
        )
        self._own.setdefault((trial, warmup), []).append(seconds)
        del self._own[trial, warmup][:-9]
        self._longest[warmup] = max(seconds, self._longest.get(warmup, 0.0))

    def ended(self, trial: int) -> None:
        """A trial has no worker any more."""
        self._alive.pop(trial, None)
        for warmup in (False, True):
            self._own.pop((trial, warmup), None)

    def patience(self, trial: int) -> float:
        """Seconds that a trial's worker may be silent."""
        warmup = self._next_is_warmup.get(trial, True)
        own = self._own.get((trial, warmup))
        expected = statistics.median(own) if own else self._longest.get(warmup)
        if warmup:  # it may be the first epoch after it
            after = self._longest.get(False, LONGER_AFTER_WARMUP * (expected or 0.0))
            expected = max(after, expected or 0.0)
        floor = HANG_FLOOR_SECONDS if self._floor is None else self._floor
        return max(floor, HANG_EPOCHS * expected) if expected else HANG_SECONDS_UNKNOWN

    def hung(self) -> list[int]:
        """Trials whose worker has been silent for too long. To be called every few seconds at least: where
        this process itself was paused (a laptop's lid, SIGSTOP), no worker counts as hung."""
        now = time.monotonic()
        if now - self._looked > PAUSE_SECONDS:
            self._alive = dict.fromkeys(self._alive, now)
        self._looked = now
        return [trial for trial, at in self._alive.items() if now - at > self.patience(trial)]
