"""A confirmation that looks after each seed: how strict each look has to be, so that all together err as one would.

Who tests at 5 % after each of many seeds finds a difference between equals far more often than in 5 % of the cases
(Armitage, McPherson and Rowe 1969). Here the looks and their greatest number are said before: after seed `first`, and
after each one until `most`. The nominal level at `n` seeds is `n / most` times that at the last look, which is chosen
so that the looks err in 5 % of the cases together. Of the boundaries tried (docs/results.md) it stops about as early
as equal levels at all looks (Pocock 1977), and finds more.

Under the null hypothesis the t statistics of the looks, on normal differences, depend neither on their mean nor on
their standard deviation, so one simulation does for all: `SEQUENCES` of standard normal differences. For each sequence
it keeps the lowest value of (p-value at n seeds) * most / n. A pair's p-value, multiplied likewise, has as its
corrected p-value the share of sequences that came as low: the p-value of a Monte Carlo test (Davison and Hinkley 1997,
section 4.2.1). It holds whenever one stops, so Holm's correction over the pairs can follow, and it does not matter
which pair decides about stopping.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from ssl_core.system.errors import ConfigError
from tune.confirmation.power import MOST_SEEDS
from tune.findings.comparisons import ENOUGH_SEEDS, LEVEL

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SEQUENCES, _CHUNK, _SEED = 100_000, 10_000, 20261128


@dataclass(frozen=True)
class Looks:
    """The looks of a confirmation: after `first` seeds, and after each further one until `most`."""

    first: int
    most: int

    def corrected(self, p: float, seeds: int) -> float:
        """The p-value of a pair, corrected for all looks.

        Args:
            p: of the paired t-test at this look.
            seeds: of the pair at this look. With fewer than `first`, since some trainings have no result, there is no
                look yet, and the p-value is 1.
        """
        if seeds < self.first:
            return 1.0
        lowest = _lowest(self.first, self.most)
        return float((1 + lowest.searchsorted(p * self.most / seeds, side="right")) / (1 + len(lowest)))

    def level(self, seeds: int) -> float:
        """The nominal level at a look: `corrected` is at most `LEVEL` for p-values up to it."""
        lowest = _lowest(self.first, self.most)
        last = float(lowest[int(LEVEL * (1 + len(lowest))) - 2])
        return min(1.0, last * seeds / self.most)


def looks_of(seeds: int, most: int | None) -> Looks | None:
    """The looks of a confirmation of `seeds` seeds that goes on to `most`; None: it does not go on.

    Raises:
        ConfigError: numbers between which no looks lie.
    """
    if most is None:
        return None
    if seeds < ENOUGH_SEEDS:
        raise ConfigError(
            f"seeds = {seeds}: the first look of a confirmation that goes on until it can tell needs {ENOUGH_SEEDS} "
            "seeds at least."
        )
    if not seeds < most <= MOST_SEEDS:
        raise ConfigError(
            f"until_told_apart = {most}: the most seeds of each configuration, more than the {seeds} of the first "
            f"look (--seeds) and at most {MOST_SEEDS}."
        )
    return Looks(seeds, most)


@lru_cache(maxsize=4)
def _lowest(first: int, most: int) -> NDArray[np.float64]:
    """Of each simulated sequence the lowest p-value of a look, times `most` over its seeds; in ascending order."""
    import numpy as np
    from scipy.stats import t

    random = np.random.default_rng(_SEED)
    count = np.arange(first, most + 1)
    found = []
    for _ in range(SEQUENCES // _CHUNK):
        drawn = random.standard_normal((_CHUNK, most))  # (sequences, seeds)
        sums, squares = drawn.cumsum(axis=1)[:, first - 1 :], (drawn**2).cumsum(axis=1)[:, first - 1 :]
        variance = (squares - sums**2 / count) / (count - 1)  # of the differences up to each look
        statistic = np.abs(sums) / np.sqrt(count * variance)
        found.append((2 * t.sf(statistic, count - 1) * most / count).min(axis=1))
    return np.sort(np.concatenate(found))
