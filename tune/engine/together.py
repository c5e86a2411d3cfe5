"""Several studies in one loop of Ray Tune: they share its workers, and each keeps its own searcher, rungs and records.

A worker takes whichever study's trial is next, so a place that one study leaves costs the next one no new process.
The next place goes to the study with the fewest trials under way, of those to the one that has trained the fewest
epochs: no study waits for another to end, and the places of one that has ended are the others'.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tune.cluster import local_ray  # before Ray Tune, which reads the environment that it sets

# isort: split
from ray.tune import Callback
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from tune.cluster.connection import Room
from tune.engine.outcome import Outcome
from tune.engine.progress import Progress
from tune.engine.ray_loop import SittingStopper, ray_loop
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
    """

    def __init__(
        self,
        sittings: Sequence[Sitting],
        folder: Path,
        progress: Progress,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        self._sittings, self._folder, self._progress = list(sittings), folder, progress
        self._stop_requested, self._next_look = stop_requested, 0.0
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
                left += run.begin()
        try:
            if left and not self._stop_all():
                self._tune()
        finally:
            for run in self._runs:
                with run.recorder.writing():
                    run.pause()
        return ["interrupted" if run.has_more else run.conclude() for run in self._runs]

    def _tune(self) -> None:
        spec = min(
            (run.spec for run in self._runs), key=lambda each: each.concurrent
        )  # what all of them fit into
        members = {run.spec.name: run for run in self._runs}
        with local_ray.running(local_ray.cpus_for(spec), PRELOAD):
            ray_loop(
                spec,
                self._folder,
                searcher=SharedSearcher(members, Room(spec) if spec.elastic else None),
                scheduler=SharedScheduler({name: run.scheduler() for name, run in members.items()}),
                recorder=SharedRecorder({name: run.recorder for name, run in members.items()}),
                stopper=_SharedStopper(self),
            )

    def _stop_all(self) -> bool:
        """Whether all are to end; why one has to is why the others do."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            if self._runs[0].recorder.stopping is None and self._stop_requested():
                self.request_stop(None)
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


class SharedSearcher(Searcher):
    """Hands out the trials of several studies: each time that of the study that has had least so far.

    Args:
        runs: the studies' runs by their names.
        room: how many trials may run side by side at the moment; None: Ray is told once and for all.
    """

    def __init__(self, runs: Mapping[str, StudyRun], room: Room | None = None) -> None:
        objective = next(iter(runs.values())).spec.objective
        super().__init__(metric=objective, mode="min")
        self._runs, self._room = dict(runs), room
        self._searchers = {name: run.searcher(alone=False) for name, run in runs.items()}
        self._before = {name: sum(r.epoch for r in run.records.all()) for name, run in runs.items()}
        self._running: dict[str, str] = {}
        """The study of each trial that runs, by Ray's id of the trial."""
        self._ended: set[str] = set()

    def suggest(self, trial_id: str) -> Any:
        """The configuration of the next trial; None: not now; FINISHED where all studies have all of theirs."""
        if self._room is not None and len(self._running) >= self._room():
            return None
        for name in sorted(self._searchers.keys() - self._ended, key=self._had):
            found = self._searchers[name].suggest(trial_id)
            if found == Searcher.FINISHED:
                self._ended.add(name)
            elif found is not None:
                self._running[trial_id] = name
                return found
        return Searcher.FINISHED if len(self._ended) == len(self._searchers) else None

    def _had(self, name: str) -> tuple[int, int, int]:
        """What a study has had: trials under way, epochs; of equals the one that was named first."""
        under_way = list(self._running.values()).count(name)
        epochs = self._before[name] + self._runs[name].recorder.epochs_run
        return under_way, epochs, list(self._runs).index(name)

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """One place is free."""
        name = self._running.pop(trial_id, None)
        if name is not None:
            self._searchers[name].on_trial_complete(trial_id, result, error)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray snapshots its experiment; this one is never restored

    def save(self, checkpoint_path: str) -> None:
        """Nothing but the file Ray expects: the studies' storages are the searchers' state."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class SharedScheduler(TrialScheduler):
    """Gives what it is told of a trial to the scheduler of the trial's study.

    Args:
        schedulers: of each study.
    """

    def __init__(self, schedulers: Mapping[str, TrialScheduler]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._schedulers = dict(schedulers)

    def _of(self, trial: Any) -> TrialScheduler:
        return self._schedulers[study_of(trial.config)]

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Nothing: each has been told already."""
        return True

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """See `TrialScheduler`, here and below."""
        self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self._of(trial).on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return self._of(trial).on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._of(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._of(trial).on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The first that waits: none is paused, and places are dealt out by the searcher."""
        return next(iter(self._schedulers.values())).choose_trial_to_run(tune_controller)

    def debug_string(self) -> str:
        return "\n".join(each.debug_string() for each in self._schedulers.values())


class SharedRecorder(Callback):
    """Gives what Ray reports of a trial to the recorder of the trial's study.

    Args:
        recorders: of each study.
    """

    def __init__(self, recorders: Mapping[str, Callback]) -> None:
        self._recorders = dict(recorders)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray snapshots its experiment; this one is never restored

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Ray's loop turns."""
        for name, recorder in self._recorders.items():
            own = [trial for trial in trials if study_of(trial.config) == name]
            recorder.on_step_begin(iteration, own, **info)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """See `tune.engine.recorder.Recorder`, here and below."""
        self._recorders[study_of(trial.config)].on_trial_start(iteration, trials, trial, **info)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._recorders[study_of(trial.config)].on_trial_result(iteration, trials, trial, result, **info)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._recorders[study_of(trial.config)].on_trial_complete(iteration, trials, trial, **info)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._recorders[study_of(trial.config)].on_trial_recover(iteration, trials, trial, **info)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._recorders[study_of(trial.config)].on_trial_error(iteration, trials, trial, **info)


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
