"""A sitting: what one process holds while it works on a study, and lets go of however the work ends.

    with Sitting(spec, folder, home, progress) as sitting:
        sitting.start_sender()
        sitting.start_ray()
        outcome = sitting.search()

Loads neither Ray nor torch before it needs them, since the sender and Ray are started while the data are read.
"""

from __future__ import annotations

import shlex
import signal
import time
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING

from tune.definition.spec import StudySpec
from tune.engine.outcome import Outcome
from tune.engine.progress import Progress
from tune.errors import Exit, ServiceError
from tune.findings.study import Study
from tune.signals import asking_to_stop
from tune.store.event_log import EventLog
from tune.store.home import Home
from tune.store.study_folder import StudyFolder
from tune.tracking.opening import note_where, open_log, open_tracker
from tune.tracking.sender_process import SenderProcess
from tune.tracking.tracker import Tracker
from tune.worker.task import PRELOAD

if TYPE_CHECKING:
    from tune.engine.study_run import StudyRun

INTERRUPTED_TRACKING_SECONDS = 10.0


class Sitting:
    """Holds a study's lock and, once they are started, its event log, its sender and Ray; releases all of them.

    Args:
        spec: the study.
        folder: its folder. Where this process holds its lock already, the sitting takes that over.
        home: the home folder.
        progress: shows how it goes.

    Raises:
        ServiceError: on entering, another driver has the study.
    """

    def __init__(self, spec: StudySpec, folder: StudyFolder, home: Home, progress: Progress) -> None:
        self.spec, self.folder, self.home, self.progress = spec, folder, home, progress
        self._log: EventLog | None = None
        self._sender: SenderProcess | None = None
        self._tracker: Tracker | None = None
        self._ray = ExitStack()

    def __enter__(self) -> Sitting:
        if not self.folder.is_mine():
            self.folder.lock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and self._log is not None:
                self.deliver(self.spec.tracking_timeout)
        finally:
            self.leave()

    # What is held

    @property
    def is_open(self) -> bool:
        """Whether the study is still held, for more to be done with it."""
        return self.folder.is_mine()

    @property
    def log(self) -> EventLog:
        """The study's event log; opened when it is first asked for."""
        if self._log is None:
            self._log = open_log(self.folder, shared=self.spec.address is not None)
        return self._log

    @property
    def tracker(self) -> Tracker:
        """Writes to the event log; made when it is first asked for, from the specification of that moment."""
        if self._tracker is None:
            self._tracker = open_tracker(self.log, self.spec, self.home, self._sender)
        return self._tracker

    def start_sender(self) -> None:
        """Start the process that delivers to MLflow, where it is not at work yet; it delivers what is owed already."""
        if self._sender is None:
            note_where(self.log, self.spec, self.home)
            self._sender = SenderProcess(self.log)
        self._sender.start()

    def start_ray(self) -> None:
        """Start Ray in the background; a Ray that this process has already is used instead, and left running."""
        from tune.cluster import local_ray  # loads Ray

        self._ray.enter_context(
            local_ray.starting(local_ray.cpus_for(self.spec), PRELOAD, self.spec.concurrent)
        )

    # What is let go

    def deliver(self, timeout: float) -> None:
        """Wait until MLflow has everything, for so many seconds at most, and let go of event log and sender."""
        if self._sender is not None:
            self._sender.close(timeout)
        self._close_log()

    def release(self) -> None:
        """Let go of everything but the lock, at once: nothing that the sitting has started writes to the folder now."""
        self._close_log()
        self._ray.close()

    def leave(self) -> None:
        """Let go of everything that is still held, at once.

        Raises:
            ServiceError: the home is an object store, and the last state could not be written there.
        """
        try:
            self.release()
        finally:
            self.folder.unlock()

    def _close_log(self) -> None:
        if self._sender is not None:
            self._sender.kill()
        if self._log is not None:
            self._log.close()
        self._log = self._sender = self._tracker = None

    def interrupted_early(self) -> ServiceError:
        """Ctrl-C before the first trial: lets the study go; the error says how to carry it on."""
        self.folder.set_state("interrupted")
        self.folder.unlock()
        command = shlex.join(["ssl-tune", "resume", self.folder.path.name, "--home", self.home.shown])
        return ServiceError(f"interrupted. Carry on with: {command}", Exit.INTERRUPTED)

    # The search

    def search(self, *, stay: bool = False) -> Outcome:
        """Run what is left of the study, and let the study go; Ray is kept until the sitting ends.

        Args:
            stay: where the study has found something, neither wait for MLflow nor let go of the study: more is done
                with it in this sitting, and `is_open` is true.

        Returns:
            How it ended; of a study that is kept, nothing is said of what MLflow still lacks.

        Raises:
            ServiceError: the trials' storage does not answer, or Ctrl-C before the first trial.
        """
        began = time.monotonic()
        run = self.begin()
        state = "failed"
        pending = refused = 0
        try:
            with asking_to_stop(run.request_stop):
                state = run.run()
        except KeyboardInterrupt:  # a second Ctrl-C, which did not wait for the trials to end their epoch
            run.signal, state = signal.SIGINT, "interrupted"
        finally:
            with (
                run.recorder.writing()
            ):  # where it cannot: a study that is "running" without a driver is interrupted
                self.folder.set_state(state)
            found = run.end(state)
            if not (stay and found and run.recorder.trouble is None):
                pending, refused = self.finish(run)
        study = Study(self.folder.path)
        code = code_of(study, run, pending + refused)
        seconds = time.monotonic() - began
        return Outcome(study, code, pending, seconds, refused, run.recorder.trouble)

    def begin(self) -> StudyRun:
        """What runs the study's trials; the study is running from here on.

        Raises:
            ServiceError: the trials' storage does not answer, or Ctrl-C meanwhile.
        """
        try:
            from tune.engine.study_run import StudyRun  # loads Ray Tune and torch

            self.folder.set_state("running")
            self.start_sender()
            return StudyRun(self.spec, self.folder, self.home, self.progress, self.tracker)
        except KeyboardInterrupt:
            raise self.interrupted_early() from None

    def finish(self, run: StudyRun) -> tuple[int, int]:
        """Wait for MLflow, as long as the way in which the search ended allows, and let the study go.

        Returns:
            How many events are still owed, and how many MLflow refused for good.
        """
        pending = refused = 0
        timeout = self.spec.tracking_timeout
        if run.interrupted:  # whoever interrupts does not want to wait; `resume` delivers the rest
            timeout = min(timeout, INTERRUPTED_TRACKING_SECONDS)
        with run.recorder.writing():
            pending = run.wait_for_tracking(0.0 if run.recorder.trouble else timeout)
            refused = self.log.refused()
        self._close_log()
        self.folder.unlock()
        return pending, refused


def code_of(study: Study, run: StudyRun, undelivered: int) -> Exit:
    """What a command exits with after a run, where so many events are not delivered."""
    if run.recorder.trouble is not None:
        return Exit.STORAGE
    if run.interrupted:
        return Exit.TERMINATED if run.signal == signal.SIGTERM else Exit.INTERRUPTED
    states = [r.state for r in study.records()]
    if not any(s in ("completed", "stopped_early") for s in states):
        return Exit.NO_TRIAL_SUCCEEDED
    if "failed" in states:
        return Exit.SOME_TRIALS_FAILED
    return Exit.TRACKING_PENDING if undelivered else Exit.DONE
