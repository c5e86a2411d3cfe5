"""A study's trials deleted in the database of ``--storage``; those in the study's own folder go with it."""

from __future__ import annotations

from tune.definition.spec import StudySpec
from tune.store.study_folder import StudyFolder
from tune.trials.optuna_storage import answering, open_storage, studies_in


def delete_stored(folder: StudyFolder, spec: StudySpec) -> bool:
    """Delete a study's trials in the database of ``--storage``; whether there were any.

    Raises:
        ServiceError: the database does not answer.
    """
    if spec.storage is None:
        return False
    storage = open_storage(folder, spec.storage)
    try:
        with answering(folder, spec.storage):
            there = spec.name in studies_in(storage)
            if there:
                storage.delete_study(storage.get_study_id_from_name(spec.name))
            return there
    finally:
        storage.engine.dispose()
