"""What shares out places and epochs among studies in one loop of Ray Tune, and gives each what is its own.

The next place goes to the study with the fewest trials under way, of those to the one that has trained the fewest
epochs: no study waits for another to end, and the places of one that has ended are the others'. After an interruption
the trials that wait are handed out first, so studies on one place go on as if there had been none. A referee may say
that a study gets no more trials (`tune.comparison.race`): those under way end with their next report.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tune.cluster import local_ray as local_ray  # before Ray Tune, which reads the environment that it sets

# isort: split
from ray.tune import Callback
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from tune.cluster.connection import Room
from tune.engine.recorder import Recorder
from tune.engine.study_run import StudyRun
from tune.worker.task import study_of


class Referee(Protocol):
    """Decides which studies get no more trials (`tune.comparison.race.Race`)."""

    def is_out(self, study: str) -> bool:
        """Whether a study gets no more trials."""

    def judge(self, study: str, trial: int, result: Mapping[str, Any]) -> bool:
        """Take in a report, before it is written down; whether its study is out now."""

    def keep(self) -> None:
        """Make durable what was decided; the reports that decided it are."""


class _Everybody:
    """The referee where there is no race."""

    def is_out(self, study: str) -> bool:
        return False

    def judge(self, study: str, trial: int, result: Mapping[str, Any]) -> bool:
        return False

    def keep(self) -> None:
        pass


NO_RACE = _Everybody()


class SharedSearcher(Searcher):
    """Hands out the trials of several studies: each time that of the study that has had least so far.

    Args:
        runs: the studies' runs by their names.
        room: how many trials may run side by side at the moment; None: Ray is told once and for all.
        referee: decides which of them get no more trials.
    """

    def __init__(
        self, runs: Mapping[str, StudyRun], room: Room | None = None, referee: Referee = NO_RACE
    ) -> None:
        objective = next(iter(runs.values())).spec.objective
        super().__init__(metric=objective, mode="min")
        self._runs, self._room, self._referee = dict(runs), room, referee
        self._waiting = {name: len(run.records.unfinished()) for name, run in runs.items()}
        """Trials that an earlier sitting left; they are handed out first."""
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
            if self._gets_none(name):
                continue
            found = self._searchers[name].suggest(trial_id)
            if found == Searcher.FINISHED:
                self._ended.add(name)
            elif found is not None:
                self._running[trial_id] = name
                self._waiting[name] = max(0, self._waiting[name] - 1)
                return found
        return Searcher.FINISHED if len(self._ended) == len(self._searchers) else None

    def _gets_none(self, name: str) -> bool:
        """Whether a study is out, and so has ended once none of its trials runs or has to run again."""
        if not self._referee.is_out(name) or self._runs[name].recorder.returned:
            return False
        if name not in self._running.values():
            self._ended.add(name)
        return True

    def _had(self, name: str) -> tuple[bool, int, int, int]:
        """What a study has had: nothing of a trial that waits, trials under way, epochs; of equals the first named."""
        under_way = list(self._running.values()).count(name)
        epochs = self._before[name] + self._runs[name].recorder.epochs_run
        return not self._waiting[name], under_way, epochs, list(self._runs).index(name)

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
        referee: decides which of them get no more trials; is told of every report.
    """

    def __init__(self, schedulers: Mapping[str, TrialScheduler], referee: Referee = NO_RACE) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._schedulers, self._referee = dict(schedulers), referee

    def _is_out(self, trial: Any, result: Mapping[str, Any]) -> bool:
        return self._referee.judge(study_of(trial.config), trial.config["trial"], result)

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
        decision = self._of(trial).on_trial_result(tune_controller, trial, result)
        return str(self.STOP) if self._is_out(trial, result) else decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._of(trial).on_trial_complete(tune_controller, trial, result)
        self._is_out(trial, result)

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
        referee: decides which of them get no more trials.
    """

    def __init__(self, recorders: Mapping[str, Recorder], referee: Referee = NO_RACE) -> None:
        self._recorders, self._referee = dict(recorders), referee

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
        name = study_of(trial.config)
        recorder = self._recorders[name]
        recorder.left_race = self._referee.is_out(name)
        recorder.on_trial_result(iteration, trials, trial, result, **info)
        self._keep(recorder)

    def _keep(self, recorder: Recorder) -> None:
        """What a report has decided is kept once the report is."""
        if recorder.trouble is None:
            with recorder.writing():
                self._referee.keep()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        recorder = self._recorders[study_of(trial.config)]
        recorder.on_trial_complete(iteration, trials, trial, **info)
        self._keep(recorder)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._recorders[study_of(trial.config)].on_trial_recover(iteration, trials, trial, **info)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._recorders[study_of(trial.config)].on_trial_error(iteration, trials, trial, **info)
