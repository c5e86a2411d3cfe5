"""The process that delivers a study's event log to MLflow: `python -m tune.delivery.sender STUDY_FOLDER`.

One sender per study, held by a lock on `sender.lock`. It may be killed at any moment; `tune.delivery.deliverer` says
why that is safe.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ssl_core.system.errors import ConfigError
from tune.delivery.deliverer import Deliverer
from tune.delivery.refusals import AwayError
from tune.store.event_log import EventLog
from tune.store.layout import EVENTS_DB, SENDER_LOCK
from tune.tracking.uri import take_login

FIRST_PAUSE, LONGEST_PAUSE, LAST_PAUSE = 0.5, 30.0, 5.0
IDLE_SECONDS, LOOK_SECONDS = 0.25, 0.1
REQUEST_TIMEOUT = 10
LOAD_SECONDS = 8.0
"""MLflow takes seconds of a processor to load: so long the sender of a new study leaves them to the first trials."""
NICE = 10  # training comes first
_OWN_NICE = os.getpriority(os.PRIO_PROCESS, 0)  # as the process was started

logger = logging.getLogger("tune.delivery.sender")


@contextmanager
def _only_sender(folder: Path, keep_asking: Callable[[], bool]) -> Iterator[bool]:
    """Hold the study's sender lock; yields whether it was got while `keep_asking` said so."""
    with (folder / SENDER_LOCK).open("w") as lock:
        while not _locked(lock):
            if not keep_asking():
                yield False
                return
            time.sleep(LOOK_SECONDS)
        yield True


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class ReplacedError(Exception):
    """The sqlite database is another file than the one MLflow opened, and it keeps that one for ever."""


class _Patience:
    """How long to wait after failures: doubling, with jitter; and each new reason logged once."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._failures = 0
        self._delivered = 0

    def failed(self, error: AwayError, longest: float, delivered: int) -> float:
        """Seconds to wait; a failure after some success is a first one."""
        if delivered > self._delivered:
            self._failures, self._delivered = 0, delivered
        reason = str(error)
        if reason != self._log.get_meta("problem"):
            logger.warning("not delivered, will be tried again: %s", reason)
            self._log.set_meta("problem", reason)
        pause = longest if error.slow else min(longest, FIRST_PAUSE * 2.0 ** min(self._failures, 10))
        self._failures += 1
        return pause * random.uniform(0.75, 1.0)

    def succeeded(self) -> None:
        if self._log.get_meta("problem") is not None:
            logger.info("delivering again")
            self._log.set_meta("problem", None)
        self._failures = 0


def serve(log: EventLog, parent: int | None) -> None:
    """Deliver until the log is complete and delivered, or the driver is gone.

    Args:
        log: the study's event log.
        parent: the driver's process id; None to go on until the log is complete.

    Raises:
        ReplacedError: if the database file is no longer the one that MLflow has open in this process.
    """
    sender, patience = Deliverer(log), _Patience(log)

    def orphaned() -> bool:
        return parent is not None and os.getppid() != parent

    def complete() -> bool:
        return log.get_meta("complete") is not None

    def over() -> bool:
        return complete() or orphaned()

    while True:
        # Read before delivering: what was appended before it was set is delivered below.
        last = over()
        if last:
            _set_priority(_OWN_NICE)  # nothing trains any more, and somebody waits
        began = time.monotonic()
        try:
            if sender.place.replaced():
                raise ReplacedError
            sender.deliver_pending(figures=last, until=(lambda: False) if last else over)
        except AwayError as error:
            if orphaned():
                logger.warning("the driver is gone and MLflow is away: `ssl-tune sync` delivers the rest")
                return
            # From when the attempt began: it may itself have taken long, with a server that hangs.
            end = began + patience.failed(
                error, LAST_PAUSE if complete() else LONGEST_PAUSE, sender.delivered
            )
            was_complete = complete()
            time.sleep(LOOK_SECONDS)
            while time.monotonic() < end and not orphaned() and complete() == was_complete:
                time.sleep(LOOK_SECONDS)
            continue
        patience.succeeded()
        if last and (orphaned() or not log.held_back()):
            return
        if last or not over():
            time.sleep(IDLE_SECONDS)


def _await_trials(log: EventLog, parent: int | None) -> None:
    """Wait for the study's first trial, where there is none yet: until then its workers load torch."""
    end = time.monotonic() + LOAD_SECONDS
    while parent is not None and os.getppid() == parent and time.monotonic() < end:
        if len(log.runs()) > 1 or log.get_meta("complete") is not None:
            return
        time.sleep(LOOK_SECONDS)


