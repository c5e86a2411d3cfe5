"""What a sampler sees of a study: a study in memory that holds a part of its trials."""

from __future__ import annotations

import copy
import heapq
from collections.abc import Container, Mapping

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from tune.trials.asking.points import Points, Rank, rank_of


class View(optuna.Study):
    """A study in memory of which a sampler sees a part: running trials, the `newest` ended ones and the `best`.

    Which trials these are follows from the set of ended trials alone, whatever the order in which they ended: one that
    has fallen out of both never comes back, and its content is dropped.

    Args:
        distributions: what is searched, by name.
        best, newest: how many; None: all.
    """

    def __init__(
        self,
        distributions: Mapping[str, BaseDistribution],
        best: int | None = None,
        newest: int | None = None,
    ) -> None:
        storage = optuna.storages.InMemoryStorage()
        made = storage.create_new_study([optuna.study.StudyDirection.MINIMIZE])
        super().__init__(storage.get_study_name_from_id(made), storage)
        self.points = Points(distributions)
        self._most = None if best is None or newest is None else (best, newest)
        self._seen: dict[int, FrozenTrial] = {}  # by number, ascending
        self._newest: list[int] = []
        self._best: list[tuple[Rank, int]] = []  # ranks negated: the worst comes first
        self._times_kept: dict[int, int] = {}  # in how many of the two an ended trial is

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        """What Optuna's samplers read."""
        found = [trial for trial in self._seen.values() if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def identity(self, number: int) -> int:
        """The storage's id of a trial."""
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def overwrite(self, number: int, trial: FrozenTrial) -> None:
        """Put another trial in a number's place; no call of Optuna's does."""
        trial.number, trial._trial_id = number, self.identity(number)
        self._storage._set_trial(trial._trial_id, trial)  # type: ignore[attr-defined]

    def append(self, trial: FrozenTrial) -> None:
        """Put a trial after all others, not to be seen yet. It is kept itself: Optuna would copy all that is in it."""
        identity = self._storage.create_new_trial(self._study_id)
        self.overwrite(self._storage.get_trial_number_from_id(identity), trial)

    def hide(self, number: int) -> None:
        """Let samplers not see a trial."""
        self._seen.pop(number, None)
        self.points.remove(number)

    def show(self, number: int) -> None:
        """Let samplers see a trial as the storage has it now, as far as the bound allows."""
        trial = self._storage.get_trial(self.identity(number))
        if trial.state == TrialState.FAIL:
            self._drop(number)
            return
        self._seen[number] = trial
        self.points.put(trial)
        if trial.state.is_finished() and self._most is not None:
            self._bound(number, trial)

    def _bound(self, number: int, trial: FrozenTrial) -> None:
        assert self._most is not None
        best, newest = self._most
        heapq.heappush(self._newest, number)
        heapq.heappush(self._best, (tuple(-part for part in rank_of(trial)), -number))
        self._times_kept[number] = 2
        left = [heapq.heappop(self._newest)] if len(self._newest) > newest else []
        left += [-heapq.heappop(self._best)[1]] if len(self._best) > best else []
        for other in left:
            self._times_kept[other] -= 1
            if not self._times_kept[other]:
                del self._times_kept[other]
                self._drop(other)

    def _drop(self, number: int) -> None:
        """Let go of a trial that no sampler will see."""
        self.hide(number)
        self.overwrite(number, silent())


def silent() -> FrozenTrial:
    """What keeps a trial's number and says nothing."""
    return create_trial(state=TrialState.FAIL)
