"""Studies deleted, packed into a file and unpacked elsewhere; and what can go of a home."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tune.comparison.record import is_comparison
from tune.definition.inputs import parse_duration
from tune.store.home import Home

if TYPE_CHECKING:
    from tune.launch.keeping.cleaning import Found
    from tune.launch.keeping.deleting import Deleted
    from tune.launch.keeping.packing import Packed
    from tune.launch.keeping.unpacking import Unpacked

Place = Path | str | None


def delete(name: str, *, tracking: bool = False, home: Place = None) -> Deleted:
    """Delete a study, or a comparison with its studies, for good; nobody is asked.

    The record of test images that were read stays in the home.

    Args:
        name: the study, also one whose files are damaged; or the comparison.
        tracking: delete its runs in MLflow, too.
        home: the home folder.

    Raises:
        ConfigError: no such study.
        DamagedError: the comparison's file is damaged.
        ServiceError: a driver runs it, its folder cannot be written, or MLflow or a database does not answer.
    """
    from tune.comparison.deleting import delete_comparison  # loads Optuna
    from tune.launch.keeping.deleting import delete as delete_study

    place = Home(home)
    remove = delete_comparison if is_comparison(name, place) else delete_study
    return remove(name, place, tracking=tracking)


def clean(
    *,
    cache_age: float | str = "30d",
    cache_size: int | None = None,
    dry_run: bool = False,
    home: Place = None,
) -> tuple[Found, list[str]]:
    """Remove what can go of a home: decoded images, warm-ups, checkpoints of trials that have ended, logs, leftovers.

    Args:
        cache_age: decoded images that were not read for so long can go, and warm-ups that were not taken: seconds, or
            text such as "30d".
        cache_size: bytes that decoded images may take together; None: any number.
        dry_run: remove nothing.
        home: the home folder.

    Returns:
        What was found, and a sentence for each thing that could not be removed.

    Raises:
        ConfigError: an age that is no time, or a home that is no folder.
    """
    from tune.launch.keeping.cleaning import find, remove  # loads Optuna

    place = Home(home).folder_for("clean")
    found = find(place, cache_age=parse_duration(str(cache_age), "--cache-age"), cache_size=cache_size)
    return found, [] if dry_run else remove(place, found.items)[1]


def pack(name: str, output: Path | str, *, home: Place = None) -> Packed:
    """Write a study, its event log, checkpoints and models into one file, for another machine.

    Args:
        name: the study, which nobody drives meanwhile.
        output: the file.
        home: the home folder.

    Raises:
        ConfigError: no such study, or a file that cannot be written.
        ServiceError: a driver runs it.
    """
    from tune.launch.keeping.packing import pack as pack_study  # loads Optuna

    return pack_study(name, Path(output).expanduser(), Home(home))


def unpack(path: Path | str, *, home: Place = None) -> Unpacked:
    """Bring a study that was packed into a home.

    Args:
        path: what `pack` wrote; it may come from anybody, and no code of it is run.
        home: the home folder, which has no study of this name.

    Raises:
        ConfigError: no pack, a damaged or hostile one, one of a later version, or the name is taken.
    """
    from tune.launch.keeping.unpacking import unpack as unpack_study  # loads Optuna

    return unpack_study(Path(path).expanduser(), Home(home).folder_for("unpack"))
