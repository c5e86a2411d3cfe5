"""What a study goes by: error and loss together, val/error, the mean of the classes' errors, or the loss."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import ssl_core
import tune
from search_spaces import dump_yaml, load_yaml
from ssl_core.system.errors import ConfigError
from tests.tune.helpers import Done, make_spec, make_study, mlflow_runs, note_trials, shapes_options, words_of
from tune.definition.objective import FIELDS, error_and_loss
from tune.definition.spec import StudySpec
from tune.engine.scheduler import StudyASHA
from tune.findings.exports import expected_error
from tune.findings.ranking import best_record, deviation_of, near_ties, ranked, resolution, shows_balanced
from tune.findings.study import load_study
from tune.findings.summary import description
from tune.findings.words import result, uncertain
from tune.launch.baseline import baseline_request, differences
from tune.store.home import Home
from tune.store.layout import CONFIRM_FILE
from tune.store.specification import read_spec
from tune.trials.handover import check_warm_start
from tune.trials.reading import read_records
from tune.trials.record import TrialRecord
from tune.trials.sampling import WORST
from tune.trials.study_trials import StudyTrials

Command = Callable[..., Done]

OUTCOMES = [
    {"val_error": 10.0, "val_error_balanced": 30.0, "val_loss": 0.6, "val_error_and_loss": -2.6},
    {"val_error": 14.0, "val_error_balanced": 15.0, "val_loss": 0.5, "val_error_and_loss": -2.5},
    {"val_error": 20.0, "val_error_balanced": 20.0, "val_loss": 0.4, "val_error_and_loss": -2.3},
    {"val_error": 12.0, "val_error_balanced": 25.0, "val_loss": 0.45, "val_error_and_loss": -2.8},
]
"""Four trials of which each is the best by another number: the first is bad at the small classes."""
WINNERS = {"val/error": "0", "val/error_balanced": "1", "val/loss": "2", "val/error_and_loss": "3"}


def run_study(home: Home, objective: str, **options: Any) -> StudyTrials:
    """A study whose trials come to OUTCOMES."""
    folder, spec = make_study(
        home, objective=objective, name=FIELDS[objective], trials=len(OUTCOMES), **options
    )
    trials = StudyTrials(folder, spec)
    for outcome in OUTCOMES:
        number = trials.ask().number
        last = {"epoch": 6, "ssl_epoch": 5, "seconds": 1.0, "deviation": 4.0, "stop_reason": "completed"}
        trials.report(number, outcome | last)
        trials.end(number, "completed")
    note_trials(folder, spec, home, range(len(OUTCOMES)))
    return trials


@pytest.mark.parametrize("objective", WINNERS)
def test_the_best_is_the_one_with_the_lowest_objective(home: Home, objective: str) -> None:
    trials = run_study(home, objective)
    study = load_study(trials.spec.name, home=home.path)
    best = study.best()
    assert best is not None and best["trial"] == WINNERS[objective]
    assert study.status()["objective"] == objective
    order = sorted(range(len(OUTCOMES)), key=lambda n: OUTCOMES[n][FIELDS[objective]])
    assert [int(r.trial) for r in ranked(study.records())] == order
    document = tune.export(study.name, home=home.path)
    assert document["origin"]["trial"] == best["trial"] and document["origin"]["objective"] == objective
    names = [name for name in OUTCOMES[0] if name != "val_error_and_loss"]  # that depends on earlier epochs
    assert {n: document["expect"][n] for n in names} == {n: OUTCOMES[int(best["trial"])][n] for n in names}


@pytest.mark.parametrize("objective", WINNERS)
def test_optuna_is_told_the_objective(home: Home, objective: str) -> None:
    trials = run_study(home, objective)
    values = [outcome[FIELDS[objective]] for outcome in OUTCOMES]
    assert [trials.trial(number).values for number in range(len(OUTCOMES))] == [[value] for value in values]
    assert [r.intermediate for r in trials.history()] == [{5: value} for value in values]
    assert [r.score for r in trials.all()] == values


def test_the_sampler_asks_by_the_objective(home: Home) -> None:
    """TPE that has heard of losses asks for another point than TPE that has heard of errors."""
    asked = {
        objective: run_study(home, objective, startup_trials=0, seed=4).ask().params for objective in WINNERS
    }
    assert asked["val/error"] != asked["val/loss"] != asked["val/error_balanced"]


def test_a_trial_that_diverged_is_worse_than_any_that_trained_in_the_objective_s_own_unit() -> None:
    assert set(WORST) == set(WINNERS)
    assert WORST["val/loss"] > math.log(1000) and WORST["val/error_balanced"] == 100.0


@pytest.mark.parametrize("objective", WINNERS)
def test_early_stopping_goes_by_the_objective(objective: str) -> None:
    scheduler = StudyASHA(6, objective=objective)
    names = {field: name for name, field in FIELDS.items()}
    decisions = []
    for number in sorted(range(len(OUTCOMES)), key=lambda n: OUTCOMES[n][FIELDS[objective]]):
        outcome = {names[field]: value for field, value in OUTCOMES[number].items()} | {"ssl_epoch": 2}
        trial = SimpleNamespace(trial_id=f"ray-{number}", config={"trial": number})
        decisions.append(scheduler.on_trial_result(None, trial, outcome))
    assert decisions == ["CONTINUE", "STOP", "STOP", "STOP"]  # the best came first, and a third goes on


def record(trial: int, objective: str, **values: Any) -> TrialRecord:
    known = {"val_error": 20.0, "val_loss": 1.0, "val_error_balanced": 20.0, "deviation": 6.0} | values
    error, loss = known.pop("val_error"), known.pop("val_loss")
    return TrialRecord(
        str(trial), "completed", "completed", error, loss, 6, 5, 1.0, {}, objective=objective, **known
    )


def test_near_ties_are_judged_by_the_objective_s_own_error_and_deviation() -> None:
    values = [20.0, 25.0, 27.0]
    balanced = [record(n, "val/error_balanced", val_error_balanced=v) for n, v in enumerate(values)]
    assert deviation_of(balanced[0], 100) == 6.0
    assert [r.trial for r in near_ties(balanced, balanced[0], 100)] == ["1"]
    plain = [record(n, "val/error", val_error=v) for n, v in enumerate(values)]
    assert deviation_of(plain[0], 100) == resolution(100, 20.0) == pytest.approx(4.0)
    assert near_ties(plain, plain[0], 100) == []
    # Losses have no resolution of their own: trials are told apart by the error that stands beside them.
    losses = [record(n, "val/loss", val_error=v) for n, v in enumerate([20.0, 23.0, 30.0])]
    assert [r.trial for r in near_ties(losses, losses[0], 100)] == ["1"]


def test_error_and_loss_is_the_mean_over_three_epochs_of_log_odds_and_log_loss() -> None:
    def of(wrong: int, loss: float) -> float:
        return math.log((wrong + 0.5) / (50 - wrong + 0.5)) + math.log(loss)

    epochs = [(90.0, 3.0), (30.0, 1.0), (20.0, 0.7), (0.0, 0.2)]
    assert error_and_loss(epochs[:1], 50) == pytest.approx(of(45, 3.0), abs=1e-5)
    assert error_and_loss(epochs[:2], 50) == pytest.approx((of(45, 3.0) + of(15, 1.0)) / 2, abs=1e-5)
    last = (of(15, 1.0) + of(10, 0.7) + of(0, 0.2)) / 3
    assert error_and_loss(epochs, 50) == pytest.approx(last, abs=1e-5)
    assert math.isfinite(error_and_loss([(0.0, 0.0)], 50)) and math.isfinite(
        error_and_loss([(100.0, 9.0)], 50)
    )


def both(trial: int, value: float, epoch: int, state: str = "completed", **more: Any) -> TrialRecord:
    """A trial of a study of 12 epochs that goes by error and loss."""
    reason = {"completed": "completed", "stopped_early": "asha", "running": None, "failed": "nan"}[state]
    objective = "val/error_and_loss"
    known = {"val_error_and_loss": value, "objective": objective, "share": epoch / 12} | more
    return TrialRecord(str(trial), state, reason, 20.0, 1.0, epoch, epoch - 1, 1.0, {}, **known)


def test_by_error_and_loss_a_trial_that_ran_half_of_the_budget_can_be_the_best() -> None:
    whole, half, early = (
        both(0, -2.0, 12),
        both(1, -2.5, 6, "stopped_early"),
        both(2, -3.0, 5, "stopped_early"),
    )
    diverged, running = both(3, -4.0, 8, "failed"), both(4, -2.2, 9, "running")
    assert best_record([whole, half, early, diverged, running]) == (half, False)
    assert best_record([whole, early, diverged]) == (whole, True)
    assert best_record([early, both(5, -9.0, 3, "stopped_early")]) == (early, False)  # the deepest, as ever
    assert [r.trial for r in ranked([early, whole, half])] == ["1", "0", "2"]
    assert near_ties([whole, early, half], half, valid=50) == [whole]
    assert near_ties([whole, early, half], whole, valid=50) == [half]  # a candidate that was stopped counts


def test_a_stopped_trial_that_fresh_seeds_have_trained_to_the_end_is_exported_so(home: Home) -> None:
    folder, spec = make_study(home, objective="val/error_and_loss", trials=1)
    trials = StudyTrials(folder, spec)
    number = trials.ask().number
    last = {"epoch": 3, "ssl_epoch": 2, "seconds": 1.0, "deviation": 4.0, "stop_reason": "asha"}
    trials.report(number, OUTCOMES[0] | last)
    trials.end(number, "asha")
    note_trials(folder, spec, home, [number])
    unconfirmed = tune.export(spec.name, home=home.path)
    assert unconfirmed["config"]["stop_after_epoch"] == 3 and expected_error(unconfirmed) == 10.0
    numbers = {key: [12.0] for key in ("val_error", "test_error", "test_interval")}
    row = {
        "who": "0",
        "seeds": [1],
        "test_mean": 12.0,
        "test_std": None,
        "luck": None,
        "seconds": 1.0,
    } | numbers
    found = {"winner": "0", "baseline": None, "rows": [row], "steps": 6, "verdict": []}
    (folder.path / CONFIRM_FILE).write_text(json.dumps(found))
    confirmed = tune.export(spec.name, home=home.path)
    assert confirmed["config"]["stop_after_epoch"] is None and confirmed["origin"]["confirmed"]
    assert expected_error(confirmed) is None  # what the search saw was the half of it


def test_with_folds_a_trial_that_finished_more_of_them_comes_first() -> None:
    one, two = {"folds": ({},)}, {"folds": ({}, {})}
    all_of_them = both(0, -2.0, 24, **two)
    assert best_record([all_of_them, both(1, -3.0, 12, "stopped_early", **one)]) == (all_of_them, True)


def test_a_tie_in_the_loss_goes_to_the_smaller_error() -> None:
    pair = [record(0, "val/loss", val_error=30.0), record(1, "val/loss", val_error=20.0)]
    best, _ = best_record(pair)
    assert best is not None and best.trial == "1"


def test_words_name_another_objective_and_keep_the_error() -> None:
    assert result(record(0, "val/error")) == "val/error 20.00 %"
    balanced = record(0, "val/error_balanced", val_error_balanced=31.0)
    assert result(balanced) == "val/error_balanced 31.00 % (val/error 20.00 %)"
    assert result(record(0, "val/error_and_loss", val_error_and_loss=-2.0)) == "val/error 20.00 %"
    assert result(record(0, "val/loss")) == "val/loss 1.0000 (val/error 20.00 %)"
    assert uncertain(record(0, "val/error"), 4.0) == "val/error 20.00 % ± 4.00"
    assert uncertain(balanced, 6.0) == "val/error_balanced 31.00 % ± 6.00"
    assert uncertain(record(0, "val/loss"), 4.0) == "val/loss 1.0000 (val/error 20.00 % ± 4.00)"


def test_tables_have_a_column_for_the_balanced_error_where_it_says_something() -> None:
    assert not shows_balanced([record(0, "val/error")])
    assert shows_balanced([record(0, "val/error", val_error_balanced=25.0)])
    assert shows_balanced([record(0, "val/error_balanced")])
    assert not shows_balanced([record(0, "val/error", val_error_balanced=None)])  # of an earlier version


def test_the_summary_names_the_objective(home: Home) -> None:
    trials = run_study(home, "val/error_balanced")
    text = description(trials.spec, trials.all(), "finished", {})
    assert (
        "Best by val/error_balanced: **trial 1, val/error_balanced 15.00 % (val/error 14.00 %)** ± 4.00"
        in text
    )


def test_a_study_of_before_goes_by_val_error(home: Home) -> None:
    folder, spec = make_study(home)
    document = load_yaml((folder.path / "study.yaml").read_text(), "study.yaml")
    assert document.pop("objective") == "val/error"
    (folder.path / "study.yaml").write_text(dump_yaml(document))
    assert read_spec(folder.path) == spec


def test_trials_of_before_have_no_balanced_error(home: Home) -> None:
    folder, spec = make_study(home)
    trials = StudyTrials(folder, spec)
    trials.ask()
    last = {"epoch": 6, "ssl_epoch": 5, "seconds": 1.0, "stop_reason": "completed"}
    trials.report(0, last | {"val_error": 10.0, "val_loss": 0.6})
    trials.end(0, "completed")
    (read,) = read_records(folder)
    assert read.val_error_balanced is None and read.score == 10.0
    assert "val_error_balanced" not in tune.export(spec.name, home=home.path)["expect"]


def test_the_baseline_is_tuned_by_the_same_objective(home: Home) -> None:
    spec = make_spec(home, objective="val/loss")
    request = baseline_request(spec)
    assert request.objective == "val/loss"
    other = spec.model_copy(update={"objective": "val/error"})
    assert differences(other, spec, None) == ["objective"]


def test_trials_of_another_objective_are_not_taken_over(home: Home) -> None:
    earlier, later = (make_spec(home, objective=o, name=FIELDS[o]) for o in ("val/error", "val/loss"))
    with pytest.raises(ConfigError, match=r"objective is val/error, this one's val/loss.*--points"):
        check_warm_start(later, earlier)


def test_an_objective_that_does_not_exist_is_refused(ssl_tune: Command) -> None:
    done = ssl_tune("plan", "--objective", "val/accuracy")
    assert done.code == 2 and "val/error_balanced" in done.err and "val/accuracy" in done.err


@pytest.mark.long
def test_a_search_by_the_loss(local_ray: None, ready_home: Home, pictures: Path, ssl_tune: Command) -> None:
    options = shapes_options(ready_home, pictures) | {"epochs": 3, "trials": 3, "objective": "val/loss"}
    done = ssl_tune("search", *words_of(options))
    assert done.code == 0, done
    study = load_study("shapes", home=ready_home.path)
    assert isinstance(study.spec, StudySpec) and study.spec.objective == "val/loss"
    best, _ = best_record(study.records())
    assert best is not None and best.val_loss is not None
    completed = [r for r in study.records() if r.state == "completed"]
    assert best.val_loss == min(r.val_loss or math.inf for r in completed)
    assert best.intermediate[max(best.intermediate)] == best.val_loss
    assert best.val_error_balanced == pytest.approx(best.val_error)  # as many validation images of each class
    assert f"best: trial {best.trial}, val/loss {best.val_loss:.4f} (val/error" in done.out
    assert f"best val/loss {best.val_loss:.4f} (trial {best.trial})" in done.err
    run = mlflow_runs(ready_home)["shapes"]
    assert run.data.metrics["best/val_loss"] == best.val_loss
    assert run.data.metrics["best/val_error"] == best.val_error and run.data.params["objective"] == "val/loss"
    page = Path(tune.report("shapes", home=ready_home.path)["path"]).read_text()
    assert f"best val/loss in the search, trial {best.trial}" in page and "The study goes by val/loss" in page
    again = ssl_core.train(tune.export("shapes", home=ready_home.path)["config"])
    assert again.val_loss == best.val_loss
