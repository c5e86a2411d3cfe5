"""Early stopping on the clock of epochs after the warm-up, through Ray's own classes, with what they know kept.

Ray loses what a scheduler has seen when the driver ends, and keys it by an id that changes with every sitting. Here it
is keyed by the trial's number in the study, and filled again from the trials in Optuna.

Within a trial's first fold its epochs are judged. Of further folds (`--folds`) ASHA looks at the ends alone: whether a
trial is given its next.

A trial that somebody stops (`tune.steering`) ends with its next report, whatever the scheduler is.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Collection, Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.schedulers.async_hyperband import _Bracket

from ssl_core.system.faults import fault
from tune.definition.objective import DEFAULT
from tune.definition.rungs import ASHA, Stopping, stopping_of
from tune.definition.spec import StudySpec, generator_seed
from tune.trials.record import TrialRecord
from tune.worker.report_keys import EPOCH, SSL_EPOCH


def make_scheduler(
    spec: StudySpec, earlier: Iterable[TrialRecord], stop_asked: Collection[int]
) -> TrialScheduler:
    """The study's scheduler.

    Args:
        spec: the study.
        earlier: its trials so far.
        stop_asked: numbers of trials that somebody stops; they may come and go.
    """
    epochs, stopping = int(spec.config["epochs"]), stopping_of(spec)
    if stopping.scheduler == "none":
        return StudyFIFO(stop_asked)
    if stopping.scheduler == "median":
        return StudyMedian(stopping.rungs(epochs)[0], earlier, spec.objective, stop_asked, epochs=epochs)
    return StudyASHA(epochs, earlier, spec.objective, stop_asked, stopping=stopping, seed_of=spec)


class Rung(dict[str, float]):
    """The values that came to a rung, by trial, and in ascending order. A value that is there stays."""

    def __init__(self) -> None:
        super().__init__()
        self._ascending: list[float] = []

    def __setitem__(self, trial: str, value: float) -> None:
        assert trial not in self
        super().__setitem__(trial, value)
        if not math.isnan(value):
            bisect.insort(self._ascending, value)

    def quantile(self, share: float) -> float:
        """As `numpy.nanpercentile(values, 100 * share)`, to the last bit, without sorting; NaN where there is none."""
        if not self._ascending:
            return math.nan
        place = (len(self._ascending) - 1) * share
        below = math.floor(place)
        low, high = self._ascending[below], self._ascending[min(below + 1, len(self._ascending) - 1)]
        part, gap = place - below, high - low
        return high - gap * (1 - part) if part >= 0.5 else low + gap * part


class Bracket(_Bracket):
    """Ray's bracket over rungs that are kept in order: Ray sorts all values of a rung whenever one more comes.

    Args:
        milestones: of the rungs, ascending.
        eta: the reduction factor.
    """

    def __init__(self, milestones: Iterable[int], eta: float) -> None:
        super().__init__(min_t=1, max_t=1, reduction_factor=eta, s=0, stop_last_trials=False)
        self._rungs = [(milestone, Rung()) for milestone in sorted(milestones, reverse=True)]

    def cutoff(self, recorded: Rung) -> float | None:
        """The value below which a trial is stopped; None where it is the first."""
        return recorded.quantile((1 - 1 / self.rf) * 100 / 100) if recorded else None


class StudyASHA(AsyncHyperBandScheduler):
    """Ray's ASHA (Li et al. 2020). Which of several brackets has a trial follows from the study's seed and its number.

    Args:
        epochs: the study's full budget.
        earlier: the study's trials so far.
        objective: what the study goes by; its name is the key of its value in a worker's report.
        stop_asked: numbers of trials that somebody stops; they may come and go.
        stopping: rungs and brackets.
        seed_of: the study that draws brackets; needed where there are several.
    """

    def __init__(
        self,
        epochs: int,
        earlier: Iterable[TrialRecord] = (),
        objective: str = DEFAULT,
        stop_asked: Collection[int] = (),
        *,
        stopping: Stopping = ASHA,
        seed_of: StudySpec | None = None,
    ) -> None:
        self._objective, self._stop_asked = objective, stop_asked
        self._shares, self._seed_of = stopping.shares(epochs), seed_of
        places = stopping.rungs(epochs)
        super().__init__(
            time_attr=SSL_EPOCH,
            metric=objective,
            mode="min",
            max_t=places[-1] * stopping.eta,
            grace_period=places[0],
            reduction_factor=stopping.eta,
            brackets=stopping.brackets,
            stop_last_trials=False,
        )
        # Ray builds its own list up to max_t, which may come out one short by a rounding of its logarithm.
        self._brackets = [Bracket(milestones, stopping.eta) for milestones in stopping.by_bracket(epochs)]
        self._epochs, self._fold_ends = epochs, frozenset(stopping.fold_rungs(epochs))
        self._folds = Bracket(self._fold_ends, stopping.eta)
        for record in earlier:
            warmup = record.epoch - (record.ssl_epoch or 0)
            for ssl_epoch, value in sorted(record.intermediate.items()):
                if ssl_epoch > (record.ssl_epoch or 0):
                    continue  # its driver died while noting it: it is reported, and judged, again
                if warmup + ssl_epoch <= epochs:
                    bracket = self._brackets[self.bracket_of(int(record.trial))]
                    _enter(bracket, record.trial, ssl_epoch, value)
                if warmup + ssl_epoch in self._fold_ends:
                    _enter(self._folds, record.trial, warmup + ssl_epoch, value)

    def bracket_of(self, number: int) -> int:
        """The bracket of a trial."""
        if len(self._brackets) == 1:
            return 0
        assert self._seed_of is not None
        drawn = np.random.default_rng(generator_seed(self._seed_of, "bracket", number)).random()
        return int(np.searchsorted(np.cumsum(self._shares)[:-1], drawn, side="right"))

    def _judge(self, number: int, result: dict[str, Any]) -> str:
        """Ray's decision about a report; at the end of a fold it is judged twice, and goes on if it passes both."""
        shim: Any = SimpleNamespace(trial_id=str(number))
        epoch, value = result.get(EPOCH, 0), -result[self._objective]
        decisions = []
        if epoch <= self._epochs:
            decisions.append(
                self._brackets[self.bracket_of(number)].on_result(shim, result[SSL_EPOCH], value)
            )
        if epoch in self._fold_ends:
            decisions.append(self._folds.on_result(shim, epoch, value))
        return str(self.STOP if self.STOP in decisions else self.CONTINUE)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Put the trial into its bracket."""
        self._trial_info[trial.trial_id] = self._brackets[self.bracket_of(trial.config["trial"])]

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Go on, or stop: the objective's value at a rung against those that came there before."""
        if trial.config["trial"] in self._stop_asked:
            return str(self.STOP)
        if SSL_EPOCH not in result or result.get(self._objective) is None:
            return str(self.CONTINUE)
        fault("rung:before")
        decision = self._judge(trial.config["trial"], result)
        fault("rung:after")
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Enter a last report that reached a rung and was never judged, since the run ended with it."""
        if SSL_EPOCH in result and result.get(self._objective) is not None:
            self.on_trial_result(tune_controller, trial, result)
        self._trial_info.pop(trial.trial_id, None)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Forget Ray's id; what the trial left in the rungs stays."""
        self._trial_info.pop(trial.trial_id, None)


