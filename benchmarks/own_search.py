"""This project's search in memory: its own sampler and scheduler on recorded curves, without storages.

`benchmarks.search_quality.OwnSearch` does the same through the real searcher, recorder and storages and takes twenty
times as long; `tests/test_recommending.py` holds that both ask for the same.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from optuna.trial import FrozenTrial, TrialState, create_trial

from benchmarks.stock_search import Recorded, SimulatedTrial
from tune.definition.objective import FIELDS
from tune.definition.spec import StudySpec
from tune.engine.scheduler import StudyASHA, make_scheduler
from tune.trials.record import TrialRecord
from tune.trials.repeats import MOST_REPEATS, Known
from tune.trials.sampling import Sampling
from tune.trials.stored import verdict


class Asks(Protocol):
    """What proposes a search's trials: `tune.trials.sampling.Sampling`, or another."""

    def ask(self, number: int, fixed: Mapping[str, Any], attempt: int = 0) -> dict[str, Any] | None:
        """Parameters of a new trial."""

    def end(self, trial: FrozenTrial) -> None:
        """A trial has ended."""


class QuickSearch:
    """A search that can be halted after any epoch.

    Args:
        recorded: the curves.
        spec: the study.
        sampling: proposes trials; None: the study's own.
    """

    def __init__(
        self, recorded: Recorded, spec: StudySpec, sampling: Callable[[StudySpec], Asks] | None = None
    ) -> None:
        self.recorded, self.spec, self.epochs = recorded, spec, 0
        self._distributions = recorded.space.distributions(recorded.epochs)
        self._sampling: Asks = sampling(spec) if sampling else Sampling(spec, self._distributions)
        self._scheduler: Any = make_scheduler(spec, (), ())
        self._known = Known(recorded.space, recorded.epochs, is_used=True)
        self._trials: list[tuple[SimulatedTrial, FrozenTrial]] = []
        self._places: list[tuple[int, int]] = []
        self._now = 0

    def run(self, budget: int) -> None:
        """Go on until so many epochs have been spent since the beginning."""
        while self.epochs < budget:
            while len(self._places) < self.spec.concurrent:
                self._launch()
            self._now, number = heapq.heappop(self._places)
            if self._goes_on(*self._trials[number]):
                heapq.heappush(self._places, (self._now + 1, number))

    def records(self) -> list[TrialRecord]:
        """The trials as they stand."""
        return [trial.record() for trial, _ in self._trials]

    def close(self) -> None:
        """Nothing is held."""

    def _launch(self) -> None:
        number = len(self._trials)
        fixed = self.recorded.space.baseline_for(self.recorded.epochs) if number == 0 else {}
        for attempt in range(MOST_REPEATS):
            params = self._sampling.ask(number, fixed, attempt)
            assert params is not None
            if self._known.find(params) is None:
                break
        asked = create_trial(state=TrialState.RUNNING, params=params, distributions=self._distributions)
        asked.number = number
        self._known.add(asked)
        resolved = self.recorded.space.resolve(params, self.recorded.epochs)
        trial = SimulatedTrial(
            number,
            resolved,
            self.recorded.nearest(resolved),
            valid=self.recorded.valid,
            objective=self.spec.objective,
            epochs=self.recorded.epochs,
        )
        trial.ray.trial_id, trial.ray.config = str(number), {"trial": number}
        self._scheduler.on_trial_add(None, trial.ray)
        self._trials.append((trial, asked))
        heapq.heappush(self._places, (self._now + 1, number))

    def _goes_on(self, trial: SimulatedTrial, asked: FrozenTrial) -> bool:
        """One epoch of a trial, judged; whether it has another."""
        if trial.epoch == len(trial.curve.val_error):  # the next loss is not finite
            return self._end(trial, asked, "nan")
        trial.epoch += 1
        self.epochs += 1
        last = trial.record()
        result = {name: getattr(last, field) for name, field in FIELDS.items()}
        asked.user_attrs["last"] = {
            "val_error": last.val_error,
            "val_loss": last.val_loss,
            "val_error_and_loss": last.val_error_and_loss,
            "epoch": last.epoch,
        }
        if last.ssl_epoch is not None:
            result["ssl_epoch"] = last.ssl_epoch
            value = result[self.spec.objective]
            assert value is not None
            asked.intermediate_values = {last.ssl_epoch: value}
        whole = trial.epoch == self.recorded.epochs
        if not whole and self._scheduler.on_trial_result(None, trial.ray, result) == StudyASHA.STOP:
            return self._end(trial, asked, "asha", result)
        return self._end(trial, asked, "completed", result) if whole else True

    def _end(
        self, trial: SimulatedTrial, asked: FrozenTrial, reason: str, result: dict[str, Any] | None = None
    ) -> bool:
        states = {"completed": "completed", "asha": "stopped_early", "nan": "failed"}
        trial.state = states[reason]
        asked.user_attrs["stop_reason"] = reason
        asked.state, asked.values = verdict(asked, reason, self.spec.objective, self._distributions)
        self._known.add(asked)
        self._sampling.end(asked)
        if result is not None:
            self._scheduler.on_trial_complete(None, trial.ray, result)
        return False
