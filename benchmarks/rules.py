"""Rules that recommend one of a search's trials: every one that was tried.

A rule reads what a search had seen (`benchmarks.courses.Seen`) and returns the place of a trial's curve. Two trials
that the nearest curve answers alike count once, as far as the longer of them came. Trials that ran to the end are
candidates; where there is none, those that came furthest after their warm-up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.courses import Seen, Task
from benchmarks.curve_sets import EPOCHS
from benchmarks.process import Posterior, Prior, posterior

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


Rule = Callable[[Known], Floats]
"""What is lowest for the recommended one, of the candidates."""


def error_of(k: Known, mean: int = 1) -> Floats:
    """Validation error in percent."""
    return k.last(k.task.val_error, mean)


def logit_of(k: Known, mean: int = 1) -> Floats:
    """Log odds of the validation error, half an image added to either side."""
    n = k.task.valid
    wrong = error_of(k, mean) * n / 100
    return np.log((wrong + 0.5) / (n - wrong + 0.5))


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
    return (error_of(k) + 1e-6 * k.last(k.task.val_loss))[k.candidates]


def process(
    k: Known,
    target: Callable[[Known, int], Floats],
    mean: int = 1,
    stopped: bool = False,
    by_rank: bool = False,
    prior: Prior | None = None,
    least: int = 3,
) -> Posterior | None:
    """A Gaussian process over the candidates, with `stopped` over all trials, at the candidates; None: too few."""
    used = np.arange(len(k.curve)) if stopped else k.candidates
    if len(used) < least:
        return None
    y = target(k, mean)[used]
    x = k.task.x[k.curve[used]]
    x = ranks(x) if by_rank else x
    at = np.searchsorted(used, k.candidates) if not stopped else k.candidates
    basis = None
    if stopped:
        left = np.log(EPOCHS / k.epoch[used])
        if np.ptp(left) > 0:
            x = np.column_stack([x, left / np.log(EPOCHS)])
            h = np.column_stack([np.ones(len(used)), left])
            basis = (h, h[at])
    spread = y.std() + 1e-9
    return posterior(x, (y - y.mean()) / spread, x[at], prior=prior, basis=basis)


def by_process(target: Callable[[Known, int], Floats], **options: object) -> Rule:
    """The lowest posterior mean; with too few candidates the lowest value."""

    def rule(k: Known) -> Floats:
        found = process(k, target, **options)  # type: ignore[arg-type]
        return target(k, 1)[k.candidates] if found is None else found.mean

    return rule


RULES: dict[str, Rule] = {
    "lowest error, then loss (today's)": lowest_error,
    "lowest loss": lambda k: log_loss_of(k)[k.candidates],
    "error of the last 3 epochs": lambda k: (error_of(k, LAST) + 1e-6 * k.last(k.task.val_loss))[
        k.candidates
    ],
    "loss of the last 3 epochs": lambda k: log_loss_of(k, LAST)[k.candidates],
    "error and loss": lambda k: both_of(k)[k.candidates],
    "error and loss, last 3 epochs": lambda k: both_of(k, LAST)[k.candidates],
    "process: error": by_process(logit_of),
    "process: loss": by_process(log_loss_of),
    "process: both": by_process(both_of),
    "process: both, last 3": by_process(both_of, mean=LAST),
    "process: both, by ranks": by_process(both_of, by_rank=True),
    "process: loss, last 3": by_process(log_loss_of, mean=LAST),
    "process: error, stopped too": by_process(logit_of, stopped=True),
    "process: loss, stopped too": by_process(log_loss_of, stopped=True),
    "process: both, stopped too": by_process(both_of, stopped=True),
    "process: both, stopped, last 3": by_process(both_of, stopped=True, mean=LAST),
}


def recommended(rule: Rule, task: Task, seen: Seen) -> int | None:
    """The place of the recommended trial's curve; None where nothing has reported."""
    k = known(task, seen)
    return None if k is None else int(k.curve[k.candidates[int(rule(k).argmin())]])


def regret(rule: Rule, task: Task, seen: Seen) -> float:
    """Points of held-out error by which the recommendation is worse than the best of all curves."""
    chosen = recommended(rule, task, seen)
    final = 100.0 if chosen is None else float(task.final[chosen])
    return final - float(task.final.min())
