"""The trials that a sampler sees, as its arithmetic takes them: parameters as numbers, and the ended ones ranked."""

from __future__ import annotations

import bisect
import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

Rank = tuple[float, ...]


def rank_of(trial: FrozenTrial) -> Rank:
    """How good TPE takes an ended trial for, the best first (Optuna's `_split_trials`).

    Complete ones by value, then those that were stopped by how far they came and by value, then infeasible ones.
    """
    if any(violation > 0 for violation in trial.constraints.values()):
        return 2, 0.0, 0.0
    if trial.state == TrialState.COMPLETE:
        return 0, 0.0, float(trial.value)  # type: ignore[arg-type]
    if not trial.intermediate_values:
        return 1, 1.0, 0.0
    step, value = max(trial.intermediate_values.items())
    return 1, -float(step), math.inf if math.isnan(value) else value


class Points:
    """Rows in order of trials' numbers. Putting and removing one costs a shift of memory, and reading costs nothing.

    Args:
        distributions: what is searched, by name.
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution]) -> None:
        self.distributions = dict(distributions)
        self._columns = {name: place for place, name in enumerate(self.distributions)}
        self._numbers = np.empty(0, dtype=np.int64)
        self._values = np.empty((0, len(self._columns)))
        self._rows = 0
        self._order: list[tuple[Rank, int]] = []
        self._ranks: dict[int, Rank] = {}

    @property
    def ended(self) -> int:
        """How many of the trials have ended."""
        return len(self._order)

    def put(self, trial: FrozenTrial) -> None:
        """Take in a trial, or take it anew as it stands now."""
        number, row = trial.number, self._place(trial.number)
        if not self._has(number, row):
            self._shift(row, +1)
            self._numbers[row] = number
        for name, column in self._columns.items():
            self._values[row, column] = self.distributions[name].to_internal_repr(trial.params[name])
        self._unrank(number)
        if trial.state.is_finished():
            self._ranks[number] = rank = rank_of(trial)
            bisect.insort(self._order, (rank, number))

    def remove(self, number: int) -> None:
        """Let go of a trial, if it is here."""
        self._unrank(number)
        if self._has(number, row := self._place(number)):
            self._shift(row, -1)

    def split(self, count: int, names: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The parameters of the best ended trials, and those of all others, in order of numbers.

        Args:
            count: how many are to be the best.
            names: parameters; of each an array (trials,) of float64, in Optuna's internal representation.
        """
        best = np.zeros(self._rows, dtype=bool)
        chosen = sorted(number for _, number in self._order[:count])
        best[np.searchsorted(self._numbers[: self._rows], chosen)] = True
        values = self._values[: self._rows]
        below, above = values[best], values[~best]
        columns = {name: self._columns[name] for name in names}
        return (
            {name: below[:, place] for name, place in columns.items()},
            {name: above[:, place] for name, place in columns.items()},
        )

    def _place(self, number: int) -> int:
        return int(np.searchsorted(self._numbers[: self._rows], number))

    def _has(self, number: int, row: int) -> bool:
        return row < self._rows and self._numbers[row] == number

    def _unrank(self, number: int) -> None:
        if (rank := self._ranks.pop(number, None)) is not None:
            del self._order[bisect.bisect_left(self._order, (rank, number))]

    def _shift(self, row: int, by: int) -> None:
        """Make room for a row, or close the gap that one leaves."""
        first = row if by > 0 else row + 1
        if self._rows + by > len(self._numbers):
            room = max(64, self._rows)
            self._numbers = np.concatenate([self._numbers, np.zeros(room, dtype=np.int64)])
            self._values = np.concatenate([self._values, np.zeros((room, self._values.shape[1]))])
        last = self._rows
        self._numbers[first + by : last + by] = self._numbers[first:last].copy()
        self._values[first + by : last + by] = self._values[first:last].copy()
        self._rows += by
