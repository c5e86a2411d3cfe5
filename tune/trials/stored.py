"""A study and its trials in Optuna's storage, where the storage alone is needed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from ssl_core.system.faults import fault
from tune.definition.objective import FIELDS
from tune.definition.spec import StudySpec
from tune.errors import Exit, ServiceError
from tune.trials.optuna_storage import studies_in
from tune.trials.record import WISH
from tune.trials.sampling import INFEASIBLE, is_memory_parameter
from tune.trials.tables.reading import read_trials, trial_numbers


def trials_there(storage: RDBStorage, spec: StudySpec) -> Collection[int]:
    """Numbers of the trials that a storage holds of a study."""
    if spec.name not in studies_in(storage):
        return []
    return trial_numbers(storage, storage.get_study_id_from_name(spec.name))


def own_study(storage: RDBStorage, spec: StudySpec) -> int:
    """The study's id in its storage; made where it is not there yet.

    Raises:
        ServiceError: the storage holds another study of this name.
    """
    name = spec.name
    if name not in studies_in(storage):
        storage.create_new_study([StudyDirection.MINIMIZE], name)
    study_id = storage.get_study_id_from_name(name)
    known = storage.get_study_user_attrs(study_id).get("ssl.uid")
    if known is None and not storage.get_n_trials(study_id):  # a driver died in between
        storage.set_study_user_attr(study_id, "ssl.uid", spec.uid)
    elif (known or "") != spec.uid:
        raise ServiceError(
            f"the study {name!r} in {spec.storage or 'this storage'} is another one of the same name. Bring the "
            "right storage back, or start a new study.",
            Exit.STORAGE,
        )
    return study_id


def verdict(
    trial: FrozenTrial, stop_reason: str, objective: str, distributions: Collection[str]
) -> tuple[TrialState, list[float] | None]:
    """How Optuna hears of an end; marks a trial infeasible that the sampler should not try again.

    Args:
        trial: with its last epoch and its values.
        stop_reason: why it ended.
        objective: what the study goes by.
        distributions: names of the searched parameters.
    """
    known = trial.intermediate_values
    last = [known[max(known)]] if known else None
    if stop_reason == "completed":
        return TrialState.COMPLETE, [trial.user_attrs["last"][FIELDS[objective]]]
    if stop_reason in ("asha", "median", "time", "user", "race"):
        return TrialState.PRUNED, last
    to_blame = stop_reason == "oom" and any(map(is_memory_parameter, distributions))
    if stop_reason == "nan" or to_blame:
        trial.set_constraint(INFEASIBLE, 1.0)
        return TrialState.PRUNED, last
    return TrialState.FAIL, None


def enqueue(storage: RDBStorage, study_id: int, points: Sequence[Mapping[str, Any]], wish: str) -> list[int]:
    """Put points into a study's queue; those of a wish that are there already stay as they are.

    Args:
        storage: where the study is.
        study_id: its id there.
        points: as `tune.definition.points.check_points` gives them.
        wish: a name of the whole; a driver that died over it calls this again.

    Returns:
        The numbers that their trials will have.
    """
    there = {t.user_attrs.get(WISH): t.number for t in read_trials(storage, study_id)}
    numbers = []
    for place, point in enumerate(points):
        name = f"{wish}/{place}"
        if name not in there:
            waiting = create_trial(
                state=TrialState.WAITING,
                user_attrs={WISH: name},
                system_attrs={"fixed_params": dict(point)},
            )
            identity = storage.create_new_trial(study_id, waiting)
            there[name] = storage.get_trial_number_from_id(identity)
            fault("wish:inside")
        numbers.append(there[name])
    return numbers
