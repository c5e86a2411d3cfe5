"""A study without training: the real searcher, scheduler, recorder and storages, with known learning curves.

A function of a trial's parameters gives the results of its epochs. Each epoch takes one unit of time on one of
`concurrent` places, and the driver's code runs in the order in which Ray Tune would run it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from ssl_core.training.run import Report
from tune.definition.objective import error_and_loss
from tune.definition.spec import StudySpec
from tune.engine.recorder import Recorder
from tune.engine.scheduler import StudyASHA
from tune.engine.scheduler import make_scheduler as make_study_scheduler
from tune.engine.searcher import StudySearcher
from tune.steering.steering import Steering
from tune.store.home import Home
from tune.store.study_folder import StudyFolder
from tune.tracking.tracker import Tracker
from tune.trials.study_trials import StudyTrials
from tune.worker.folds import over_folds
from tune.worker.report_keys import BOTH, EPOCH, ERROR, LOSS, METRICS, SSL_EPOCH, STOP_REASON


@dataclass(frozen=True)
class Outcome:
    """What a configuration would do: errors and losses after each epoch, the warm-up's among them.

    A shorter list than the study's epochs is a run that diverges after its last one. In a study with several folds the
    lists go on with the epochs of the second fold, and so on.
    """

    warmup: int
    errors: tuple[float, ...]
    losses: tuple[float, ...]


class Driver:
    """One sitting of a study's driver.

    Args:
        spec: the study; its folder exists.
        home: the home folder.
        outcome_of: what a trial's configuration document comes to.
        tracked: whether the event log is written too.
        make_scheduler: another scheduler than the study's own.
    """

    def __init__(
        self,
        spec: StudySpec,
        home: Home,
        outcome_of: Callable[[Mapping[str, Any]], Outcome],
        *,
        make_scheduler: Callable[[StudyTrials], StudyASHA] | None = None,
    ) -> None:
        from tune.tracking.opening import open_log, open_tracker

        folder = StudyFolder(home.study_folder(spec.name))
        self.spec, self.outcome_of = spec, outcome_of
        self.log = open_log(folder)
        self.tracker: Tracker = open_tracker(self.log, spec, home)
        self.records = StudyTrials(folder, spec)
        self.recorder = Recorder(self.records, self.tracker, folder, lambda: None)
        self.steering = Steering(
            folder,
            self.records,
            self.log,
            changed=self._change,
            returned=self.recorder.returned.extend,
        )
        self.tracker.study_started({}, "")
        self.steering.look()
        self.recorder.returned.clear()
        self.recorder.end_decided()
        if make_scheduler is None:
            self.scheduler: Any = make_study_scheduler(spec, self.records.history(), self.records.stop_asked)
        else:
            self.scheduler = make_scheduler(self.records)
        self.searcher = StudySearcher(self.records, folder, home)
        self.epochs = 0
        self._places: list[tuple[int, int, Any, Outcome]] = []
        self._now = self._asked = 0
        self._more = True

    def run(self, budget: float = float("inf")) -> None:
        """Run the study to its end, or until so many epochs have been spent; may be called again."""
        while self.epochs < budget:
            if self.steering.look():
                self._more = True
            while self._more and len(self._places) < self.spec.concurrent:
                self._launch()
            if not self._places:
                return
            self._now, place, trial, outcome = heapq.heappop(self._places)
            if not self._epoch(trial, outcome):
                heapq.heappush(self._places, (self._now + 1, place, trial, outcome))

    def _change(self, spec: StudySpec) -> None:
        self.spec = spec

    def _launch(self) -> None:
        task = self.searcher.suggest(f"ray-{self._asked}")
        self._more = isinstance(task, dict)
        if self._more:
            trial = _trial(task, self._asked)
            self.scheduler.on_trial_add(None, trial)
            self.recorder.on_trial_start(0, [], trial)
            heapq.heappush(self._places, (self._now + 1, self._asked, trial, self.outcome_of(task["config"])))
            self._asked += 1

    def close(self) -> None:
        """Let go of the files."""
        self.records.close()
        self.log.close()

    def _epoch(self, trial: Any, outcome: Outcome) -> bool:
        """One epoch of a trial, judged and written down; whether it was its last."""
        trial.epoch += 1
        if trial.epoch > len(outcome.errors):
            result: dict[str, Any] = {"done": True, STOP_REASON: "nan"}
        else:
            self.epochs += 1
            report = self._report(trial.epoch, outcome)
            told = {name: report.metrics[name] for name in (ERROR, LOSS, BOTH)}
            result = {EPOCH: trial.epoch, METRICS: report.metrics, "done": False, **told}
            if report.ssl_epoch is not None:
                result[SSL_EPOCH] = report.ssl_epoch
            if trial.epoch == self.spec.full_epochs:
                result |= {"done": True, STOP_REASON: "completed"}
        if not result["done"] and self.scheduler.on_trial_result(None, trial, result) == StudyASHA.STOP:
            result["done"] = True
        self.recorder.on_trial_result(0, [], trial, result)
        if result["done"]:
            self.scheduler.on_trial_complete(None, trial, result)
        return bool(result["done"])

    def _report(self, epoch: int, outcome: Outcome) -> Report:
        """What a worker tells of an epoch."""
        length, valid = self.records.epochs, self.spec.config["data"]["valid"]
        measured = list(zip(outcome.errors, outcome.losses, strict=True))

        def of_fold(fold: int) -> Iterator[Report]:
            """The fold's reports, as far as its run got."""
            first = fold * length
            for place in range(first, min(first + length, len(outcome.errors))):
                at = place - first + 1
                metrics = {ERROR: outcome.errors[place], LOSS: outcome.losses[place]}
                metrics[BOTH] = error_and_loss(measured[first : place + 1], valid)
                metrics |= {"time/epoch_seconds": 1.0, "lr": 0.03}
                yield Report(at, at - outcome.warmup if at > outcome.warmup else None, metrics)

        return next(over_folds(of_fold, self.spec.folds, length, epoch - 1)).report


def _trial(task: Mapping[str, Any], place: int) -> Any:
    """What Ray's trial is to scheduler and recorder."""
    return SimpleNamespace(
        trial_id=f"ray-{place}",
        config=task,
        epoch=task["known_epoch"],
        run_metadata=SimpleNamespace(num_failures=0),
    )
