"""Trials in Optuna's storage: what is asked, what is told, and what is there after a driver died."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from tests.tune.helpers import make_study
from tune.definition.spec import StudySpec
from tune.engine.searcher import StudySearcher
from tune.findings.ranking import best_record, near_ties, resolution
from tune.store.home import Home
from tune.store.study_folder import StudyFolder
from tune.trials.optuna_storage import open_storage
from tune.trials.reading import read_records
from tune.trials.record import TrialRecord
from tune.trials.sampling import make_sampler
from tune.trials.study_trials import StudyTrials


def open_records(home: Home, **options: Any) -> tuple[StudyTrials, StudyFolder, StudySpec]:
    folder, spec = make_study(home, **options)
    return StudyTrials(folder, spec), folder, spec


def summary(epoch: int, error: float, ssl_epoch: int | None = None, reason: str | None = None) -> Any:
    return {
        "epoch": epoch,
        "ssl_epoch": ssl_epoch,
        "val_error": error,
        "val_loss": error / 100,
        "seconds": float(epoch),
        "stop_reason": reason,
    }


def run_through(records: StudyTrials, number: int) -> None:
    """A trial that completes with an error that depends on its parameters."""
    error = 100 * records.trial(number).params["pseudo_label.threshold"] % 37
    records.report(number, summary(6, error, 5))
    records.end(number, "completed")


def stored(folder: StudyFolder, spec: StudySpec) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=spec.name, storage=open_storage(folder)).trials


def test_the_baseline_is_trial_0(home: Home) -> None:
    records, *_ = open_records(home)
    assert records.asked() == 0 and records.unfinished() == [] and records.all() == []
    first = records.ask()
    assert first.number == 0 and first.state == TrialState.RUNNING
    assert first.params == {"pseudo_label.threshold": 0.95, "warmup_share": 0.0333}
    assert records.all()[0].params == {"pseudo_label.threshold": 0.95, "warmup_epochs": 1}


def asked_points(home: Home, *, reopened: bool, **options: Any) -> list[dict[str, Any]]:
    records, folder, spec = open_records(home, **options)
    points = []
    for number in range(spec.trials):
        points.append(dict(records.ask().params))
        run_through(records, number)
        if reopened:
            records = StudyTrials(folder, spec)
    return points


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_study_asks_the_same_points_whether_it_was_reopened_or_not(home: Home, sampler: str) -> None:
    options: dict[str, Any] = {"trials": 6, "seed": 3, "sampler": sampler, "startup_trials": 3}
    straight = asked_points(home, reopened=False, name="a", **options)
    assert straight == asked_points(home, reopened=True, name="b", **options)
    assert len({tuple(point.values()) for point in straight}) == 6
    assert straight[1:] != asked_points(home, reopened=False, name="c", **options | {"seed": 4})[1:]


def test_points_that_run_side_by_side_differ(home: Home) -> None:
    records, *_ = open_records(home, trials=12)
    points = [tuple(records.ask().params.values()) for _ in range(12)]
    assert len(set(points)) == 12


@pytest.mark.parametrize("trials", [1, 16, 1000])
def test_five_trials_are_drawn_before_tpe_models_however_many_follow(home: Home, trials: int) -> None:
    _, spec = make_study(home, trials=trials)  # of studies of before: test_growing.py
    sampler = make_sampler(spec, 0)
    assert isinstance(sampler, optuna.samplers.TPESampler)
    assert sampler._n_startup_trials == 5


def test_a_stopped_trial_is_pruned_with_the_value_that_stopped_it(home: Home) -> None:
    records, folder, spec = open_records(home)
    number = records.ask().number
    records.report(number, summary(1, 90.0))
    records.report(number, summary(2, 80.0, 1))
    records.report(number, summary(3, 70.0, 2, "asha"))
    records.end(number, "asha")
    (trial,) = stored(folder, spec)
    assert trial.state == TrialState.PRUNED and trial.value == 70.0
    assert trial.intermediate_values == {1: 80.0, 2: 70.0}  # nothing of the warm-up
    (read,) = read_records(folder)
    assert (read.state, read.stop_reason, read.epoch, read.ssl_epoch) == ("stopped_early", "asha", 3, 2)
    assert read.val_error == 70.0 and read.val_loss == 0.7 and read.seconds == 3.0
    assert read.intermediate == {1: 80.0, 2: 70.0}


ENDS = {
    "completed": (TrialState.COMPLETE, "completed"),
    "asha": (TrialState.PRUNED, "stopped_early"),
    "time": (TrialState.PRUNED, "stopped_early"),
    "user": (TrialState.PRUNED, "stopped_early"),
    "nan": (TrialState.PRUNED, "failed"),  # and infeasible
    "oom": (TrialState.FAIL, "failed"),
    "error": (TrialState.FAIL, "failed"),
}


def test_every_end_is_told_once_and_telling_it_again_changes_nothing(home: Home) -> None:
    records, folder, spec = open_records(home)
    for reason in ENDS:
        number = records.ask().number
        records.report(number, summary(2, 50.0, 1))
        for again in (reason, "error", "completed"):
            records.end(number, again, error="Traceback\nRuntimeError: it broke")
    assert [t.state for t in stored(folder, spec)] == [told for told, _ in ENDS.values()]
    assert [(r.stop_reason, r.state) for r in records.all()] == [(k, state) for k, (_, state) in ENDS.items()]
    assert {r.error for r in records.all()} == {"Traceback\nRuntimeError: it broke"}


def test_a_trial_that_failed_before_its_first_epoch_has_no_result(home: Home) -> None:
    records, *_ = open_records(home)
    records.end(records.ask().number, "oom", error="it is full")
    (failed,) = records.all()
    assert failed.val_error is None and failed.epoch == 0 and failed.state == "failed"
    assert best_record(records.all()) == (None, False)


def test_an_epoch_told_twice_counts_once(home: Home) -> None:
    records, folder, spec = open_records(home)
    number = records.ask().number
    for error in (40.0, 40.0):
        records.report(number, summary(2, error, 1))
    assert stored(folder, spec)[0].intermediate_values == {1: 40.0}
    assert records.all()[0].epoch == 2


def test_an_error_that_is_not_finite_is_kept_but_never_ranked(home: Home) -> None:
    records, folder, spec = open_records(home)
    number = records.ask().number
    records.report(number, summary(2, 30.0, 1))
    records.report(number, summary(3, math.nan, 2))
    assert stored(folder, spec)[0].intermediate_values == {1: 30.0}
    records.end(number, "nan")
    assert records.all()[0].state == "failed" and best_record(records.all()) == (None, False)


def test_a_long_traceback_is_cut_at_its_beginning(home: Home) -> None:
    records, *_ = open_records(home)
    records.end(records.ask().number, "error", error="x" * 10_000 + "\nValueError: the end")
    error = records.all()[0].error
    assert error is not None and len(error) == 4000 and error.endswith("ValueError: the end")


def test_unfinished_trials_wait_in_order_of_creation(home: Home) -> None:
    records, folder, spec = open_records(home)
    for _ in range(4):
        records.ask()
    records.end(1, "nan")
    again = StudyTrials(folder, spec)
    assert [t.number for t in again.unfinished()] == [0, 2, 3] and again.asked() == 4
    assert [r.state for r in again.all()] == ["running", "failed", "running", "running"]
    assert again.ask().number == 4  # and no second baseline


def test_the_searcher_hands_out_waiting_trials_before_new_ones_and_then_ends(home: Home) -> None:
    records, folder, spec = open_records(home, trials=4)
    for _ in range(3):
        records.ask()
    records.report(0, summary(2, 10.0, 1))
    records.end(1, "nan")
    returned: deque[int] = deque()
    searcher = StudySearcher(StudyTrials(folder, spec), folder, home, returned=returned)
    tasks = [searcher.suggest(f"ray-{i}") for i in range(3)]
    assert [t["trial"] for t in tasks] == [0, 2, 3]
    assert [t["known_epoch"] for t in tasks] == [2, 0, 0]
    assert {t["config"]["seed"] for t in tasks} == {0}
    assert len({t["folder"] for t in tasks}) == 3
    assert searcher.suggest("ray-3") is None  # one that runs may come back
    returned.append(2)
    searcher.on_trial_complete("ray-1", error=True)
    assert searcher.suggest("ray-4")["trial"] == 2
    for ended in ("ray-0", "ray-2", "ray-4"):
        searcher.on_trial_complete(ended)
    assert searcher.suggest("ray-5") == StudySearcher.FINISHED


def test_a_study_that_has_not_begun_has_no_trials_and_reading_makes_none(home: Home) -> None:
    folder, spec = make_study(home)
    assert read_records(folder) == [] and not folder.optuna_db.exists()
    open_storage(folder)  # killed between making the database and the study in it
    assert read_records(folder) == []
    assert StudyTrials(folder, spec).asked() == 0


def record(
    trial: int, state: str, error: float | None, loss: float = 1.0, ssl: int | None = 5
) -> TrialRecord:
    epoch = 0 if ssl is None else ssl + 1
    return TrialRecord(str(trial), state, None, error, loss, epoch, ssl, 1.0, {})


@pytest.mark.parametrize(
    ("records", "best", "full"),
    [
        ([], None, False),
        ([record(0, "running", None, ssl=None)], None, False),
        ([record(0, "failed", 1.0)], None, False),
        ([record(0, "completed", 30.0), record(1, "completed", 20.0)], "1", True),
        # stopped early, so nobody knows what its 5 % would have become
        ([record(0, "completed", 30.0), record(1, "stopped_early", 5.0, ssl=2)], "0", True),
        # a tie goes to the smaller loss, then to the older trial
        ([record(0, "completed", 30.0, 1.2), record(1, "completed", 30.0, 1.1)], "1", True),
        ([record(0, "completed", 30.0, 1.1), record(1, "completed", 30.0, 1.1)], "0", True),
        ([record(10, "completed", 30.0), record(9, "completed", 30.0)], "9", True),
        # none at full budget: the deepest, not the lowest
        ([record(0, "stopped_early", 5.0, ssl=2), record(1, "stopped_early", 50.0, ssl=6)], "1", False),
        ([record(0, "running", 5.0, ssl=2), record(1, "stopped_early", 4.0, ssl=2)], "1", False),
    ],
)
def test_the_best_is_chosen_among_trials_that_can_be_compared(
    records: list[TrialRecord], best: str | None, full: bool
) -> None:
    found, at_full_budget = best_record(records)
    assert (None if found is None else found.trial) == best and at_full_budget is full


def test_an_errors_resolution_is_that_of_a_binomial() -> None:
    assert resolution(100, 50.0) == pytest.approx(5.0)
    assert resolution(100, 20.0) == pytest.approx(4.0)
    assert resolution(400, 10.0) == pytest.approx(1.5)
    assert resolution(100, 0.0) == pytest.approx(100 * math.sqrt(0.01 * 0.99 / 100))
    assert resolution(100, 100.0) == pytest.approx(resolution(100, 0.0))


def test_near_ties_are_the_other_full_runs_within_one_standard_deviation() -> None:
    best = record(0, "completed", 20.0)
    others = [
        record(1, "completed", 24.0),
        record(2, "completed", 24.1),
        record(3, "stopped_early", 20.0),
        record(4, "completed", 20.0),
    ]
    assert [r.trial for r in near_ties([best, *others], best, 100)] == ["1", "4"]
