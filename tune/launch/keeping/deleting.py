"""A study deleted: its runs in MLflow where that is asked for, its trials in another database, its folder.

The folder is renamed first and then removed. Whoever is killed before that leaves the study as it was (less what MLflow
has marked as deleted; a study that goes on brings it back). Whoever is killed after leaves a folder that is no study;
the next `delete` or `clean` removes it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ssl_core.system.errors import ConfigError
from ssl_core.system.faults import fault
from tune.delivery.removal import delete_runs
from tune.errors import DamagedError
from tune.store.home import Home
from tune.store.layout import prefix_of
from tune.store.specification import read_spec
from tune.store.study_folder import StudyFolder
from tune.trials.removal import delete_stored

DELETED = ".deleted-"
"""How the names of folders begin that a deletion has left behind."""


@dataclass(frozen=True)
class Deleted:
    """What was deleted.

    Attributes:
        study: its name; that of a comparison, which goes with its studies.
        size: bytes of its folder; of a comparison with those of its studies.
        runs: how many runs were deleted in MLflow; None where that was not asked for.
        studies: of a comparison, the studies that went with it.
    """

    study: str
    size: int
    runs: int | None
    studies: tuple[str, ...] = ()


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder, as far as they can be seen."""
    total = 0
    for place, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += (Path(place) / name).lstat().st_size
    return total


def delete(name: str, home: Home, *, tracking: bool = False) -> Deleted:
    """Delete a study for good. The record of test images that were read, and of those held out, stays in the home.

    Args:
        name: the study; also one whose files are damaged.
        home: the home.
        tracking: delete its runs in MLflow as well.

    Raises:
        ConfigError: no such study.
        ServiceError: a driver runs it, its folder cannot be written, or MLflow or the trials' storage does not answer.
    """
    folder = StudyFolder(existing_folder(name, home))
    folder.lock()
    size = size_of(folder.path)
    try:
        runs = _runs_deleted(folder) if tracking else None
        with contextlib.suppress(DamagedError):  # nobody knows where its trials are, if not here
            delete_stored(folder, read_spec(folder.path))
        if folder.remote is not None:
            folder.remote.store.remove_all(f"{prefix_of(name)}/state")  # it is no study from here on
            folder.remove()
        else:
            remove_folder(folder.path, home)
    finally:
        folder.unlock()
    for left in home.studies.glob(f"{DELETED}*"):
        shutil.rmtree(left, ignore_errors=True)
    return Deleted(name, size, runs)


def _runs_deleted(folder: StudyFolder) -> int:
    """Delete a study's runs in MLflow, where it is tracked now: a copied home must not reach for the other's."""
    try:
        uri = read_spec(folder.path).tracking_uri
    except DamagedError:
        uri = None
    return delete_runs(folder.path, uri)


def existing_folder(name: str, home: Home) -> Path:
    """The folder of a study, damaged or not.

    Raises:
        ConfigError: no such study.
    """
    try:
        return home.existing_study_folder(name)
    except DamagedError:
        return home.study_folder(name)
    except ConfigError:
        folder = home.study_folder(name)
        if home.url is None and folder.is_dir():  # half-made: its driver was killed before anything was run
            return folder
        raise


def remove_folder(path: Path, home: Home) -> None:
    """Remove a folder of a home at one moment; where it is killed after that, `clean` removes what is left."""
    fault("delete:before")
    home.studies.mkdir(exist_ok=True)
    aside = home.studies / f"{DELETED}{path.name}-{os.getpid()}"
    path.rename(aside)
    fault("delete:renamed")
    shutil.rmtree(aside, ignore_errors=True)
