"""The trials of a study that goes on, read again and again: those that have ended are read once."""

from __future__ import annotations

from optuna.storages import BaseStorage, RDBStorage, get_storage
from optuna.trial import FrozenTrial

from tune.definition.spec import StudySpec
from tune.store.study_folder import StudyFolder
from tune.trials.optuna_storage import answering, open_to_read, studies_in
from tune.trials.reading import read_whole
from tune.trials.record import TrialRecord, _record, is_own


class Following:
    """The trials of a study as they stand at each call of `records`.

    Args:
        folder: the study's folder.
        spec: the study.
    """

    def __init__(self, folder: StudyFolder, spec: StudySpec) -> None:
        self._folder, self._spec = folder, spec
        self._space, self._epochs = spec.search_space(), spec.config["epochs"]
        self._names = {p.name for p in self._space.parameters}
        self._backend: RDBStorage | None = None
        self._storage: BaseStorage | None = None
        self._study: int | None = None
        self._ended: dict[int, TrialRecord] = {}

    def records(self) -> list[TrialRecord]:
        """The trials in order of creation; none where the study has not begun.

        Raises:
            ServiceError: a storage that does not answer, or a file that is damaged.
        """
        with answering(self._folder, self._spec.storage), read_whole(self._folder, self._spec):
            if not self._opened():
                return []
            assert self._backend is not None and self._storage is not None and self._study is not None
            try:
                trials = self._storage.get_all_trials(self._study, deepcopy=False)
            finally:
                self._backend.engine.dispose()  # the next look sees the file as it is then
            return [self._recorded(trial) for trial in trials if is_own(trial, self._names)]

    def _opened(self) -> bool:
        """Whether there is a storage with the study in it."""
        if self._study is not None:
            return True
        backend = open_to_read(self._folder, self._spec.storage)
        if backend is None:
            return False
        if self._spec.name not in studies_in(backend):
            backend.engine.dispose()
            return False
        self._backend, self._storage = backend, get_storage(backend)
        self._study = backend.get_study_id_from_name(self._spec.name)
        return True

    def _recorded(self, trial: FrozenTrial) -> TrialRecord:
        if (known := self._ended.get(trial.number)) is not None:
            return known
        record = _record(trial, self._space, self._epochs, self._spec.objective)
        if trial.state.is_finished():
            self._ended[trial.number] = record
        return record