def deliver(study_folder: Path, timeout: float) -> int:
    """Deliver what a study still owes, in this process; for `ssl-tune sync`.

    Where the study's own sender is at work, this waits for it.

    Args:
        study_folder: the folder of the study, `studies/<name>`.
        timeout: seconds to keep trying; at least one attempt is made.

    Returns:
        How many events are still owed.
    """
    deadline = time.monotonic() + timeout
    if not (study_folder / EVENTS_DB).exists():
        raise ConfigError(
            f"{study_folder} is no study: there is no {EVENTS_DB} in it. Known: `ssl-tune studies`."
        )
    with EventLog(study_folder / EVENTS_DB) as log:

        def keep_asking() -> bool:
            return time.monotonic() < deadline and log.pending() > 0

        with _only_sender(study_folder, keep_asking) as alone:
            if not alone:
                return log.pending()
            configure_mlflow()
            sender, patience = Deliverer(log), _Patience(log)
            while True:
                try:
                    sender.deliver_pending()
                except AwayError as error:
                    pause = patience.failed(error, LAST_PAUSE, sender.delivered)
                    if not log.pending() or time.monotonic() + pause >= deadline:
                        return log.pending()
                    time.sleep(pause)
                else:
                    patience.succeeded()
                    return log.pending()


def configure_mlflow() -> None:
    """MLflow's own retries would hide an outage for minutes; waiting is done here, where it can be seen."""
    take_login()
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(REQUEST_TIMEOUT))
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in ("alembic", "mlflow", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _set_priority(nice: int) -> None:
    """Set what share of the processors this process gets, as a nice value; taking more again needs a privilege.

    Linux may schedule each session as a whole (sched(7), autogroup): a process's own nice value then counts within its
    session alone, and the sender has one to itself, out of the reach of Ctrl-C.
    """
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(nice))


def main(arguments: Iterable[str] | None = None) -> int:
    """The process: see the head of this file."""
    parser = argparse.ArgumentParser(
        prog="python -m tune.delivery.sender", description="deliver a study's events"
    )
    parser.add_argument("study_folder", type=Path)
    parser.add_argument("--parent", type=int, help="the driver's process id: end when it is gone")
    options = parser.parse_args(None if arguments is None else list(arguments))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    configure_mlflow()
    # A driver that resumes may find the sender of the one before it on its last delivery: wait for it.
    with (
        _only_sender(options.study_folder, lambda: os.getppid() == options.parent) as alone,
        EventLog(options.study_folder / EVENTS_DB) as log,
    ):
        if log.get_meta("complete") is None:
            _set_priority(max(NICE, _OWN_NICE))
        try:
            if alone:
                _await_trials(log, options.parent)
                importlib.import_module("mlflow.tracking")  # takes seconds, which no event has to wait for
                serve(log, options.parent)
            return 0
        except ReplacedError:
            logger.warning("the database file was deleted or replaced: starting afresh")
    _set_priority(_OWN_NICE)  # the one that takes its place has it as its own
    command = [
        sys.executable,
        "-P",
        "-m",
        "tune.delivery.sender",
        *(sys.argv[1:] if arguments is None else arguments),
    ]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    sys.exit(main())
