"""Ray's own searcher and scheduler on recorded learning curves: what benchmarks/search_quality.py compares with.

There are neither Ray's processes nor training: the parts themselves are called in the order in which Ray Tune's
controller calls them, with a substitute object for each trial. A configuration that they ask for gets the nearest
recorded curve. Trials run side by side in virtual time.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from optuna.distributions import FloatDistribution
from ray.tune.schedulers import TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from benchmarks.record_curves import EPOCHS, METHOD, SPACE, Curve
from benchmarks.record_curves import SEEN as SEEN_IMAGES
from search_spaces import SearchSpace, load_space
from search_spaces.ranges import SHARE
from tune.definition.objective import DEFAULT
from tune.findings.ranking import best_record
from tune.trials.record import TrialRecord

METRIC, TIME = "val/error", "training_iteration"
IMAGES = SEEN, HELD = "validation images", "held-out images"
NO_MODEL = 100.0
"""Error in percent of a configuration whose run diverges: it gives no model."""


class Recorded:
    """The recorded curves, as the answer to any configuration.

    Args:
        curves: the curves.
        space: what their configurations were drawn from.
        epochs: of a curve that did not diverge.
        valid: validation images of a study.
    """

    def __init__(
        self,
        curves: Sequence[Curve],
        space: SearchSpace | None = None,
        epochs: int = EPOCHS,
        valid: int = SEEN_IMAGES,
    ) -> None:
        self.curves, self.valid = list(curves), valid
        self.space = space or load_space(METHOD, str(SPACE))
        self.epochs = epochs
        self._best = {images: min(self.final(curve, images) for curve in self.curves) for images in IMAGES}
        resolved = [self.space.resolve(curve.params, self.epochs) for curve in self.curves]
        self.places = np.array([self.place(params) for params in resolved])  # (curves, parameters)

    def place(self, params: Mapping[str, float]) -> list[float]:
        """Where a configuration, its warm-up in epochs, lies in the unit cube."""
        found = []
        for parameter in self.space.parameters:
            name, given = parameter.name, parameter.distribution
            assert isinstance(given, FloatDistribution)
            value = params["warmup_epochs"] / self.epochs if name == SHARE else params[name]
            ends = np.array([given.low, value, given.high])
            low, at, high = np.log(ends) if given.log else ends
            found.append(float((at - low) / (high - low)))
        return found

    def nearest(self, params: Mapping[str, float]) -> Curve:
        """The curve that answers a configuration; of equally near ones the first."""
        return self.curves[self.nearest_index(params)]

    def nearest_index(self, params: Mapping[str, float]) -> int:
        """Its place in `curves`."""
        away = ((self.places - np.array(self.place(params))) ** 2).sum(axis=1)
        return int(away.argmin())

    def diverged(self, curve: Curve) -> bool:
        """Whether a loss or gradient was not finite before the curve's end."""
        return len(curve.val_error) < self.epochs

    def final(self, curve: Curve, images: str) -> float:
        """Error in percent at the end of a curve, on one of IMAGES."""
        if self.diverged(curve):
            return NO_MODEL
        return curve.val_error[-1] if images == SEEN else curve.held_error[-1]

    def regret(self, records: Sequence[TrialRecord]) -> dict[str, float]:
        """Points by which the recommended trial's configuration is worse than the best there is, for each of IMAGES."""
        chosen, _ = best_record(records)
        curve = None if chosen is None else self.nearest(chosen.params)
        return {
            images: (NO_MODEL if curve is None else self.final(curve, images)) - self._best[images]
            for images in IMAGES
        }

    def floor(self) -> float:
        """Regret on HELD of the rule alone, in points: of its choice where every curve is run to its end."""

        def rank(curve: Curve) -> tuple[float, float]:
            return curve.val_error[-1], curve.val_loss[-1]

        best = min((curve for curve in self.curves if not self.diverged(curve)), key=rank)
        return self.final(best, HELD) - self._best[HELD]


