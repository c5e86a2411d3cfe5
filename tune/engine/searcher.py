"""Ray Tune's searcher over Optuna's ask and tell.

Trials that wait in the study (they were under way when an earlier driver ended) are handed out before any new one is
asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial
from ray.tune.search import Searcher

from ssl_core.system.errors import counted
from tune.findings.outlook.rule import is_settled
from tune.store.home import Home
from tune.store.study_folder import StudyFolder
from tune.trials.record import INSTEAD_OF
from tune.trials.study_trials import StudyTrials
from tune.worker.task import trial_task


class StudySearcher(Searcher):
    """Hands out the study's trials.

    Args:
        records: the study's trials.
        folder: the study's folder.
        home: where decoded images lie.
        returned: numbers of trials that are to be handed out once more; `tune.engine.recorder` adds to them.
        say: told which configurations were not trained again.
        writing: wraps each write: one that fails ends the sitting (`tune.engine.recorder.Recorder.writing`).
        identity: versions that a worker must have, where it may be on another machine.
        room: how many trials may run side by side at the moment; None: Ray is told once and for all.
    """

    def __init__(
        self,
        records: StudyTrials,
        folder: StudyFolder,
        home: Home,
        *,
        returned: deque[int] | None = None,
        writing: Callable[[], AbstractContextManager[None]] = nullcontext,
        say: Callable[[str], None] = lambda message: None,
        identity: Mapping[str, str] | None = None,
        room: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(metric=records.spec.objective, mode="min")
        self._records, self._folder, self._home, self._writing = records, folder, home, writing
        self._identity, self._room, self._say = identity, room, say
        self._running: set[str] = set()
        self._waiting = deque(records.unfinished())
        self._returned: deque[int] = deque() if returned is None else returned

    def suggest(self, trial_id: str) -> Any:
        """The configuration of the next trial; None: not now; FINISHED where the study has all of its trials."""
        if self._room is not None and len(self._running) >= self._room():
            return None
        trial = self._next()
        if trial is None:
            return None if self._running else Searcher.FINISHED  # one that runs may come back
        self._running.add(trial_id)
        task = trial_task(self._records.spec, trial, self._folder, self._home, self._identity)
        return task.as_config()

    def _next(self) -> FrozenTrial | None:
        if self._returned:
            return self._records.trial(self._returned.popleft())
        return self._waiting.popleft() if self._waiting else self._new()

    def _new(self) -> FrozenTrial | None:
        spec = self._records.spec
        has_room = self._records.asked() < spec.trials and not self._records.exhausted
        if has_room and not is_settled(self._records.all(), spec):
            with self._writing():
                trial = self._records.ask()
                self._folder.commit()
                if trial is not None and (known := trial.user_attrs.get(INSTEAD_OF)):
                    self._say(_not_again(trial.number, known))
                return trial
        return None

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """One place is free. `tune.engine.recorder` tells Optuna: it knows more of the end than Ray says here."""
        self._running.discard(trial_id)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray snapshots its experiment; this one is never restored

    def save(self, checkpoint_path: str) -> None:
        """Nothing but the file Ray expects: the study's storage is the searcher's state."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


def _not_again(number: int, known: Sequence[str]) -> str:
    """That configurations were asked for which are known already."""
    where = ", ".join(f"{'' if '/' in trial else 'trial '}{trial}" for trial in dict.fromkeys(known))
    return (
        f"{counted(len(known), 'configuration')} known already (of {where}) and not trained again: trial {number} has "
        "another"
    )
