"""The trials of a study, for reading alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from optuna.trial import FrozenTrial, TrialState

from ssl_core.system.errors import counted
from tune.definition.spec import StudySpec
from tune.errors import Exit, ServiceError
from tune.store.event_log import EventLog
from tune.store.integrity import check_database, damaged
from tune.store.specification import read_spec
from tune.store.study_folder import StudyFolder
from tune.trials.optuna_storage import answering, open_to_read, shown, studies_in
from tune.trials.record import SAME_BITS, TrialRecord, _record, is_own
from tune.trials.tables.reading import read_trials


def read_records(folder: StudyFolder) -> list[TrialRecord]:
    """The trials of a study, for reading alone; none where it has not begun.

    Raises:
        ServiceError: a storage that does not answer, or a file that is damaged.
    """
    spec = read_spec(folder.path)
    trials = stored_trials(folder, spec)
    with read_whole(folder, spec):
        return _records(trials, spec)


def all_records(folder: StudyFolder, spec: StudySpec) -> list[TrialRecord]:
    """As `read_records`, whatever the event log says."""
    trials = all_trials(folder, spec)
    with read_whole(folder, spec):
        return _records(trials, spec)


def read_taken_over(folder: StudyFolder) -> list[TrialRecord]:
    """Whole runs of other studies that a study took over instead of training them to the same bits.

    The number of each is the one that it has in this study's storage; `taken_from` says whose it is.
    """
    spec = read_spec(folder.path)
    space, epochs = spec.search_space(), spec.config["epochs"]
    trials = [t for t in stored_trials(folder, spec) if SAME_BITS in t.user_attrs]
    with read_whole(folder, spec):
        return [_record(t, space, epochs, spec.objective) for t in trials]


def ended_trials(folder: StudyFolder) -> list[FrozenTrial]:
    """The trials of a study that taught something, its own and those it took over, for another to take over."""
    kept = (TrialState.COMPLETE, TrialState.PRUNED)
    return [t for t in stored_trials(folder, read_spec(folder.path)) if t.state in kept]


def stored_trials(folder: StudyFolder, spec: StudySpec) -> list[FrozenTrial]:
    """Every trial in a study's storage; none where it has not begun."""
    begun = begun_trials(folder, spec)  # first: a trial is in Optuna before it begins
    if spec.storage is None:
        check_database(folder.optuna_db)
    trials = all_trials(folder, spec)
    check_nothing_lost(folder, spec, begun, {t.number for t in trials})
    return trials


def begun_trials(folder: StudyFolder, spec: StudySpec) -> dict[int, bool]:
    """The trials that a study's event log knows, by number, and whether each has ended."""
    if not folder.events_db.exists():
        return {}
    with EventLog(folder.events_db, read_only=True) as log:
        return log.trials(spec.name)


def check_nothing_lost(
    folder: StudyFolder, spec: StudySpec, begun: Mapping[int, bool], there: Collection[int]
) -> None:
    """Refuse a storage that lacks trials which have ended, or all that have begun.

    A trial that had only begun may be missing after a power cut, and is asked for again.

    Raises:
        DamagedError, ServiceError: it does.
    """
    lost = sorted(n for n, has_ended in begun.items() if n not in there and (has_ended or not there))
    if not lost:
        return
    trials = counted(len(there), "trial")
    reason = f"it holds {trials}, and lacks {len(lost)} that the event log has (the first: {lost[0]})"
    if spec.storage is None:
        raise damaged(
            folder.optuna_db, reason if folder.optuna_db.exists() else f"there is no such file; {reason}"
        )
    raise ServiceError(
        f"storage: {shown(spec.storage)} is not as the study {spec.name!r} left it: {reason}. Bring the database back "
        "from its backup.",
        Exit.STORAGE,
    )


def all_trials(folder: StudyFolder, spec: StudySpec) -> list[FrozenTrial]:
    """Every trial in a study's storage, whatever the event log says; none where it has not begun."""
    storage = open_to_read(folder, spec.storage)
    if storage is None:
        return []
    try:
        with answering(folder, spec.storage), read_whole(folder, spec):
            if spec.name not in studies_in(storage):  # killed between making the database and the study in it
                return []
            return read_trials(storage, storage.get_study_id_from_name(spec.name))
    finally:
        storage.engine.dispose()


@contextmanager
def read_whole(folder: StudyFolder, spec: StudySpec) -> Iterator[None]:
    """For a block that takes trials from their storage: says so where a value in it is none.

    Raises:
        DamagedError, ServiceError: it is.
    """
    try:
        yield
    except (ValueError, TypeError, LookupError, AssertionError, RecursionError) as error:
        said = f"a trial in it cannot be read ({type(error).__name__}: {str(error).strip() or 'no reason given'})"
        if spec.storage is None:
            raise damaged(folder.optuna_db, said.rstrip(".")) from error
        raise ServiceError(f"storage: {shown(spec.storage)}: {said}.", Exit.STORAGE) from error


def _records(trials: list[FrozenTrial], spec: StudySpec) -> list[TrialRecord]:
    space, epochs = spec.search_space(), spec.config["epochs"]
    names = {p.name for p in space.parameters}
    return [_record(t, space, epochs, spec.objective) for t in trials if is_own(t, names)]