def _enter(bracket: _Bracket, trial: str, place: int, value: float) -> None:
    """Note a value that was judged in an earlier sitting, in the rung where Ray's bracket noted it.

    Judging it again would take the quantile of all values that came there before, of which nothing is wanted.
    """
    for milestone, recorded in bracket._rungs:  # the highest first
        if place >= milestone:
            if trial not in recorded:
                recorded[trial] = -value
            return


class TrialNumber(str):
    """A trial's number in the study, where Ray's rule wants a trial."""

    __slots__ = ()

    @property
    def trial_id(self) -> str:
        """As Ray calls it."""
        return str(self)


class StudyMedian(MedianStoppingRule):
    """Ray's median stopping rule (Golovin et al. 2017): a trial whose best value so far is worse than the median of the
    other trials' running means ends.

    Args:
        grace: epochs after the warm-up before which no trial is stopped.
        earlier: the study's trials so far.
        objective: what the study goes by.
        stop_asked: as of `StudyASHA`.
        epochs: of a fold; later ones, of further folds, are not looked at. None: there is one fold.
    """

    def __init__(
        self,
        grace: int,
        earlier: Iterable[TrialRecord] = (),
        objective: str = DEFAULT,
        stop_asked: Collection[int] = (),
        *,
        epochs: int | None = None,
    ) -> None:
        self._objective, self._stop_asked = objective, stop_asked
        self._epochs = math.inf if epochs is None else epochs
        super().__init__(time_attr=SSL_EPOCH, metric=objective, mode="min", grace_period=grace)
        for record in earlier:
            for ssl_epoch, value in sorted(record.intermediate.items()):
                of_fold_0 = record.epoch - (record.ssl_epoch or 0) + ssl_epoch <= self._epochs
                if of_fold_0 and ssl_epoch <= (
                    record.ssl_epoch or 0
                ):  # else it is reported, and judged, again
                    self._results[record.trial].append(self._row(ssl_epoch, value))

    def _row(self, ssl_epoch: int, value: float) -> dict[str, Any]:
        return {SSL_EPOCH: ssl_epoch, self._objective: value}

    def _news(self, trial: Any, result: dict[str, Any]) -> dict[str, Any] | None:
        """What counts of a report; None where it says nothing new."""
        if SSL_EPOCH not in result or result.get(self._objective) is None:
            return None
        if result.get(EPOCH, 0) > self._epochs:
            return None
        known = self._results.get(str(trial.config["trial"]))
        if known and known[-1][SSL_EPOCH] >= result[SSL_EPOCH]:
            return None
        return self._row(result[SSL_EPOCH], result[self._objective])

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Go on, or stop: Ray's rule, for the trial's number in the study."""
        if trial.config["trial"] in self._stop_asked:
            return str(self.STOP)
        if (row := self._news(trial, result)) is None:
            return str(self.CONTINUE)
        fault("rung:before")
        number: Any = TrialNumber(trial.config["trial"])
        decision = str(super().on_trial_result(tune_controller, number, row))
        fault("rung:after")
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Enter a last report, which Ray does not have judged."""
        if (row := self._news(trial, result)) is not None:
            self._results[str(trial.config["trial"])].append(row)

    def _on_insufficient_samples(self, tune_controller: Any, trial: Any, time: float) -> str:
        """Go on: Ray would let another trial have the place meanwhile."""
        return str(self.CONTINUE)


class StudyFIFO(FIFOScheduler):
    """No early stopping but of trials that somebody stops.

    Args:
        stop_asked: as of `StudyASHA`.
    """

    def __init__(self, stop_asked: Collection[int] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._stop_asked = stop_asked

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Go on, unless somebody stops it."""
        return str(self.STOP if trial.config["trial"] in self._stop_asked else self.CONTINUE)
