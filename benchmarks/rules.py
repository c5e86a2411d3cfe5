"""Rules that recommend one of a search's trials: every one that was tried.

A rule reads what a search had seen (`benchmarks.courses.Seen`) and returns the place of a trial's curve. Two trials
that the nearest curve answers alike count once, as far as the longer of them came. Trials that ran to the end are
candidates; where there is none, those that came furthest after their warm-up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.courses import Seen, Task
from benchmarks.curve_sets import EPOCHS, POOL
from benchmarks.process import Posterior, Prior, posterior
from tune.findings.outlook.expected import beliefs, log_odds

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
LAST = 3
"""Epochs that a rule means which goes by several."""


@dataclass(frozen=True)
class Known:
    """A search's trials as rules see them.

    Attributes:
        task: the curves.
        curve: (n,), each curve that was begun and has a report, once.
        epoch: (n,), how far it came.
        candidates: (k,), places in `curve`.
    """

    task: Task
    curve: Ints
    epoch: Ints
    candidates: Ints

    def last(self, series: Floats, mean: int = 1) -> Floats:
        """Each trial's mean over its last epochs."""
        return np.array(
            [series[c, max(e - mean, 0) : e].mean() for c, e in zip(self.curve, self.epoch, strict=True)]
        )


def known(task: Task, seen: Seen) -> Known | None:
    """None where nothing has reported."""
    longest: dict[int, int] = {}
    for curve, epoch, state in zip(seen.curve, seen.epoch, seen.state, strict=True):
        if epoch > 0 and state != "failed":
            longest[curve] = max(longest.get(curve, 0), epoch)
    if not longest:
        return None
    curve, epoch = np.array(list(longest)), np.array(list(longest.values()))
    whole = np.flatnonzero(epoch == EPOCHS)
    after = np.maximum(epoch - task.warmup[curve], 0)
    return Known(task, curve, epoch, whole if len(whole) else np.flatnonzero(after == after.max()))


Part = Callable[[Known, int], Floats]
"""(n,): what is measured of each trial, a mean over so many epochs at its end."""
Rule = Callable[[Known], Floats]
"""(n,): what is lowest for the recommended one; infinite for those that a rule does not consider."""


def of_candidates(k: Known, values: Floats) -> Floats:
    """(n,): values of the candidates (k,), infinite for all others."""
    found = np.full(len(k.curve), np.inf)
    found[k.candidates] = values
    return found


def error_of(k: Known, mean: int = 1) -> Floats:
    """Validation error in percent."""
    return k.last(k.task.val_error, mean)


def logit_of(k: Known, mean: int = 1) -> Floats:
    """Log odds of the validation error, half an image added to either side."""
    return log_odds(list(error_of(k, mean)), k.task.valid)


def log_loss_of(k: Known, mean: int = 1) -> Floats:
    """Logarithm of the validation loss."""
    return np.log(k.last(k.task.val_loss, mean) + 1e-6)


def both_of(k: Known, mean: int = 1) -> Floats:
    """Log odds of the error and log loss, each in units of its spread, added."""
    parts = [logit_of(k, mean), log_loss_of(k, mean)]
    return sum((p - p.mean()) / (p.std() + 1e-9) for p in parts)  # type: ignore[return-value]


def ranks(values: Floats) -> Floats:
    """Places in order from 0 to 1, column by column; equal values have equal ones."""
    found = (values[None] < values[:, None]).sum(axis=1) + (values[None] <= values[:, None]).sum(axis=1)
    return np.asarray(found / (2 * len(values)), dtype=float)


def lowest_error(k: Known) -> Floats:
    """Today's rule."""
    return _candidates_of(k, error_of(k) + 1e-6 * k.last(k.task.val_loss))


def _candidates_of(k: Known, values: Floats) -> Floats:
    return of_candidates(k, values[k.candidates])


def at_the_end(k: Known, part: Part, mean: int) -> Floats:
    """(n,): a part's values, those of stopped trials moved by what it changed from there to the end in the whole runs.

    With fewer than two whole runs they are as measured.
    """
    values, whole = part(k, mean), k.epoch == EPOCHS
    if whole.sum() >= 2:
        for epoch in set(k.epoch[~whole].tolist()):
            early = part(replace(k, epoch=np.minimum(k.epoch, epoch)), mean)
            values[k.epoch == epoch] += (values[whole] - early[whole]).mean()
    return values


def observed(k: Known, parts: Sequence[Part], mean: int, used: Ints) -> Floats:
    """What a process is told of some of the trials: the parts in units of their spread, added."""
    found = np.zeros(len(used))
    for part in parts:
        values = at_the_end(k, part, mean)[used]
        found += (values - values.mean()) / (values.std() + 1e-9)
    return found