@dataclass
class SimulatedTrial:
    """A trial and its curve."""

    number: int
    params: dict[str, Any]
    curve: Curve
    epoch: int = 0
    state: str = "running"
    ray: SimpleNamespace = field(default_factory=SimpleNamespace)
    valid: int = SEEN_IMAGES
    objective: str = DEFAULT
    epochs: int = EPOCHS

    def record(self) -> TrialRecord:
        """The trial as this project's rule sees it."""
        ssl_epoch, known = self.epoch - self.curve.warmup, self.epoch > 0
        return TrialRecord(
            trial=str(self.number),
            state=self.state,
            stop_reason=None,
            val_error=self.curve.val_error[self.epoch - 1] if known else None,
            val_loss=self.curve.val_loss[self.epoch - 1] if known else None,
            epoch=self.epoch,
            ssl_epoch=ssl_epoch if ssl_epoch > 0 else None,
            seconds=float(self.epoch),
            params=self.params,
            val_error_and_loss=self.curve.both(self.epoch, self.valid) if known else None,
            objective=self.objective,
            share=self.epoch / self.epochs,
        )


class StockSearch:
    """A search of Ray's parts, which can be halted after any epoch.

    Args:
        recorded: the curves.
        searcher: asks for configurations, in the space's own names.
        scheduler: stops trials; it reads METRIC in percent, and the time in all epochs of the trial.
        concurrent: trials side by side.
    """

    def __init__(
        self, recorded: Recorded, searcher: OptunaSearch, scheduler: TrialScheduler, concurrent: int
    ) -> None:
        self.recorded, self.searcher, self.scheduler = recorded, searcher, scheduler
        self.concurrent = concurrent
        self.epochs = 0
        self._trials: list[SimulatedTrial] = []
        self._places: list[tuple[int, int]] = []  # when the next epoch ends, and of which trial
        self._now = 0

    def run(self, budget: int) -> None:
        """Go on until so many epochs have been spent since the beginning."""
        while self.epochs < budget:
            while len(self._places) < self.concurrent:
                self._launch()
            self._now, number = heapq.heappop(self._places)
            if self._goes_on(self._trials[number]):
                heapq.heappush(self._places, (self._now + 1, number))

    def records(self) -> list[TrialRecord]:
        """The trials as they stand."""
        return [trial.record() for trial in self._trials]

    def close(self) -> None:
        """Nothing is held."""

    def _launch(self) -> None:
        number = len(self._trials)
        params = self.recorded.space.resolve(self.searcher.suggest(str(number)), self.recorded.epochs)
        trial = SimulatedTrial(number, params, self.recorded.nearest(params))
        trial.ray.trial_id = str(number)
        self.scheduler.on_trial_add(None, trial.ray)
        self._trials.append(trial)
        heapq.heappush(self._places, (self._now + 1, number))

    def _goes_on(self, trial: SimulatedTrial) -> bool:
        """One epoch of a trial, judged; whether it has another."""
        if trial.epoch == len(trial.curve.val_error):  # the next loss is not finite, and the trainable raises
            trial.state = "failed"
            self.scheduler.on_trial_error(None, trial.ray)
            self.searcher.on_trial_complete(trial.ray.trial_id, error=True)
            return False
        trial.epoch += 1
        self.epochs += 1
        result = {METRIC: trial.curve.val_error[trial.epoch - 1], TIME: trial.epoch}
        stops = self.scheduler.on_trial_result(None, trial.ray, result) == TrialScheduler.STOP
        if not stops:  # the report that stops a trial does not reach the searcher as a report
            self.searcher.on_trial_result(trial.ray.trial_id, result)
        if not stops and trial.epoch < self.recorded.epochs:
            return True
        trial.state = "completed" if trial.epoch == self.recorded.epochs else "stopped_early"
        self.scheduler.on_trial_complete(None, trial.ray, result)
        self.searcher.on_trial_complete(trial.ray.trial_id, result)
        return False
