"""The trials of a study, for reading alone."""

from __future__ import annotations

from optuna.trial import FrozenTrial, TrialState

from tune.definition.spec import StudySpec
from tune.store.home import sqlite_url
from tune.store.study_folder import StudyFolder, read_spec
from tune.trials.optuna_storage import answering, open_storage, studies_in
from tune.trials.record import TrialRecord, _record, is_taken_over


def read_records(folder: StudyFolder) -> list[TrialRecord]:
    """The trials of a study, for reading alone; none where it has not begun.

    Raises:
        ServiceError: a storage that does not answer, or a file that is damaged.
    """
    spec = read_spec(folder.path)
    return _records(stored_trials(folder, spec), spec)


def ended_trials(folder: StudyFolder) -> list[FrozenTrial]:
    """The trials of a study that taught something, its own and those it took over, for another to take over."""
    kept = (TrialState.COMPLETE, TrialState.PRUNED)
    return [t for t in stored_trials(folder, read_spec(folder.path)) if t.state in kept]


def stored_trials(folder: StudyFolder, spec: StudySpec) -> list[FrozenTrial]:
    """Every trial in a study's storage; none where it has not begun."""
    if spec.storage is None and not folder.optuna_db.exists():
        return []
    storage = open_storage(folder, spec.storage)
    try:
        with answering(spec.storage or sqlite_url(folder.optuna_db)):
            if spec.name not in studies_in(storage):  # killed between making the database and the study in it
                return []
            return storage.get_all_trials(storage.get_study_id_from_name(spec.name), deepcopy=False)
    finally:
        storage.engine.dispose()


def _records(trials: list[FrozenTrial], spec: StudySpec) -> list[TrialRecord]:
    space, epochs = spec.search_space(), spec.config["epochs"]
    return [_record(t, space, epochs, spec.objective) for t in trials if not is_taken_over(t)]
