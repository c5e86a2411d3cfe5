"""Optuna's tables, read and written without Optuna's own methods: the same rows, and the same trials out of them."""

from __future__ import annotations

import datetime
import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from tests.tune.helpers import make_study
from tests.tune.servers import needed, postgres
from tune.store.home import Home
from tune.trials import study_trials as module
from tune.trials.study_trials import StudyTrials
from tune.trials.tables.reading import read_trials, trial_numbers
from tune.trials.tables.writing import add_trial, end_trial, newest_trial, note_epoch

SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-4, 0.5, log=True),
    "batch_size": CategoricalDistribution([16, 64, None]),
    "maps": IntDistribution(1, 9, step=2),
}
PARAMS = {"lr": 0.1 + 0.2, "batch_size": None, "maps": 7}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A database server."""
    needed("postgres", importlib.util.find_spec("psycopg"), "pip install 'psycopg[binary]'")
    with postgres() as database:
        yield database.replace("postgresql://", "postgresql+psycopg://")


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RDBStorage]:
    """Optuna's tables with two studies."""
    is_file = request.param == "sqlite"
    made = RDBStorage(f"sqlite:///{tmp_path}/optuna.db" if is_file else request.getfixturevalue("server"))
    for study in made.get_all_studies():  # of another test
        made.delete_study(study._study_id)
    for name in ("other", "mine"):
        made.create_new_study([StudyDirection.MINIMIZE], name)
    yield made
    made.engine.dispose()


def running(**options: Any) -> FrozenTrial:
    return create_trial(state=TrialState.RUNNING, params=PARAMS, distributions=SPACE, **options)


def ended(state: TrialState, value: float | None, values: dict[int, float]) -> FrozenTrial:
    trial = create_trial(
        state=state,
        value=value,
        params=PARAMS,
        distributions=SPACE,
        intermediate_values=values,
        user_attrs={"last": {"epoch": 3, "val_error": 12.5}, "stop_reason": "asha"},
    )
    trial.set_constraint("infeasible", 1.0)
    return trial


def test_trials_are_read_as_optuna_reads_them(storage: RDBStorage) -> None:
    other, mine = (storage.get_study_id_from_name(name) for name in ("other", "mine"))
    waiting = create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": {"lr": 0.1}})
    for study in (mine, other, mine):
        storage.create_new_trial(study, running(user_attrs={"given": 0}))
        storage.create_new_trial(
            study, ended(TrialState.COMPLETE, 7.25, {1: 30.0, 3: math.inf, 2: -math.inf})
        )
        storage.create_new_trial(study, ended(TrialState.PRUNED, None, {4: math.nan}))
        storage.create_new_trial(study, create_trial(state=TrialState.FAIL))
        storage.create_new_trial(study, waiting)
    for study in (other, mine):
        found, theirs = read_trials(storage, study), storage.get_all_trials(study)
        for trial in (*found, *theirs):
            trial.intermediate_values = dict(sorted(trial.intermediate_values.items()))
        assert [*map(repr, found)] == [*map(repr, theirs)]  # NaN is not equal to itself
        assert trial_numbers(storage, study) == {trial.number for trial in theirs}
        assert newest_trial(storage, study) == theirs[-1]._trial_id
    assert len(read_trials(storage, mine)) == 10


def test_a_study_without_trials_has_no_newest(storage: RDBStorage) -> None:
    study = storage.get_study_id_from_name("mine")
    assert newest_trial(storage, study) is None and read_trials(storage, study) == []


def rows(trial: FrozenTrial) -> dict[str, Any]:
    """What is stored of a trial; its moments to the minute."""
    kept = {name: getattr(trial, name) for name in ("number", "state", "values", "params", "distributions")}
    kept |= {name: getattr(trial, name) for name in ("user_attrs", "system_attrs", "intermediate_values")}
    now = datetime.datetime.now()
    for moment in (trial.datetime_start, trial.datetime_complete):
        assert moment is None or abs(now - moment) < datetime.timedelta(minutes=1)
    return kept | {"ended": trial.datetime_complete is not None}


def test_a_trial_is_added_noted_and_ended_as_optuna_does_it(storage: RDBStorage) -> None:
    """Both ways side by side, in two studies whose trials come in turns."""
    theirs, mine = (storage.get_study_id_from_name(name) for name in ("other", "mine"))
    for number, (state, values) in enumerate(
        [(TrialState.COMPLETE, [12.5]), (TrialState.PRUNED, [math.inf]), (TrialState.FAIL, None)]
    ):
        trial = running(user_attrs={"given": 2}, system_attrs={"constraints:infeasible": 1.0})
        identity = storage.create_new_trial(theirs, trial)
        add_trial(storage, mine, trial)
        assert trial.number == number and trial._trial_id == newest_trial(storage, mine) != identity
        storage.set_trial_intermediate_value(identity, 2, 30.5)
        storage.set_trial_user_attr(identity, "last", {"epoch": 3})
        note_epoch(storage, trial._trial_id, (2, 60.5), {"last": {"epoch": 2}})
        note_epoch(storage, trial._trial_id, (2, 30.5), {"last": {"epoch": 3}})
        storage.set_trial_user_attr(identity, "stop_reason", "asha")
        storage.set_trial_system_attr(identity, "constraints:infeasible", 0.0)
        storage.set_trial_state_values(identity, state, values)
        end_trial(
            storage,
            trial._trial_id,
            state,
            values,
            {"stop_reason": "asha"},
            {"constraints:infeasible": 0.0},
        )
        with pytest.raises(optuna.exceptions.UpdateFinishedTrialError, match="runs no more"):
            end_trial(storage, trial._trial_id, TrialState.FAIL, None, {"error": "late"}, {})
    found, expected = ([rows(t) for t in storage.get_all_trials(study)] for study in (mine, theirs))
    assert found == expected and len(found) == 3


def test_an_ask_and_an_end_do_not_read_the_trials_that_are_there(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = StudyTrials(*make_study(home, trials=9, startup_trials=3))

    def reads_all(*_: Any, **__: Any) -> Any:
        pytest.fail("all trials are read")

    for owner, name in ((RDBStorage, "_get_trials"), (module, "read_trials")):
        monkeypatch.setattr(owner, name, reads_all)
    for number in range(6):
        trial = records.ask()
        assert trial is not None and trial.number == number
        last = {"epoch": 6, "ssl_epoch": 5, "val_error": 40.0 - number, "val_loss": 1.0, "seconds": 6.0}
        records.report(number, last | {"stop_reason": "completed"})
        records.end(number, "completed")
    monkeypatch.undo()
    records.enqueue([{"pseudo_label.threshold": 0.7, "warmup_share": 0.2}], "wish")
    enqueued = records.ask()  # somebody else's trial is seen all the same
    assert enqueued is not None and enqueued.number == 6 and enqueued.params["pseudo_label.threshold"] == 0.7
