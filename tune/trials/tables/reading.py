"""All trials of a study out of Optuna's tables, each table in one query.

Optuna's own method makes an object of every row and parses every distribution anew: at ten thousand trials that takes
ten times as long.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import (
    TrialIntermediateValueModel,
    TrialValueModel,
)
from optuna.trial import FrozenTrial
from sqlalchemy import Connection, Select, Table, bindparam, select

from tune.trials.tables.names import NOTES, PARAMS, RESULTS, SYSTEMS, TRIALS, VALUES

_NUMBERS = select(TRIALS.c.number).where(TRIALS.c.study_id == bindparam("of_study"))
_TRIALS = (
    select(
        TRIALS.c.trial_id,
        TRIALS.c.number,
        TRIALS.c.state,
        TRIALS.c.datetime_start,
        TRIALS.c.datetime_complete,
    )
    .where(TRIALS.c.study_id == bindparam("of_study"))
    .order_by(TRIALS.c.trial_id)
)


def _below(table: Table, *columns: str) -> Select[Any]:
    """Rows of all trials of a study in another table: the trial's id and some columns."""
    return (
        select(table.c.trial_id, *(table.c[name] for name in columns))
        .join(TRIALS, TRIALS.c.trial_id == table.c.trial_id)
        .where(TRIALS.c.study_id == bindparam("of_study"))
    )


_PARAMS = _below(PARAMS, "param_name", "param_value", "distribution_json").order_by(PARAMS.c.param_id)
_RESULTS = _below(RESULTS, "value", "value_type").order_by(RESULTS.c.objective)
_NOTES, _SYSTEMS = (_below(table, "key", "value_json") for table in (NOTES, SYSTEMS))
_VALUES = _below(VALUES, "step", "intermediate_value", "intermediate_value_type")


def trial_numbers(storage: RDBStorage, study_id: int) -> set[int]:
    """Numbers of the trials of a study."""
    with storage.engine.connect() as connection:
        return {int(number) for (number,) in connection.execute(_NUMBERS, {"of_study": study_id})}


def read_trials(storage: RDBStorage, study_id: int) -> list[FrozenTrial]:
    """The trials of a study in the order in which they were made, as `storage.get_all_trials` gives them.

    Raises:
        ValueError, LookupError, TypeError: a value in the tables is none.
    """
    with storage.engine.connect() as connection:
        study = {"of_study": study_id}
        trials = connection.execute(_TRIALS, study).all()
        distributions: dict[int, dict[str, BaseDistribution]] = defaultdict(dict)
        params: dict[int, dict[str, Any]] = defaultdict(dict)
        for identity, name, value, text in connection.execute(_PARAMS, study):
            distributions[identity][name] = distribution = _distribution(text)
            params[identity][name] = distribution.to_external_repr(value)
        results: dict[int, list[float]] = defaultdict(list)
        for identity, value, kind in connection.execute(_RESULTS, study):
            results[identity].append(TrialValueModel.stored_repr_to_value(value, kind))
        curves: dict[int, dict[int, float]] = defaultdict(dict)
        as_value = TrialIntermediateValueModel.stored_repr_to_intermediate_value
        for identity, step, value, kind in connection.execute(_VALUES, study):
            curves[identity][step] = as_value(value, kind)
        notes, systems = (_attributes(connection, query, study_id) for query in (_NOTES, _SYSTEMS))
    return [
        FrozenTrial(
            number=number,
            state=state,
            value=None,
            values=results.get(identity),
            datetime_start=_local(began),
            datetime_complete=_local(ended),
            params=params.get(identity, {}),
            distributions=distributions.get(identity, {}),
            user_attrs=notes.get(identity, {}),
            system_attrs=systems.get(identity, {}),
            intermediate_values=curves.get(identity, {}),
            trial_id=identity,
        )
        for identity, number, state, began, ended in trials
    ]


def _attributes(connection: Connection, query: Select[Any], study_id: int) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = defaultdict(dict)
    rows: Iterator[Any] = iter(connection.execute(query, {"of_study": study_id}))
    for identity, key, text in rows:
        found[identity][key] = json.loads(text)
    return found


@functools.lru_cache(maxsize=256)
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def _local(moment: datetime.datetime | None) -> datetime.datetime | None:
    """A moment as Optuna's trials have it, local and without a zone, from what it stores: UTC."""
    return None if moment is None else moment.replace(tzinfo=datetime.UTC).astimezone().replace(tzinfo=None)
