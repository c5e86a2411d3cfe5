"""What a study's driver says of its tracking: what waits, and once each what is wrong and what was refused."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ssl_core.system.errors import counted
from tune.store.event_log import EventLog
from tune.store.events import now_ms

LASTING_SECONDS = 3.0  # a problem that is gone before is none
LATE_SECONDS = 5.0  # what has just happened is on its way
LOOK_SECONDS = 0.5


class TrackingNews:
    """Reads the event log, where the sender notes how delivery goes.

    Args:
        log: the study's event log.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._next_look = 0.0
        self._since: float | None = None
        self._told: str | None = None
        self._refused = log.refused()

    def waiting(self) -> str:
        """The status line's part: what MLflow should have by now and has not; empty where all is well."""
        oldest = self._log.owed_since()
        if oldest is None or now_ms() - oldest < 1000 * LATE_SECONDS:
            return ""
        return f"{counted(self._log.pending(), 'event')} to be delivered to MLflow"

    def news(self) -> Iterator[str]:
        """What is new since it was asked last; may be asked all the time."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        problem = self._log.get_meta("problem")
        if problem is None:
            self._since = None
            if self._told is not None:
                self._told = None
                yield "MLflow takes events again"
        else:
            self._since = self._since or now
            if now - self._since >= LASTING_SECONDS and problem != self._told:
                self._told = problem
                yield f"nothing can be delivered to MLflow: {problem}"
                yield f"the study goes on; {self._log.pending()} events wait and are delivered when it can be"
        yield from self._refusals()

    def _refusals(self) -> Iterator[str]:
        refused = self._log.refused()
        if refused <= self._refused:
            return
        new, self._refused = refused - self._refused, refused
        last = self._log.dead()[-1]
        yield (
            f"MLflow refuses {counted(new, 'event')} for good, the last one {last.event.kind} of {last.event.run}: "
            f"{last.reason} (`ssl-tune sync` lists them all)"
        )
