"""Figures of the event log, drawn by a process of their own and then delivered like any artifact.

Drawing takes a tenth of a second and loading matplotlib half a one: too much for the driver, and for a sender
that has metrics to deliver. So one process at a time draws a batch, at low priority, while the sender goes on; it
reads the log and the study's folder and changes neither. It may be killed at any moment: what was not drawn is
still owed, and drawing it again gives the same figure.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from subprocess import DEVNULL, Popen, TimeoutExpired

from tune.store.event_log import EventLog
from tune.store.events import Event

BATCH = 16
FEWEST = 8
"""While trials run, a process is worth starting for no less."""
ATTEMPTS = 2
LONGEST_SECONDS = 600.0


class Drawing:
    """Draws the figures that are owed, a batch at a time.

    Args:
        log: the study's event log.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._process: Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._batch: list[Event] = []
        self._attempts: dict[int, int] = {}
        self._began = 0.0

    def start(self, fewest: int = 1) -> bool:
        """Begin with the oldest figures that are owed, if there are so many; whether any is being drawn."""
        if self._process is None:
            self._batch = self._log.owed_figures(BATCH)
            if len(self._batch) >= fewest:
                self._folder = tempfile.TemporaryDirectory(prefix="ssl-tune-figures-")
                study = str(self._log.path.absolute().parent)
                ids = [str(event.id) for event in self._batch]
                command = [sys.executable, "-P", "-m", "tune.figures.draw", study, self._folder.name, *ids]
                self._process = Popen(command, stdin=DEVNULL)
                self._began = time.monotonic()
        return self._process is not None

    def wait(self, seconds: float) -> bool:
        """Wait for the batch; whether it is there to be taken."""
        if self._process is None:
            return False
        try:
            self._process.wait(seconds)
        except TimeoutExpired:
            if time.monotonic() - self._began < LONGEST_SECONDS:
                return False
            self._process.kill()
            self._process.wait()
        return True

    def take(self) -> list[tuple[Event, Path | None, str | None]]:
        """What came of the batch: each figure's file (None: there is nothing to draw), or why it cannot be.

        Figures without any outcome are tried once more.
        """
        assert self._folder is not None
        self._process = None
        outcomes: list[tuple[Event, Path | None, str | None]] = []
        for event in self._batch:
            drawn, nothing, failed = (
                Path(self._folder.name) / f"{event.id}.{end}" for end in ("png", "none", "error")
            )
            if drawn.exists():
                outcomes.append((event, drawn, None))
            elif nothing.exists():
                outcomes.append((event, None, None))
            else:
                reason = failed.read_text() if failed.exists() else "the process that draws it died"
                self._attempts[event.id] = self._attempts.get(event.id, 0) + 1
                if failed.exists() or self._attempts[event.id] >= ATTEMPTS:
                    outcomes.append((event, None, reason))
        return outcomes

    def clear(self) -> None:
        """Take away the batch's files."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
