"""Statistics over a few training seeds: spreads, confidence intervals and paired comparisons.

Errors are percent of images misclassified, one value per seed. Two configurations are compared on the same
seeds, so the differences are paired. All functions are pure. SciPy computes the intervals and the tests; it is
imported at first use, because loading it takes a large part of a second.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

ENOUGH_SEEDS = 3
"""With fewer seeds a spread is printed, but there is no interval and no test."""
LEVEL = 0.05
"""Family-wise level of all comparisons of a confirmation. Each interval on its own has 95 % coverage."""


@dataclass(frozen=True)
class Spread:
    """Values over seeds; ``std`` is the sample deviation, None for a single seed."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean of the values."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        """The sample standard deviation; None for a single value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval of the mean (Student's t); None below `ENOUGH_SEEDS`.

        For differences that are paired over seeds, this is the interval of the paired t-test.
        """
        return self.interval_at(LEVEL)

    def interval_at(self, level: float) -> tuple[float, float] | None:
        """The confidence interval of the mean that a test at another level goes with; None below `ENOUGH_SEEDS`."""
        if len(self.values) < ENOUGH_SEEDS:
            return None
        return _t_test(self.values, level)[1]

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.std is None else f"{self.mean:.2f} ± {self.std:.2f}"


@dataclass(frozen=True)
class Comparison:
    """Two configurations, compared on the same seeds.

    Attributes:
        one, other: their names.
        difference: error of `one` minus error of `other`, seed by seed.
        p: two-sided p-value of the paired t-test; None below `ENOUGH_SEEDS`.
        adjusted: `p` after the correction for several looks, where there are some, and after Holm's for all comparisons
            that were made together.
    """

    one: str
    other: str
    difference: Spread
    p: float | None
    adjusted: float | None

    @property
    def told_apart(self) -> bool:
        """Whether the difference is significant after Holm's correction."""
        return self.adjusted is not None and self.adjusted < LEVEL


def _t_test(differences: Sequence[float], level: float = LEVEL) -> tuple[float, tuple[float, float]]:
    """P-value and confidence interval of the mean of paired differences.

    SciPy's `ttest_rel(a, b)` is `ttest_1samp(a - b, 0)`; only the differences are known here.
    """
    from scipy.stats import ttest_1samp

    with warnings.catch_warnings():
        # Identical differences make SciPy warn of lost precision; their interval has no width, as it should.
        warnings.simplefilter("ignore", RuntimeWarning)
        found = ttest_1samp(differences, 0.0)
        low, high = found.confidence_interval(1 - level)
    return float(found.pvalue), (float(low), float(high))


def paired_p(differences: Sequence[float]) -> float | None:
    """The two-sided p-value of a paired t-test; None below `ENOUGH_SEEDS` values.

    The t-test is not defined for identical differences. Here the p-value is then 0, or 1 where all are 0.
    """
    if len(differences) < ENOUGH_SEEDS:
        return None
    mean = statistics.fmean(differences)
    if statistics.stdev(differences) <= 1e-12 * abs(mean):
        return 0.0 if mean else 1.0
    return _t_test(differences)[0]


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted by Holm's step-down method, in the given order (Holm 1979).

    SciPy corrects for the false discovery rate only; the family-wise correction is written out here.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def compare_all(
    errors: Mapping[str, Mapping[int, float]], corrected: Callable[[float, int], float] | None = None
) -> list[Comparison]:
    """Compare every pair of configurations on the seeds that both have, with Holm's correction over all pairs.

    Args:
        errors: of each configuration its errors in percent, by seed.
        corrected: the p-value of a pair, of the t-test's and the number of its seeds, where the seeds are looked at
            several times; None: once.

    Returns:
        One comparison for each pair that shares a seed, in the order of `errors`.
    """
    names = list(errors)
    pairs = [(one, other) for place, one in enumerate(names) for other in names[place + 1 :]]
    differences = {
        (one, other): tuple(errors[one][s] - errors[other][s] for s in errors[one] if s in errors[other])
        for one, other in pairs
    }
    p_values = {pair: paired_p(values) for pair, values in differences.items()}
    known = {pair: p for pair, p in p_values.items() if p is not None}
    if corrected is not None:
        known = {pair: corrected(p, len(differences[pair])) for pair, p in known.items()}
    adjusted = dict(zip(known, holm(list(known.values())), strict=True))
    return [
        Comparison(
            one, other, Spread(differences[one, other]), p_values[one, other], adjusted.get((one, other))
        )
        for one, other in pairs
        if differences[one, other]
    ]


def selection_luck(at_selection: float, fresh: Sequence[float]) -> float:
    """Selection bias in points: mean error on fresh training seeds minus the error at selection.

    Both errors are measured on the same validation images. The best of many trials was selected partly by
    chance, so its error at selection is too low on average; a positive value is the size of that effect.
    """
    return statistics.fmean(fresh) - at_selection
