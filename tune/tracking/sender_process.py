"""The process that delivers a study's event log to MLflow, as the driver starts, watches and ends it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from subprocess import DEVNULL, Popen, TimeoutExpired

from tune.revision import child_environment
from tune.store.event_log import EventLog
from tune.store.layout import SENDER_LOG

# A sender that dies (killed for memory, say) is started again, but not in a tight loop.
_REVIVE_SECONDS = 5.0
_POLL_SECONDS = 0.05
_STOP_SECONDS = 3.0


class SenderProcess:
    """The sender of one study: not started, at work, or ended.

    Args:
        log: the study's event log, which the process delivers.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._process: Popen[bytes] | None = None
        self._next_look = 0.0

    @property
    def pid(self) -> int | None:
        """The process's id; None where it is not at work."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process, where it is not at work yet. MLflow takes it seconds to load: start it early.

        It is not reached by Ctrl-C, and ends after this process does.
        """
        if self._process is not None:
            return
        for note in ("complete", "problem"):  # an earlier driver's
            self._log.set_meta(note, None)
        self._spawn()

    def revive(self) -> None:
        """Start the process again where it has died with events still owed; cheap, may be called all the time."""
        if self._process is None or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _REVIVE_SECONDS
        if self._process.poll() is not None and self._log.pending():
            self._spawn()

    def close(self, timeout: float, watch: Callable[[], None] = lambda: None) -> int:
        """Note that the log is complete, and wait until it is delivered.

        Args:
            timeout: seconds to wait for the rest to be delivered.
            watch: called again and again meanwhile.

        Returns:
            How many events are still owed; they stay in the log for `ssl-tune sync`.
        """
        self._log.set_meta("complete", "1")
        if self._process is None:
            return self._log.pending()
        deadline = time.monotonic() + timeout
        while self._log.pending() and time.monotonic() < deadline:
            self.revive()
            watch()
            time.sleep(_POLL_SECONDS)
        owed = self._log.pending()
        # With nothing owed it ends by itself, after it has checked what an outage may have left in doubt. It can be
        # stopped safely at any point.
        with suppress(TimeoutExpired):
            self._process.wait(0 if owed else max(_STOP_SECONDS, deadline - time.monotonic()))
        self.kill()
        return self._log.pending()

    def kill(self) -> None:
        """End the process at once, where it is at work; what it has not delivered stays in the log."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _spawn(self) -> None:
        folder = self._log.path.absolute().parent
        # -P: the folder that the command was typed in must not provide modules. A session of its own:
        # Ctrl-C at the terminal must not reach the sender in the middle of a delivery.
        words = [
            sys.executable,
            "-P",
            "-m",
            "tune.delivery.sender",
            str(folder),
            "--parent",
            str(os.getpid()),
        ]
        with (folder / SENDER_LOG).open("ab") as output:
            self._process = Popen(
                words,
                stdin=DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=child_environment(),
            )
        self._next_look = time.monotonic() + _REVIVE_SECONDS
