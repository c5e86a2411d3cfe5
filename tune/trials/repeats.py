"""No work twice: which configurations a study has trained already, and what other studies of the home know.

The same configuration on the same split, machine and versions gives the same bits. So a point that leads to one is not
trained again: the sampler is asked for another.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tune.trials.record import SAME_BITS, TAKEN_OVER, is_own

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from search_spaces import SearchSpace

MOST_REPEATS = 50
"""So many known configurations in a row, and the space is taken for exhausted."""
_MAY_RUN_AGAIN = ("error", "oom", "time")
"""Ends after which the same configuration is worth training: a cause outside of it, or a study's time that was up."""


@dataclass(frozen=True)
class Found:
    """A whole run of another study of the home, of just this configuration.

    Attributes:
        where: the study and its trial, such as ``pets/7``.
        last: what that study's recorder noted of its last epoch.
        value: the objective's.
        curve: the objective's values by epochs after the warm-up.
    """

    where: str
    last: Mapping[str, Any]
    value: float
    curve: Mapping[int, float]


Elsewhere = Callable[[Mapping[str, Any]], Found | None]
"""Looks for the values of searched parameters in other studies."""


def nowhere(_: Mapping[str, Any]) -> Found | None:
    """Of a study that looks at no other one."""
    return None


class Known:
    """The configurations of a study whose results are known or under way.

    Args:
        space: the study's.
        epochs: its full budget.
        is_used: of a study that trains the same again (`tune.definition.spec.StudySpec.no_work_twice`) nothing counts.
    """

    def __init__(self, space: SearchSpace, epochs: int, *, is_used: bool) -> None:
        self._is_used = is_used
        self._space, self._epochs = space, epochs
        self._names = {p.name for p in space.parameters}
        self._trials: dict[str, str] = {}
        self._warm: set[str] = set()

    def key(self, values: Mapping[str, Any]) -> str:
        """The same for all points that lead to one configuration, such as two shares of one warm-up."""
        return json.dumps(self._space.resolve(values, self._epochs), sort_keys=True, default=str)

    def find(self, values: Mapping[str, Any]) -> str | None:
        """The trial that has this configuration: its number, or where it was taken over from."""
        if not self._is_used:
            return None
        return self._trials.get(self.key(values))

    def add(self, trial: FrozenTrial) -> None:
        """Take in a trial as it stands; one that was taken over counts where it is of the same bits."""
        if is_own(trial, self._names):
            where = str(trial.number)
            if trial.user_attrs.get("stop_reason") in _MAY_RUN_AGAIN and trial.state.is_finished():
                self.forget(trial)
                return
        elif SAME_BITS in trial.user_attrs:
            where = trial.user_attrs[TAKEN_OVER]
        else:
            if TAKEN_OVER in trial.user_attrs:
                self._warm.add(self.key(trial.params))
            return
        self._trials.setdefault(self.key(trial.params), where)

    def is_warm(self, values: Mapping[str, Any]) -> bool:
        """Whether a trial of this configuration came with `--warm-start`."""
        return self.key(values) in self._warm

    def forget(self, trial: FrozenTrial) -> None:
        """The configuration of a trial may be trained again."""
        key = self.key(trial.params)
        if self._trials.get(key) == str(trial.number):
            del self._trials[key]
