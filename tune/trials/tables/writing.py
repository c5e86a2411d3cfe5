"""A trial's rows in Optuna's tables, each change in one transaction: all or nothing.

Optuna's own methods take a transaction and some five queries for every value, which for thousands of reports is most
of what a driver does; and they count or read all trials of a study where it is asked about the newest.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import (
    TrialIntermediateValueModel,
    TrialValueModel,
)
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Table, bindparam, delete, insert, select, update

from ssl_core.system.faults import fault
from tune.trials.tables.names import NOTES, PARAMS, RESULTS, SYSTEMS, TRIALS, VALUES

_NEWEST = (
    select(TRIALS.c.trial_id)
    .where(TRIALS.c.study_id == bindparam("of_study"))
    .order_by(TRIALS.c.trial_id.desc())
    .limit(1)
)
_NUMBER_BEFORE = (
    select(TRIALS.c.number)
    .where(TRIALS.c.study_id == bindparam("of_study"), TRIALS.c.trial_id < bindparam("of_trial"))
    .order_by(TRIALS.c.trial_id.desc())
    .limit(1)
)
_ADD_TRIAL, _ADD_PARAM, _ADD_RESULT = insert(TRIALS), insert(PARAMS), insert(RESULTS)
_SET_NUMBER = update(TRIALS).where(TRIALS.c.trial_id == bindparam("of_trial"))
_SET_NUMBER = _SET_NUMBER.values(number=bindparam("new_number"))
_END = (
    update(TRIALS)
    .where(TRIALS.c.trial_id == bindparam("of_trial"), TRIALS.c.state == TrialState.RUNNING)
    .values(state=bindparam("new_state"), datetime_complete=bindparam("now"))
)
_FORGET_VALUE = delete(VALUES).where(
    VALUES.c.trial_id == bindparam("of_trial"), VALUES.c.step == bindparam("of_step")
)
_ADD_VALUE = insert(VALUES)
_PUT_VALUE = (
    "INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type)"
    " VALUES (?, ?, ?, ?) ON CONFLICT (trial_id, step) DO UPDATE SET"
    " intermediate_value = excluded.intermediate_value, intermediate_value_type = excluded.intermediate_value_type"
)
_PUT_NOTE = (
    "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (?, ?, ?)"
    " ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json"
)
_stored = TrialIntermediateValueModel.intermediate_value_to_stored_repr


@functools.cache
def _changing(table: Table) -> tuple[Any, Any]:
    """Statements that change an attribute of a trial, and add one."""
    change = update(table).where(
        table.c.trial_id == bindparam("of_trial"), table.c.key == bindparam("of_key")
    )
    return change.values(value_json=bindparam("value_json")), insert(table)


def newest_trial(storage: RDBStorage, study_id: int) -> int | None:
    """Optuna's id of the trial of a study that was made last; None where it has none.

    No trial is ever removed: as long as this is the same, nobody has added one.
    """
    with storage.engine.connect() as connection:
        found: int | None = connection.execute(_NEWEST, {"of_study": study_id}).scalar()
        return found


def add_trial(storage: RDBStorage, study_id: int, trial: FrozenTrial) -> None:
    """Put a trial into the storage with all that it holds; gives it the id and the number that it has there.

    Args:
        storage: where the study is.
        study_id: its id there.
        trial: the trial; it runs, and has no values yet.
    """
    if storage.engine.name != "sqlite":  # Optuna knows how each server locks, and what to try again
        trial._trial_id = storage.create_new_trial(study_id, trial)
        trial.number = storage.get_trial_number_from_id(trial._trial_id)
        return
    assert trial.state == TrialState.RUNNING and not trial.intermediate_values
    began = None if trial.datetime_start is None else _utc(trial.datetime_start)
    row = {"study_id": study_id, "state": trial.state, "datetime_start": began}
    with storage.engine.begin() as connection:
        # The first write locks the file, so that nobody adds a trial between this and its number.
        made = connection.execute(_ADD_TRIAL, row).inserted_primary_key
        assert made is not None
        identity = int(made[0])
        before = connection.execute(_NUMBER_BEFORE, {"of_study": study_id, "of_trial": identity}).scalar()
        number = 0 if before is None else int(before) + 1
        connection.execute(_SET_NUMBER, {"of_trial": identity, "new_number": number})
        if trial.params:
            connection.execute(_ADD_PARAM, _param_rows(identity, trial))
        _note(connection, NOTES, identity, trial.user_attrs, are_new=True)
        _note(connection, SYSTEMS, identity, trial.system_attrs, are_new=True)
    trial._trial_id, trial.number = identity, number


def _param_rows(identity: int, trial: FrozenTrial) -> list[dict[str, Any]]:
    return [
        {
            "trial_id": identity,
            "param_name": name,
            "param_value": trial.distributions[name].to_internal_repr(value),
            "distribution_json": _as_json(trial.distributions[name]),
        }
        for name, value in trial.params.items()
    ]


@functools.lru_cache(maxsize=256)
def _as_json(distribution: BaseDistribution) -> str:
    return distribution_to_json(distribution)


def _utc(local: datetime.datetime) -> datetime.datetime:
    """A moment as Optuna stores it: without a time zone, in UTC."""
    return local.astimezone(datetime.UTC).replace(tzinfo=None)


def _note(
    connection: Connection,
    table: Table,
    trial_id: int,
    attributes: Mapping[str, Any],
    *,
    are_new: bool = False,
) -> None:
    """Write a trial's attributes into one of the two tables of attributes."""
    change, add = _changing(table)
    for key, content in attributes.items():
        text = {"value_json": json.dumps(content)}
        changed = 0
        if not are_new:
            changed = connection.execute(change, text | {"of_trial": trial_id, "of_key": key}).rowcount
        if changed == 0:
            connection.execute(add, text | {"trial_id": trial_id, "key": key})