def process(
    k: Known,
    parts: Sequence[Part],
    mean: int = 1,
    stopped: bool = False,
    by_rank: bool = False,
    prior: Prior | None = None,
    least: int = 3,
) -> Posterior | None:
    """A Gaussian process over the candidates, or over all trials; None: there are too few.

    Args:
        k: the trials.
        parts: what is observed of each.
        mean: epochs at its end whose mean is taken.
        stopped: over all trials, as far as they came: the epochs that were left are one more column of x. Values are
            wanted at the end of all of them, otherwise of the candidates. Where whole runs are too few to say what
            changes by then (`at_the_end`), the mean has a linear trend in that column.
        by_rank: x as places in order.
        prior: of lengths and noise.
        least: trials that are needed.
    """
    used = np.arange(len(k.curve)) if stopped else k.candidates
    if len(used) < least:
        return None
    y = observed(k, parts, mean, used)
    x = k.task.x[k.curve[used]]
    x = ranks(x) if by_rank else x
    basis, at = None, x
    left = np.log(EPOCHS / k.epoch[used])
    if stopped and np.ptp(left) > 0:
        x, at = (np.column_stack([x, part / np.log(EPOCHS)]) for part in (left, 0 * left))
        if (k.epoch == EPOCHS).sum() < 2:
            basis = (np.column_stack([np.ones(len(used)), left]), np.tile([1.0, 0.0], (len(used), 1)))
    return posterior(x, y, at, prior=prior, basis=basis)


def by_process(*parts: Part, stopped: bool = False, anywhere: bool = False, **options: Any) -> Rule:
    """The lowest posterior mean; with too few trials the lowest value.

    Args:
        parts: what is observed.
        stopped: stopped trials are observations too.
        anywhere: they may be recommended too.
        options: of `process`.
    """

    def rule(k: Known) -> Floats:
        found = process(k, parts, stopped=stopped, **options)
        if found is None:
            return _candidates_of(k, observed(k, parts, 1, np.arange(len(k.curve))))
        if anywhere:
            return found.mean
        return _candidates_of(k, found.mean) if stopped else of_candidates(k, found.mean)

    return rule


def lowest(target: Part, mean: int = 1) -> Rule:
    """The candidate with the lowest value."""
    return lambda k: _candidates_of(k, target(k, mean))


def together(k: Known) -> Floats:
    """Log odds of the error plus log loss, over the last epochs: what studies go by (`error_and_loss`)."""
    return logit_of(k, LAST) + log_loss_of(k, LAST)


def from_half_on(k: Known) -> Floats:
    """The same of every trial that ran half of the budget; where none did, of those that came furthest."""
    far = 2 * k.epoch >= EPOCHS
    return np.where(far, together(k), np.inf) if far.any() else _candidates_of(k, together(k))


RULES: dict[str, Rule] = {
    "log odds + log loss, last 3": lambda k: _candidates_of(k, together(k)),
    "log odds + log loss, last 3, from half on": from_half_on,
    "lowest error, then loss (today's)": lowest_error,
    "lowest loss": lowest(log_loss_of),
    "error of the last 3 epochs": lowest(logit_of, LAST),
    "loss of the last 3 epochs": lowest(log_loss_of, LAST),
    "error and loss": lowest(both_of),
    "error and loss of the last 3 epochs": lowest(both_of, LAST),
    "process: error": by_process(logit_of),
    "process: loss": by_process(log_loss_of),
    "process: both": by_process(logit_of, log_loss_of),
    "process: both, by ranks": by_process(logit_of, log_loss_of, by_rank=True),
    "process: both, last 3 epochs": by_process(logit_of, log_loss_of, mean=LAST),
    "process: error, stopped trials too": by_process(logit_of, stopped=True),
    "process: loss, stopped trials too": by_process(log_loss_of, stopped=True),
    "process: both, stopped trials too": by_process(logit_of, log_loss_of, stopped=True),
    "process: error, any trial": by_process(logit_of, stopped=True, anywhere=True),
    "process: loss, any trial": by_process(log_loss_of, stopped=True, anywhere=True),
    "process: both, any trial": by_process(logit_of, log_loss_of, stopped=True, anywhere=True),
}


def recommended(rule: Rule, task: Task, seen: Seen) -> int | None:
    """The place of the recommended trial's curve; None where nothing has reported."""
    k = known(task, seen)
    return None if k is None else int(k.curve[int(rule(k).argmin())])


def regret(rule: Rule, task: Task, seen: Seen) -> float:
    """Points of held-out error by which the recommendation is worse than the best of all curves."""
    chosen = recommended(rule, task, seen)
    final = 100.0 if chosen is None else float(task.final[chosen])
    return final - float(task.final.min())


@dataclass(frozen=True)
class Expectation:
    """What is to be expected of a recommended configuration on other images, in percent of error.

    Attributes:
        measured: on the validation images.
        expected: drawn towards the mean of all candidates.
        low, high: ends of a 90 % interval.
    """

    measured: float
    expected: float
    low: float
    high: float


def expectation(k: Known, curve: int, correlation: float) -> Expectation:
    """Expected error of a recommended trial, as a study says it (`tune.findings.outlook.expected`).

    The interval is for the error on the images of the pool that do not validate.

    Args:
        k: the trials.
        curve: of the recommended one.
        correlation: of two trials' mistakes on the same images.
    """
    far = np.flatnonzero(2 * k.epoch >= EPOCHS)
    places = far if len(far) else k.candidates
    if curve not in k.curve[places]:
        places = np.append(places, np.flatnonzero(k.curve == curve))
    chosen = int(np.flatnonzero(k.curve[places] == curve)[0])
    errors = error_of(k)[places]
    low, expected, high = beliefs(list(errors), k.task.valid, correlation).interval(
        chosen, POOL - k.task.valid
    )
    return Expectation(float(errors[chosen]), expected, low, high)
