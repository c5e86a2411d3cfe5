"""What studies found and how they stand, also while they run; and the delivery of what MLflow still lacks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune.comparison.record import is_comparison, load_comparison
from tune.comparison.table import status_of
from tune.definition.inputs import parse_duration
from tune.delivery.links import study_links
from tune.errors import Exit, ServiceError
from tune.findings import exports
from tune.findings.ranking import ranked
from tune.findings.study import Study, load_study, studies_of, studies_status
from tune.store.event_log import EventLog
from tune.store.events import DeadLetter
from tune.store.home import Home
from tune.store.layout import CONFIRM_FILE
from tune.tracking.opening import note_where
from tune.tracking.views import confirmation_view, experiment_event, study_views

if TYPE_CHECKING:
    from tune.definition.spec import StudySpec
    from tune.launch.repair import Repaired
    from tune.store.study_folder import StudyFolder
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
    """How a study or a comparison stands: what ``ssl-tune status NAME --json`` prints.

    Raises:
        ConfigError: no such study, or its folder is damaged.
    """
    place = Home(home)
    if is_comparison(name, place):
        return status_of(load_comparison(name, place))
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
    """Write a study or a comparison as one HTML page, and keep it with its run in MLflow.

    Args:
        name: the study, or the comparison.
        output: the file; None: ``report.html`` in the study's folder, where a copy is kept in any case.
        home: the home folder.

    Returns:
        ``study``, ``path`` and ``bytes`` of the page, and ``pending``: how many events MLflow still lacks, None
        where a driver runs the study.

    Raises:
        ConfigError: no such study, no trial with a result yet, or a file that cannot be written.
    """
    if is_comparison(name, Home(home)):
        from tune.comparison.page import report as write_comparison  # loads matplotlib

        return write_comparison(name, output, home=home)
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


def live_page(study: Study, *, host: str = "127.0.0.1", port: int = 0) -> AbstractContextManager[str]:
    """A study's page, served for the length of a ``with`` block and drawn anew while the study runs.

    Args:
        study: the study.
        host: the address to listen on; by default this machine alone can ask for the page.
        port: 0: any that is free.

    Returns:
        A context manager that gives the page's address.

    Raises:
        OSError: nothing can listen there.
    """
    from tune.page.live.server import serving  # loads jinja2 and Optuna

    return serving(study, host, port, time.monotonic)


def mlflow_links(
    base: str, name: str | None = None, *, newest: int = 3, home: Place = None
) -> dict[str, dict[str, str]]:
    """Links into MLflow's pages by study: its trials, the five best side by side, what was confirmed.

    Args:
        base: where MLflow answers, such as ``http://127.0.0.1:5000``.
        name: a study; None: the newest ones.
        newest: how many.
        home: the home folder.

    Returns:
        By study, ``trials``, ``best`` and ``confirmed``; what MLflow does not have is left out.

    Raises:
        ConfigError: no such study.
    """
    found = studies_of(Home(home))[0] if name is None else [load_study(name, home=home)]
    links = {}
    for study in reversed(found[-newest:]):
        try:
            best = [record.trial for record in ranked(study.records())[:5]]
            links[study.name] = study_links(study.folder, study.name, best, base)
        except ServiceError:  # it is damaged: `studies` says so
            continue
    return links


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


def _delivered(name: str, home: Home) -> tuple[StudyFolder, StudySpec]:
    """The folder with the events of a study, or of a comparison's own run, and what says where they go."""
    if is_comparison(name, home):
        comparison = load_comparison(name, home)
        return comparison.folder, comparison.spec_of_run()
    study = load_study(name, home=home.shown)
    return study.folder, study.spec


def sync(
    name: str, *, timeout: float | str = 300.0, retry_refused: bool = False, home: Place = None
) -> Delivery:
    """Deliver to MLflow what a study still owes.

    Args:
        name: the study, or the comparison, of which this is its own run alone.
        timeout: how long to try: seconds, or text such as "5m".
        retry_refused: try again what MLflow refused for good.
        home: the home folder.

    Raises:
        ConfigError: no such study, or a timeout that is no time.
        ServiceError: a driver on another machine runs the study: it delivers itself.
    """
    from tune.delivery.sender import deliver  # loads MLflow once there is something to deliver

    place = Home(home)
    folder, spec = _delivered(name, place)
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
                note_where(log, spec, place)  # the home may have been moved
                # A study of an earlier version has no views yet; a comparison's own run needs none.
                if not is_comparison(name, place) and log.find(f"{name}:start") is not None:
                    log.append_many([experiment_event(name, study_views(spec))])
                    if (folder.path / CONFIRM_FILE).exists():
                        log.append_many([experiment_event(name, confirmation_view(spec))])
        pending = deliver(folder.path, seconds)
    with EventLog(folder.events_db, read_only=True) as log:
        return Delivery(pending, tuple(log.dead()), log.get_meta("problem"))
