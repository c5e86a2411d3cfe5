"""What is to be expected of the recommended trial on other images, and how likely another one is better.

The lowest of many errors is partly luck. So each trial's error is drawn towards the mean of all candidates, by as much
as chance alone spreads them (Efron and Morris 1973, "Stein's estimation rule and its competitors"). On the log odds y
of the error on n validation images, with v_i = 1 / (n p_i (1 - p_i)):

    y_i = theta_i + s + e_i,   theta_i ~ N(mu, tau^2),   s ~ N(0, r v),   e_i ~ N(0, (1 - r) v_i)

theta_i is what the trial gives on other images. All trials have the same validation images: how hard these are, s, is
common to all, and no trial tells it. r is the share of the binomial variance that two trials have in common.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tune.findings.ranking import candidates, deviation_of, error_of
from tune.trials.record import TrialRecord

Floats = NDArray[np.float64]
SHARED = 0.8
"""r above. Of 0.3 to 0.9 it came nearest to 90 % on the recorded curves that choose; on those that report the interval
held in 86 to 98 % (docs/search-quality.md). It is more than the correlation of two trials' mistakes, 0.5: a trial that
error and loss recommend together is less lucky than one with the lowest error."""
NORMAL_90 = 1.6449
"""A normal distribution has 90 % of its mass within so many standard deviations of its mean."""
FEWEST = 3
"""Trials below which nothing is known of their spread: they are believed as measured."""
RIVALS = 100
"""Trials that the chance of a better one is computed over: of more, those with the lowest means."""
_ROUNDS = 3
_GRID = np.linspace(-6.0, 6.0, 121)


@dataclass(frozen=True)
class Beliefs:
    """What is believed of several trials, on the log odds of their error.

    Attributes:
        mean: (trials,), of theta.
        deviation: (trials,), of what is each trial's own.
        shared: standard deviation of what all have in common.
    """

    mean: Floats
    deviation: Floats
    shared: float

    def interval(self, place: int, others: float = math.inf) -> tuple[float, float, float]:
        """A trial's error in percent: the low end of the 90 % interval, its middle, the high end.

        Args:
            place: of the trial.
            others: on how many other images the error is to be measured; infinite: the error itself.
        """
        measuring = float(_variance(self.mean[place : place + 1], others)[0]) if others < math.inf else 0.0
        variance = float(self.deviation[place]) ** 2 + self.shared**2 + measuring
        reach = NORMAL_90 * math.sqrt(variance)
        low, middle, high = (percent(float(self.mean[place]) + s * reach) for s in (-1, 0, 1))
        return low, middle, high

    def chance_of_better(self, place: int) -> float | None:
        """How likely at least one of the other trials is better than this one; None: there is no other.

        The integral over this trial's value of the chance that none of the others is below it. Of very many the best
        RIVALS are looked at.
        """
        others = np.array([n for n in np.argsort(self.mean, kind="stable") if n != place][:RIVALS], dtype=int)
        if not len(others):
            return None
        value = self.mean[place] + self.deviation[place] * _GRID
        density = np.exp(-(_GRID**2) / 2)
        away = (self.mean[others][:, None] - value[None]) / self.deviation[others][:, None]
        none_below = np.prod([[0.5 * math.erfc(-a / math.sqrt(2)) for a in row] for row in away], axis=0)
        return float(1 - (density * none_below).sum() / density.sum())


def percent(odds: float) -> float:
    """The error in percent of these log odds."""
    return 100 / (1 + math.exp(-odds))


def log_odds(errors: Sequence[float], images: float) -> Floats:
    """Log odds of errors in percent on so many images; half an image is added to the wrong and to the right ones."""
    wrong = np.asarray(errors, dtype=float) * images / 100
    found: Floats = np.log((wrong + 0.5) / (images - wrong + 0.5))
    return found


def beliefs(errors: Sequence[float], images: float, correlation: float) -> Beliefs:
    """What errors on the same validation images say of each trial (above).

    Args:
        errors: in percent, of the trials that are compared; at least one.
        images: how many validation images there are.
        correlation: r above, from 0 to less than 1.
    """
    odds = log_odds(errors, images)
    theta, deviation, variance = odds, np.zeros(len(odds)), _variance(odds, images)
    for _ in range(_ROUNDS):  # the binomial variance is that of the error believed, not of the one measured
        theta, deviation = _drawn_together(odds, (1 - correlation) * variance)
        variance = _variance(theta, images)
    return Beliefs(theta, deviation, math.sqrt(correlation * float(variance.mean())))


def _variance(odds: Floats, images: float) -> Floats:
    """Of log odds that are measured on so many images."""
    share = 1 / (1 + np.exp(-odds))
    found: Floats = 1 / (images * share * (1 - share))
    return found


def _drawn_together(y: Floats, own: Floats) -> tuple[Floats, Floats]:
    """Means and standard deviations of theta, given y with the variances `own`.

    mu has a flat prior and is integrated out, tau a flat one on a grid (Gelman et al. 2013, "Bayesian Data Analysis",
    section 5.4): few trials do not tell how far apart they are, and a single estimate of tau, which is often 0, would
    make the interval too short.
    """
    if len(y) < FEWEST:
        return y, np.sqrt(own)
    tau2 = (np.linspace(0, 2, 41)[:, None] * max(float(y.std()), float(np.sqrt(own.mean())))) ** 2
    weight = 1 / (own + tau2)  # (grid, trials)
    total = weight.sum(axis=1, keepdims=True)
    mu = (weight * y).sum(axis=1, keepdims=True) / total
    log_likelihood = 0.5 * (
        np.log(weight).sum(axis=1) - np.log(total[:, 0]) - (weight * (y - mu) ** 2).sum(axis=1)
    )
    chances = np.exp(log_likelihood - log_likelihood.max())
    chances = (chances / chances.sum())[:, None]
    kept = tau2 * weight
    means = mu + kept * (y - mu)
    variances = kept * own + (1 - kept) ** 2 / total
    mean = (chances * means).sum(axis=0)
    spread = (chances * (variances + means**2)).sum(axis=0) - mean**2
    return mean, np.sqrt(np.maximum(spread, 1e-12))


@dataclass(frozen=True)
class Expectation:
    """What is to be expected of the recommended trial, in percent of error.

    Attributes:
        measured: on the validation images.
        expected: on other images.
        low, high: ends of a 90 % interval of that.
        another_better: how likely another candidate for the recommendation is better, 0 to 1; None: there is none.
        trials: how many candidates there are, this one too.
    """

    measured: float
    expected: float
    low: float
    high: float
    another_better: float | None
    trials: int

    @property
    def says(self) -> str:
        """As a sentence without its full stop."""
        found = f"expected on other images: {self.expected:.1f} % (90 %: {self.low:.1f} to {self.high:.1f})"
        if self.another_better is None:
            return found
        return (
            f"{found}; the chance that another of the {self.trials} candidates is better: "
            f"{100 * self.another_better:.0f} %"
        )

    def document(self) -> dict[str, Any]:
        """As ``ssl-tune status --json`` has it."""
        return asdict(self) | {"says": self.says}


def expectation(records: Sequence[TrialRecord], best: TrialRecord, valid: int) -> Expectation | None:
    """What is to be expected of a trial; None where it has no error yet.

    Args:
        records: the study's trials, in order of creation.
        best: the trial.
        valid: how many validation images there are.
    """
    measured = error_of(best)
    if measured is None or valid < 1:
        return None
    alike = [r for r in candidates(records) if error_of(r) is not None]
    if all(r.trial != best.trial for r in alike):
        alike.append(best)
    found = beliefs(
        [error for r in alike if (error := error_of(r)) is not None], _images(best, valid), SHARED
    )
    place = next(place for place, r in enumerate(alike) if r.trial == best.trial)
    low, middle, high = found.interval(place)
    return Expectation(measured, middle, low, high, found.chance_of_better(place), len(alike))


def _images(best: TrialRecord, valid: int) -> float:
    """How many validation images resolve as much as the trial's error is resolved: fewer, where classes count alike."""
    if best.objective != "val/error_balanced" or best.deviation is None:
        return valid
    share = min(max((error_of(best) or 0.0) / 100, 1 / valid), 1 - 1 / valid)
    return max(1.0, share * (1 - share) / (max(deviation_of(best, valid), 1e-6) / 100) ** 2)
