"""A study's damaged files made again from the others: `ssl-tune repair`.

| file | made from |
|---|---|
| study.yaml | the copy that the event log has for MLflow |
| state.json | the trials: finished where all have ended, else interrupted |
| optuna.db | the event log: parameters, epochs and ends of all trials that had begun |
| events.db | what of it can still be read, then Optuna and the checkpoints |

The damaged file is kept beside the new one, as NAME.damaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ssl_core.system.errors import ConfigError, counted
from ssl_core.system.files import write_atomically
from tune.errors import DamagedError, Exit, ServiceError
from tune.findings.study import Study, check_reports
from tune.launch.remade_log import remake_log, salvaged
from tune.launch.remade_trials import remake_trials
from tune.store.event_log import EventLog
from tune.store.home import Home
from tune.store.integrity import check_database, damaged
from tune.store.layout import EVENTS_DB, STATE_FILE, STUDY_FILE
from tune.store.specification import read_spec
from tune.store.study_folder import StudyFolder
from tune.trials.reading import all_records, all_trials, read_records


@dataclass(frozen=True)
class Repaired:
    """What `repair` did.

    Attributes:
        study: the study.
        mended: a sentence for each file that was made again; empty where all was whole.
    """

    study: Study
    mended: tuple[str, ...]


def repair(name: str, home: Home, *, trust_method: bool = False) -> Repaired:
    """Make the damaged files of a study again, from those that are whole.

    Args:
        name: the study.
        home: the home folder.
        trust_method: as of `tune.launch.start.resumed_sitting`.

    Raises:
        ConfigError: no such study.
        DamagedError: what is damaged cannot be made again: too much is.
        ServiceError: a driver has the study; or the home is an object store, which keeps whole states itself.
    """
    folder = StudyFolder(home.study_folder(name))
    if folder.remote is not None:
        raise ServiceError(
            f"{home.shown} keeps the last two states of {name!r}, and each is whole or not taken. Remove the working "
            f"copy {folder.path}, and the study is fetched again.",
            Exit.STORAGE,
        )
    if not folder.path.is_dir():
        home.existing_study_folder(name)  # says which there are
    mended: list[str] = []
    with _held(folder):
        _mend_specification(folder, mended)
        study = Study(folder.path)
        _mend_trials(study, mended, trust_method)
        _mend_reports(study, home, mended)
        _mend_state(study, mended)
    return Repaired(study, tuple(mended))


@contextmanager
def _held(folder: StudyFolder) -> Iterator[None]:
    folder.lock()
    try:
        yield
    finally:
        folder.unlock()


def set_aside(path: Path) -> Path:
    """Rename a damaged file, with what SQLite has beside it; returns its new name."""
    number, aside = 1, path.with_name(f"{path.name}.damaged")
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.{number}.damaged")
    for end in ("", "-wal", "-shm", "-journal"):
        beside = path.with_name(f"{path.name}{end}")
        if beside.exists():
            beside.replace(aside.with_name(f"{aside.name}{end}"))
    return aside


def _mend_specification(folder: StudyFolder, mended: list[str]) -> None:
    path = folder.path / STUDY_FILE
    try:
        read_spec(folder.path)
        return
    except DamagedError as error:
        problem = error
    text = _kept_specification(folder)
    if text is None:
        raise damaged(
            path, "the event log has no copy of it, so it can only come back from a backup"
        ) from problem
    aside = set_aside(path)
    write_atomically(path, text.encode())
    try:
        read_spec(folder.path)
    except (DamagedError, ConfigError):
        path.unlink()
        if aside.exists():
            aside.replace(path)
        raise damaged(
            path, "the event log's copy cannot be read either; it can only come back from a backup"
        ) from None
    mended.append(f"{STUDY_FILE}: from the event log's copy")


def _kept_specification(folder: StudyFolder) -> str | None:
    """The text of the specification that the event log has for MLflow."""
    if not folder.events_db.exists():
        return None
    check_database(folder.events_db)
    with EventLog(folder.events_db, read_only=True) as log:
        event = log.find(f"{folder.path.name}:config")
    return None if event is None else str(event.payload.get("text"))


def _mend_trials(study: Study, mended: list[str], trust_method: bool) -> None:
    folder, spec = study.folder, study.spec
    try:
        read_records(folder)
        return
    except DamagedError as error:
        if not str(error).startswith(str(folder.optuna_db)):
            # The event log is damaged: it is not known what should be in Optuna, but Optuna must be whole by itself.
            _check_alone(study)
            return
    check_database(folder.events_db)
    study.load_method(trust_method=trust_method)
    set_aside(folder.optuna_db)
    with EventLog(folder.events_db, read_only=True) as log:
        count = remake_trials(folder, spec, log)
    mended.append(
        f"optuna.db: {counted(count, 'trial')} from the event log; the sampler goes on from what they found"
    )


def _check_alone(study: Study) -> None:
    """Refuse to go on where the event log and the trials are both damaged: neither can be made from the other.

    Raises:
        DamagedError: they are.
    """
    check_database(study.folder.optuna_db)
    all_trials(study.folder, study.spec)


def _mend_reports(study: Study, home: Home, mended: list[str]) -> None:
    folder, spec = study.folder, study.spec
    try:
        check_reports(folder, spec, all_records(folder, spec))
        return
    except DamagedError:
        pass
    kept = salvaged(folder.events_db)
    set_aside(folder.events_db)
    lost = remake_log(study, home, kept)
    where = "; the curves of " + _listed(lost) + " have the objective alone" if lost else ""
    events = counted(len(kept.rows), "event")
    mended.append(f"{EVENTS_DB}: {events} of the old file, the others from Optuna and checkpoints{where}")


def _listed(trials: list[int]) -> str:
    first = ", ".join(map(str, trials[:10]))
    return f"trial {first}" if len(trials) == 1 else f"trials {first}{', ...' if len(trials) > 10 else ''}"


def _mend_state(study: Study, mended: list[str]) -> None:
    try:
        study.folder.state()
        return
    except DamagedError:
        pass
    records = study.records()
    done = len(records) >= study.spec.trials and all(record.state != "running" for record in records)
    set_aside(study.folder.path / STATE_FILE)
    study.folder.set_state("finished" if done else "interrupted")
    mended.append(f"{STATE_FILE}: {study.folder.state()}, as the trials say")