def note_epoch(
    storage: RDBStorage, trial_id: int, value: tuple[int, float] | None, attributes: Mapping[str, Any]
) -> None:
    """Write an intermediate value (step, value) and a trial's attributes."""
    note = _note_in_sqlite if storage.engine.name == "sqlite" else _note_anywhere
    with storage.engine.begin() as connection:
        note(connection, trial_id, value, attributes)
        fault("report:inside")


def _note_anywhere(
    connection: Connection, trial_id: int, value: tuple[int, float] | None, attributes: Mapping[str, Any]
) -> None:
    if value is not None:
        step, (stored, kind) = value[0], _stored(value[1])
        connection.execute(_FORGET_VALUE, {"of_trial": trial_id, "of_step": step})
        row = {"trial_id": trial_id, "step": step, "intermediate_value": stored}
        connection.execute(_ADD_VALUE, row | {"intermediate_value_type": kind})
    _note(connection, NOTES, trial_id, attributes)


def _note_in_sqlite(
    connection: Connection, trial_id: int, value: tuple[int, float] | None, attributes: Mapping[str, Any]
) -> None:
    """As `_note_anywhere`, in SQLite's own words: this is done with every report, and building statements is most of
    what it takes."""
    if value is not None:
        stored, kind = _stored(value[1])
        connection.exec_driver_sql(_PUT_VALUE, (trial_id, value[0], stored, kind.name))
    for key, content in attributes.items():
        connection.exec_driver_sql(_PUT_NOTE, (trial_id, key, json.dumps(content)))


def end_trial(
    storage: RDBStorage,
    trial_id: int,
    state: TrialState,
    values: Sequence[float] | None,
    notes: Mapping[str, Any],
    system: Mapping[str, Any],
) -> None:
    """End a trial that runs, with its values and attributes.

    Raises:
        optuna.exceptions.UpdateFinishedTrialError: it runs no more.
    """
    with storage.engine.begin() as connection:
        _note(connection, NOTES, trial_id, notes)
        _note(connection, SYSTEMS, trial_id, system)
        for place, value in enumerate(values or ()):
            stored, kind = TrialValueModel.value_to_stored_repr(value)
            row = {"trial_id": trial_id, "objective": place, "value": stored, "value_type": kind}
            connection.execute(_ADD_RESULT, row)
        now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
        ended = {"of_trial": trial_id, "new_state": state, "now": now}
        if connection.execute(_END, ended).rowcount != 1:
            raise optuna.exceptions.UpdateFinishedTrialError(
                f"the trial with Optuna's id {trial_id} runs no more: somebody else has ended it."
            )
        fault("report:inside")


def reopen(storage: RDBStorage, trial_id: int, notes: Collection[str]) -> None:
    """Make a failed trial one that runs: its epochs stay. Optuna has no call for that.

    Args:
        storage: where it is.
        trial_id: the trial.
        notes: its attributes that speak of its end, which are removed.
    """
    with storage.engine.begin() as connection:
        connection.execute(delete(RESULTS).where(RESULTS.c.trial_id == trial_id))
        connection.execute(delete(NOTES).where(NOTES.c.trial_id == trial_id, NOTES.c.key.in_(notes)))
        connection.execute(
            delete(SYSTEMS).where(SYSTEMS.c.trial_id == trial_id, SYSTEMS.c.key.startswith("constraints"))
        )
        again = {"state": TrialState.RUNNING, "datetime_complete": None}
        connection.execute(update(TRIALS).where(TRIALS.c.trial_id == trial_id).values(again))
