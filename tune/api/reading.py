"""What studies found and how they stand, also while they run; and the delivery of what MLflow still lacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune.definition.inputs import parse_duration
from tune.errors import Exit, ServiceError
from tune.findings import exports
from tune.findings.study import load_study, studies_status
from tune.store.event_log import EventLog
from tune.store.events import DeadLetter
from tune.store.home import Home
from tune.tracking.opening import note_where

if TYPE_CHECKING:
    from tune.launch.repair import Repaired
    from tune.trials.record import TrialRecord

Place = Path | str | None
"""A home folder; None: SSL_TUNE_HOME, else ./ssl-tune-home."""


def studies(*, home: Place = None) -> list[dict[str, Any]]:
    """How each study of a home stands, oldest first: a list of what `status` gives.

    Of a study that is damaged, or that this user may not read, the list has ``study``, ``state`` ("damaged") and
    ``problem``, a sentence; the other fields are None. It harms no other.
    """
    return studies_status(Home(home))


def status(name: str, *, home: Place = None) -> dict[str, Any]:
    """How a study stands: what ``ssl-tune status NAME --json`` prints.

    Raises:
        ConfigError: no such study, or its folder is damaged.
    """
    return load_study(name, home=home).status()


def trial_records(name: str, *, home: Place = None) -> list[TrialRecord]:
    """The trials of a study in order of creation; `Study.trials` has them as a pandas table.

    Raises:
        ConfigError: no such study, or its folder is damaged.
    """
    return load_study(name, home=home).records()


def export(
    name: str, output: Path | str | None = None, *, trial: str | None = None, home: Place = None
) -> dict[str, Any]:
    """The best configuration of a study, as ``ssl-tune train --config`` runs it.

    Args:
        name: the study.
        output: the YAML file to write; None: only the document is returned.
        trial: a trial of your choice; None: the best.
        home: the home folder.

    Raises:
        ConfigError: no such study or trial, none with a result, or a file that cannot be written.
    """
    return exports.export(name, output, trial=trial, home=home)


def export_all(folder: Path | str, *, home: Place = None) -> Mapping[str, Path | str]:
    """Every study's best in a file of its own; for a study without a result, why it has none.

    Args:
        folder: where the files go.
        home: the home folder.
    """
    return exports.export_all(folder, home=home)


def export_table(name: str, output: Path | str, *, home: Place = None) -> int:
    """Write all trials of a study as a table, CSV or Parquet by the file's ending; returns how many there are.

    Raises:
        ConfigError: no such study, or a file that cannot be written.
    """
    return exports.export_table(name, output, home=home)


def report(name: str, output: Path | str | None = None, *, home: Place = None) -> dict[str, Any]:
    """Write a study as one HTML page, and keep it with the study's run in MLflow.

    Args:
        name: the study.
        output: the file; None: ``report.html`` in the study's folder, where a copy is kept in any case.
        home: the home folder.

    Returns:
        ``study``, ``path`` and ``bytes`` of the page, and ``pending``: how many events MLflow still lacks, None
        where a driver runs the study.

    Raises:
        ConfigError: no such study, no trial with a result yet, or a file that cannot be written.
    """
    from tune.page.report import report as write_page  # loads pandas and matplotlib

    return write_page(name, output, home=home)


def pictures(
    name: str | Path, output: Path | str | None = None, *, trial: str | None = None, home: Place = None
) -> list[Path]:
    """Draw a run as PNG files: its curves, its pseudo-labels, its method's own picture. Returns the files.

    Args:
        name: a study, or a folder of `train`.
        output: the folder of the figures; None: ``figures``, beside the run.
        trial: a trial of the study; None: the best.
        home: the home folder.

    Raises:
        ConfigError: no such study, trial or folder, or a folder that cannot be written.
    """
    from tune.figures.run import figures  # loads matplotlib

    return figures(name, None if output is None else Path(output), trial=trial, home=home)


def repair(name: str, *, trust_method: bool = False, home: Place = None) -> Repaired:
    """Make the damaged files of a study again, from those that are whole; the damaged ones are kept beside them.

    Args:
        name: the study.
        trust_method: the file of its method is run also where this user has not run it before (`ssl_core.trusted`).
        home: the home folder.

    Returns:
        The study, and a sentence for each file that was made again: none where all is whole.

    Raises:
        ConfigError: no such study.
        DamagedError: too much is damaged; says what can only come back from a backup.
        ServiceError: a driver has the study, or its folder cannot be written.
    """
    from tune.launch.repair import repair as make_again  # loads Optuna

    return make_again(name, Home(home), trust_method=trust_method)


@dataclass(frozen=True)
class Delivery:
    """What became of a study's events.

    Attributes:
        pending: how many MLflow still lacks.
        refused: those that MLflow refused for good, with the reasons.
        problem: why MLflow cannot be reached at the moment; None where it can.
    """

    pending: int
    refused: tuple[DeadLetter, ...]
    problem: str | None


def sync(
    name: str, *, timeout: float | str = 300.0, retry_refused: bool = False, home: Place = None
) -> Delivery:
    """Deliver to MLflow what a study still owes.

    Args:
        name: the study.
        timeout: how long to try: seconds, or text such as "5m".
        retry_refused: try again what MLflow refused for good.
        home: the home folder.

    Raises:
        ConfigError: no such study, or a timeout that is no time.
        ServiceError: a driver on another machine runs the study: it delivers itself.
    """
    from tune.delivery.sender import deliver  # loads MLflow once there is something to deliver

    place = Home(home)
    study = load_study(name, home=home)
    folder = study.folder
    folder.check_writable()
    seconds = parse_duration(str(timeout), "--timeout")
    if retry_refused and folder.events_db.exists():
        with EventLog(folder.events_db) as log:
            log.mark_refused_undelivered()
    if folder.remote is not None and folder.is_locked():
        raise ServiceError(
            f"the study {name!r} is being driven: its driver delivers what is owed.", Exit.IN_USE
        )
    with folder.settled():
        if folder.events_db.exists():
            with EventLog(folder.events_db) as log:
                note_where(log, study.spec, place)  # the home may have been moved
        pending = deliver(folder.path, seconds)
    with EventLog(folder.events_db, read_only=True) as log:
        return Delivery(pending, tuple(log.dead()), log.get_meta("problem"))
