"""How many seeds would tell two configurations apart: the power of the paired t-test at the spread that was seen.

The test is the one of the verdict: two-sided, on the differences of the test errors seed by seed. With `n` seeds, a
true difference `d` and a standard deviation `s` of the differences its statistic has a noncentral t distribution with
`n - 1` degrees of freedom and noncentrality `sqrt(n) * d / s` (Cohen 1988, chapter 2). SciPy is imported at first use.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tune.definition.objective import FIELDS, told
from tune.findings.comparisons import ENOUGH_SEEDS, LEVEL

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

POWER = 0.8
"""The chance of telling a difference of the given size that is asked for (Cohen 1988, section 2.4)."""
MOST_SEEDS = 100
"""No more seeds of a configuration are proposed, or trained by a confirmation that goes on until it can tell."""


def power_of(effect: float, seeds: int, level: float = LEVEL) -> float:
    """The chance that a two-sided paired t-test finds a difference.

    Args:
        effect: the true difference over the standard deviation of the differences; its sign does not matter.
        seeds: how many, two at least.
        level: of the test.
    """
    from scipy.special import ndtr
    from scipy.stats import chi2, t

    limit, shift = float(t.isf(level / 2, seeds - 1)), math.sqrt(seeds) * abs(effect)
    # The chance given the standard deviation that is measured, over the distribution of that. SciPy's noncentral t
    # distribution is NaN for some of the few degrees of freedom and large shifts that occur here.
    shares, weights = _quadrature()
    limits = limit * (chi2.ppf(shares, seeds - 1) / (seeds - 1)) ** 0.5
    return float(((ndtr(shift - limits) + ndtr(-shift - limits)) * weights).sum())


@lru_cache(maxsize=1)
def _quadrature() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points and weights of Gauss and Legendre on the interval from 0 to 1."""
    import numpy as np

    points, weights = np.polynomial.legendre.leggauss(400)
    return (points + 1) / 2, weights / 2


def seeds_needed(effect: float, level: float = LEVEL, power: float = POWER) -> int | None:
    """The fewest seeds, `ENOUGH_SEEDS` at least, with this power; None where `MOST_SEEDS` have less.

    Args:
        effect: as of `power_of`.
        level: of the test.
        power: that is asked for.
    """
    if power_of(effect, MOST_SEEDS, level) < power:
        return None
    low, high = ENOUGH_SEEDS, MOST_SEEDS  # the power grows with the seeds
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(effect, middle, level) >= power else (middle + 1, high)
    return low


def resolved(seeds: int, level: float = LEVEL, power: float = POWER) -> float:
    """The smallest difference that so many seeds tell with this power, in standard deviations of the differences."""
    low, high = 0.0, 1.0
    while power_of(high, seeds, level) < power:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if power_of(middle, seeds, level) >= power else (middle, high)
    return high


def plan_of(
    rows: Sequence[Mapping[str, Any]],
    comparisons: Sequence[Mapping[str, Any]],
    winner: str | None,
    objective: str,
    baseline: str | None,
) -> list[dict[str, Any]]:
    """What it would take to tell the winner from the second, and from the baseline, where they cannot be told yet.

    The level is that of a comparison which comes first after Holm's correction for all that were made: the strictest.

    Args:
        rows: of a confirmation, the baseline's among them.
        comparisons: as `tune.confirmation.document.comparison_document` gives them.
        winner: the configuration with the lowest objective on the fresh seeds.
        objective: what the configurations are ranked by.
        baseline: its name; None: there is none.

    Returns:
        For each such pair: one (the winner), other, n, difference (of one less other) and std in points of test error,
        level, power, most, seeds (None: more than `most`), and resolves, the difference that `n` seeds tell.
    """
    others = [second_of(rows, winner, objective, baseline), baseline]
    level = LEVEL / max(1, len(comparisons))
    found = (_needs(winner, other, comparisons, level) for other in others if winner and other)
    return [needs for needs in found if needs is not None]


def second_of(
    rows: Sequence[Mapping[str, Any]], winner: str | None, objective: str, baseline: str | None
) -> str | None:
    """Of the configurations the one that is next to the winner by the objective on the fresh seeds.

    Args:
        rows, winner, objective, baseline: as of `plan_of`.
    """
    field = FIELDS[told(objective)]
    left = [row for row in rows if row["who"] not in (winner, baseline) and row[field]]
    second = min(left, key=lambda row: statistics.fmean(row[field]), default=None)
    return None if second is None else str(second["who"])


def _needs(
    one: str | None, other: str, comparisons: Sequence[Mapping[str, Any]], level: float
) -> dict[str, Any] | None:
    """What it takes to tell a pair apart; None where they are told apart, or too few seeds say how much they spread."""
    pair = next((c for c in comparisons if {c["one"], c["other"]} == {one, other}), None)
    if pair is None or pair["told_apart"] or pair["n"] < ENOUGH_SEEDS:
        return None
    sign = 1.0 if pair["one"] == one else -1.0
    std = float(pair["std"])
    return {
        "one": one,
        "other": other,
        "n": pair["n"],
        "difference": sign * pair["difference"],
        "std": std,
        "level": level,
        "power": POWER,
        "most": MOST_SEEDS,
        "seeds": seeds_needed(pair["difference"] / std, level) if std else None,
        "resolves": std * resolved(pair["n"], level),
    }
