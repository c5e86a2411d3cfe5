"""Workers that hang, or that the kernel kills for memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
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


RECENT_SECONDS = 10.0
"""How long after the kernel killed a process for memory a dead worker may be that process."""


def kills_here() -> int:
    """How often the kernel has killed a process of this process's control group for memory, so far.

    Ray's workers are in the driver's group. Where there is none (or none that may be read), it is the whole
    machine's count; 0 where the kernel does not say.
    """
    for path, name in _counters():
        with suppress(OSError, ValueError):
            lines = (line.split() for line in path.read_text().splitlines())
            return next(int(value) for key, value in lines if key == name)
    return 0


def _counters() -> Iterator[tuple[Path, str]]:
    """Files that count kills, the narrowest first, each with the name of its line (cgroups(7), proc(5))."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, place = line.split(":", 2)
            if not controllers:
                yield Path("/sys/fs/cgroup") / place.lstrip("/") / "memory.events", "oom_kill"
            elif "memory" in controllers.split(","):
                group = Path("/sys/fs/cgroup/memory")
                yield group / place.lstrip("/") / "memory.oom_control", "oom_kill"
                yield group / "memory.oom_control", "oom_kill"  # a container sees its own group as the root
    yield Path("/proc/vmstat"), "oom_kill"


class MemoryKills:
    """Whether a worker that died was killed by the kernel for memory: a kill of the last seconds, each for one death.

    Args:
        count: kills so far.
        clock: seconds that only go on.
    """

    def __init__(
        self, count: Callable[[], int] = kills_here, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._count, self._clock = count, clock
        self._known = count()
        self._times: list[float] = []

    def look(self) -> None:
        """Note kills since the last look; to be called every second or so."""
        known, self._known = self._known, self._count()
        self._times += [self._clock()] * max(0, self._known - known)

    def blamed(self) -> bool:
        """Whether a worker of this machine that has just died is one of those that were killed."""
        self.look()
        now = self._clock()
        self._times = [at for at in self._times if now - at <= RECENT_SECONDS]
        if not self._times:
            return False
        self._times.pop(0)
        return True


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
