"""A comparison deleted: each of its studies, and then what says that they belong together.

Whoever is killed meanwhile leaves a comparison some of whose studies are gone; to delete it again deletes the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from ssl_core.system.errors import ConfigError
from tune.comparison.record import Comparison, load_comparison
from tune.delivery.removal import delete_runs
from tune.errors import DamagedError
from tune.findings.study import Study
from tune.launch.keeping.deleting import Deleted, delete, existing_folder, remove_folder, size_of
from tune.store.home import Home
from tune.store.study_folder import StudyFolder


def delete_comparison(name: str, home: Home, *, tracking: bool = False) -> Deleted:
    """Delete a comparison and its studies for good. The record of test images that were read stays in the home.

    Args:
        name: the comparison.
        home: the home.
        tracking: delete its runs in MLflow as well, and those of its studies.

    Raises:
        ConfigError: no such comparison.
        DamagedError: its file is damaged: nobody knows which studies belong to it.
        ServiceError: a driver runs it or one of its studies (nothing was deleted then), or MLflow or the trials'
            storage does not answer.
    """
    comparison = load_comparison(name, home)
    comparison.folder.lock()
    try:
        names = _studies_at_rest(comparison)
        size = size_of(comparison.folder.path)
        runs = _own_run_deleted(comparison, names) if tracking else None  # the studies say where MLflow is
        for study in names:
            gone = delete(study, home, tracking=tracking)
            size += gone.size
            runs = runs + (gone.runs or 0) if runs is not None else None
        remove_folder(comparison.folder.path, home)
    finally:
        comparison.folder.unlock()
    return Deleted(name, size, runs, tuple(names))


def _own_run_deleted(comparison: Comparison, studies: Sequence[str]) -> int:
    """Delete the comparison's own run in MLflow, where its studies are tracked now: the home may be a copy."""
    uri = None
    with suppress(IndexError, DamagedError):
        uri = Study(comparison.home.existing_study_folder(studies[0])).spec.tracking_uri
    return delete_runs(comparison.folder.path, uri)


def _studies_at_rest(comparison: Comparison) -> list[str]:
    """The studies of a comparison that are there, damaged or not.

    Raises:
        ServiceError: one of them is driven, on its own.
    """
    found = []
    for member in comparison.record.members:
        try:
            folder = StudyFolder(existing_folder(member.study, comparison.home))
        except ConfigError:  # deleted before
            continue
        folder.lock()
        folder.unlock()
        found.append(member.study)
    return found
