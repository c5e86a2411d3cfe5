"""Several studies in one loop of Ray Tune: they share its workers, and each keeps its own searcher, rungs and records.

A worker takes whichever study's trial is next, so a place that one study leaves costs the next one no new process.
`tune.engine.sharing` has what shares out the places.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tune.cluster import local_ray  # before Ray Tune, which reads the environment that it sets

# isort: split
from ray.tune.stopper import Stopper

from tune.cluster.connection import Room
from tune.engine.outcome import Outcome
from tune.engine.progress import Progress
from tune.engine.ray_loop import SittingStopper, ray_loop
from tune.engine.sharing import NO_RACE, Referee, SharedRecorder, SharedScheduler, SharedSearcher
from tune.engine.sitting import Sitting, code_of
from tune.engine.study_run import LOOK_SECONDS, StudyRun
from tune.findings.study import Study
from tune.signals import asking_to_stop
from tune.worker.task import PRELOAD, study_of


class Together:
    """The runs of several studies, side by side on the same places.

    Args:
        sittings: of the studies, ready for their first trials; all take as much of the machine for a trial.
        folder: where Ray Tune writes what nobody reads.
        progress: told what concerns all of them.
        stop_requested: whether somebody asked all of them to stop.
        epochs_left: how many epochs they may train together; None: any number.
        referee: decides which of them get no more trials; None: all go on.
    """

    def __init__(
        self,
        sittings: Sequence[Sitting],
        folder: Path,
        progress: Progress,
        stop_requested: Callable[[], bool] = lambda: False,
        *,
        epochs_left: int | None = None,
        referee: Referee | None = None,
    ) -> None:
        self._sittings, self._folder, self._progress = list(sittings), folder, progress
        self._stop_requested, self._next_look = stop_requested, 0.0
        self._epochs_left, self._referee = epochs_left, referee or NO_RACE
        self._runs: list[StudyRun] = []
        self._began = time.monotonic()

    def search(self) -> list[Outcome]:
        """Run what is left of the studies. They stay held, for more to be done with them.

        Returns:
            How each ended, in the order of the sittings; nothing is said of what MLflow still lacks.

        Raises:
            ServiceError: a storage of trials does not answer, or Ctrl-C before the first trial.
        """
        for sitting in self._sittings:
            self._runs.append(sitting.begin())
        states = ["failed"] * len(self._runs)
        try:
            with asking_to_stop(self.request_stop):
                states = self._run()
        except KeyboardInterrupt:  # a second Ctrl-C, which did not wait for the trials to end their epoch
            for run in self._runs:
                run.signal = signal.SIGINT
            states = ["interrupted"] * len(self._runs)
        finally:
            for sitting, run, state in zip(self._sittings, self._runs, states, strict=True):
                with run.recorder.writing():  # where it cannot: "running" without a driver is interrupted
                    sitting.folder.set_state(state)
                run.end(state)
        return [self._outcome(run, 0, 0) for run in self._runs]

    def finish(self) -> list[Outcome]:
        """Wait for MLflow, as long as the way in which the search ended allows, and let the studies go."""
        owed = [sitting.finish(run) for sitting, run in zip(self._sittings, self._runs, strict=True)]
        return [self._outcome(run, *each) for run, each in zip(self._runs, owed, strict=True)]

    def request_stop(self, number: int | None) -> None:
        """Stop all of them soon, resumably; as `StudyRun.request_stop`."""
        again = "" if number is None else "; once more to stop at once"
        self._progress.say(f"stopping: trials end their epoch, which is kept{again}")
        for run in self._runs:
            run.signal, run.recorder.stopping = number, run.recorder.stopping or "user"

    def _outcome(self, run: StudyRun, pending: int, refused: int) -> Outcome:
        study = Study(run.folder.path)
        code, seconds = code_of(study, run, pending + refused), time.monotonic() - self._began
        return Outcome(study, code, pending, seconds, refused, run.recorder.trouble)

    def _run(self) -> list[str]:
        left = 0
        for run in self._runs:
            with run.recorder.writing():
                more = run.begin()
                if self._referee.is_out(run.spec.name):
                    run.recorder.end_running("race")
                else:
                    left += more
        self._referee.keep()
        try:
            if left and not self._stop_all():
                self._tune()
        finally:
            for run in self._runs:
                with run.recorder.writing():
                    run.pause()
        return ["interrupted" if self._has_more(run) else run.conclude() for run in self._runs]

    def _has_more(self, run: StudyRun) -> bool:
        """Whether a study was asked for more in the last moment, which is left for `resume`."""
        return run.has_more and not self._referee.is_out(run.spec.name)

    def _tune(self) -> None:
        spec = min(
            (run.spec for run in self._runs), key=lambda each: each.concurrent
        )  # what all of them fit into
        members = {run.spec.name: run for run in self._runs}
        cpus, trial = local_ray.cpus_for(spec), local_ray.reserved(spec)
        with local_ray.running(cpus, PRELOAD, spec.concurrent, trial):
            ray_loop(
                spec,
                self._folder,
                searcher=SharedSearcher(members, Room(spec) if spec.elastic else None, self._referee),
                scheduler=SharedScheduler({n: run.scheduler() for n, run in members.items()}, self._referee),
                recorder=SharedRecorder({n: run.recorder for n, run in members.items()}, self._referee),
                stopper=_SharedStopper(self),
            )

    def _stop_all(self) -> bool:
        """Whether all are to end; why one has to is why the others do."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            if self._runs[0].recorder.stopping is None and self._stop_requested():
                self.request_stop(None)
        spent = sum(run.recorder.epochs_run for run in self._runs)
        if self._epochs_left is not None and spent >= self._epochs_left:
            if all(run.recorder.stopping is None for run in self._runs):
                self._progress.say("the budget of epochs is spent: running trials end here")
            for run in self._runs:
                run.recorder.stopping = run.recorder.stopping or "time"
        if not [run for run in self._runs if run.should_stop()]:
            return False
        reason = next(run.recorder.stopping for run in self._runs if run.recorder.stopping is not None)
        number = next((run.signal for run in self._runs if run.signal is not None), None)
        trouble = next((run.recorder.trouble for run in self._runs if run.recorder.trouble is not None), None)
        for run in self._runs:
            run.recorder.stopping = run.recorder.stopping or reason
            run.signal = run.signal or number
            run.recorder.trouble = run.recorder.trouble or trouble
        return True


class _SharedStopper(Stopper):
    """Ends all trials of all studies, where one study has to end."""

    def __init__(self, together: Together) -> None:
        self._together = together
        self._stoppers = {run.spec.name: SittingStopper(run) for run in together._runs}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        name = study_of(result["config"]) if "config" in result else None
        return name in self._stoppers and self._stoppers[name](trial_id, result)

    def stop_all(self) -> bool:
        return self._together._stop_all()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray snapshots its experiment; this one is never restored
