"""What a handful of seeds can tell: spreads, intervals, and comparisons that claim no more than they carry.

Errors are percent of images misclassified, one value a seed; two configurations are compared on the same
seeds, so differences are paired. All functions are pure.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ENOUGH_SEEDS = 3
"""Below this many, a spread is printed and nothing is claimed."""
LEVEL = 0.05
"""Of the tests, all comparisons of a confirmation together; intervals hold 95 % each."""


@dataclass(frozen=True)
class Spread:
    """Values over seeds; ``std`` is the sample deviation, None for a single seed."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean (Student's t); None below `ENOUGH_SEEDS`."""
        n = len(self.values)
        if n < ENOUGH_SEEDS:
            return None
        from scipy.stats import t

        assert self.std is not None
        half = float(t.ppf(0.975, n - 1)) * self.std / math.sqrt(n)
        return self.mean - half, self.mean + half

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.std is None else f"{self.mean:.2f} ± {self.std:.2f}"


@dataclass(frozen=True)
class Comparison:
    """Two configurations on the same seeds.

    Attributes:
        one, other: their names.
        difference: of the errors, one minus other, seed by seed.
        p: of the paired t-test, two-sided; None below `ENOUGH_SEEDS`.
        adjusted: the same after Holm's correction for all comparisons made together.
    """

    one: str
    other: str
    difference: Spread
    p: float | None
    adjusted: float | None

    @property
    def told_apart(self) -> bool:
        """Whether they differ by more than chance explains, the number of comparisons allowed for."""
        return self.adjusted is not None and self.adjusted < LEVEL


def paired_p(differences: Sequence[float]) -> float | None:
    """The two-sided p-value of a paired t-test; None below `ENOUGH_SEEDS` values.

    Without any spread it is 0, or 1 where all differences are 0.
    """
    n = len(differences)
    if n < ENOUGH_SEEDS:
        return None
    mean, deviation = statistics.fmean(differences), statistics.stdev(differences)
    if deviation <= 1e-12 * abs(mean):
        return 0.0 if mean else 1.0
    from scipy.stats import t

    return 2 * float(t.sf(abs(mean) / (deviation / math.sqrt(n)), n - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted by Holm's step-down method, in the given order (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def compare_all(errors: Mapping[str, Mapping[int, float]]) -> list[Comparison]:
    """Every pair of configurations, paired over the seeds that both have, corrected for all pairs together.

    Args:
        errors: of each configuration, by seed.
    """
    names = list(errors)
    pairs = [(one, other) for place, one in enumerate(names) for other in names[place + 1 :]]
    differences = {
        (one, other): tuple(errors[one][s] - errors[other][s] for s in errors[one] if s in errors[other])
        for one, other in pairs
    }
    p_values = {pair: paired_p(values) for pair, values in differences.items()}
    known = [pair for pair, p in p_values.items() if p is not None]
    adjusted = dict(zip(known, holm([p_values[pair] or 0.0 for pair in known]), strict=True))
    return [
        Comparison(
            one, other, Spread(differences[one, other]), p_values[one, other], adjusted.get((one, other))
        )
        for one, other in pairs
        if differences[one, other]
    ]


def selection_luck(at_selection: float, fresh: Sequence[float]) -> float:
    """How much better a configuration scored when it was selected than it does on fresh training seeds.

    Both are errors on the same validation images. The best of many trials is the best of many draws as well;
    this is what its draw was worth, in points, positive where it flattered.
    """
    return statistics.fmean(fresh) - at_selection
