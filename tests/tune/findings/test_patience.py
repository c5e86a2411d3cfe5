"""When a search has gone on long enough: the rule on records by hand, and studies that it ends."""

from __future__ import annotations

import itertools
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import patience as benchmark
from ssl_core.system.errors import ConfigError
from tests.tune.engine.test_growing import ended, folder_of, run, study_of
from tests.tune.engine.test_kill_points import make_spec_again
from tests.tune.helpers import Done, make_spec, shapes_options, told, words_of
from tune.confirmation.looks import Looks
from tune.engine.progress import Progress
from tune.engine.study_run import StudyRun
from tune.findings.outlook.rule import expected_lowest, in_words, is_settled, outlook, resolved, standing
from tune.findings.ranking import resolution
from tune.findings.study import load_study
from tune.launch.growing.changes import Change, checked
from tune.steering.asking import ask
from tune.store.home import Home
from tune.tracking.opening import open_log, open_tracker
from tune.trials.record import TrialRecord

Command = Callable[..., Done]
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def record(number: int, error: float | None, reason: str | None = "completed", **more: object) -> TrialRecord:
    states = {"completed": "completed", "asha": "stopped_early", "user": "stopped_early", "nan": "failed"}
    return TrialRecord(
        trial=str(number),
        state="running" if reason is None else states[reason],
        stop_reason=reason,
        val_error=error,
        val_loss=1.0,
        epoch=9,
        ssl_epoch=8,
        seconds=1.0,
        params={},
        **more,  # type: ignore[arg-type]
    )


def records(*errors: float, reason: str = "completed") -> list[TrialRecord]:
    return [record(number, error, reason) for number, error in enumerate(errors)]


# The rule


def test_a_difference_on_the_same_images_is_as_uncertain_as_one_error_where_both_are_equal() -> None:
    one, other = records(20.0, 20.0)
    assert resolved(one, other, 50) == pytest.approx(resolution(50, 20.0)) == pytest.approx(5.657, abs=1e-3)
    # sqrt(a^2 + b^2 - a b), a^2 = 0.2 * 0.8 / 50 and b^2 = 0.1 * 0.9 / 50
    a, b = (0.0032**0.5, 0.0018**0.5)
    (worse, better) = records(20.0, 10.0)
    assert resolved(worse, better, 50) == pytest.approx(100 * (a * a + b * b - a * b) ** 0.5)


def test_trials_without_an_improvement_are_counted_from_the_recommendation_that_counted() -> None:
    # 100 images at 20 %: 4.0 points. 17 is better, not by 4; 15.9 differs from 20 by more than sqrt(16 + 13.4 - 14.6)
    assert standing(records(20.0), 100).since == 0
    assert standing(records(20.0, 30.0, 17.0), 100).since == 2
    assert standing(records(20.0, 30.0, 17.0, 15.9), 100).since == 0  # against 20, not against 17
    assert standing(records(20.0, 30.0, 17.0, 15.9, 15.0, 16.0), 100).since == 2
    assert standing(records(20.0, 30.0, 17.0, 15.9, 15.0, 16.0), 10_000).since == 1  # more images tell more
    assert standing([], 100).since == 0 and standing([], 100).resolves is None


def test_what_says_nothing_of_a_configuration_does_not_count() -> None:
    found = [
        record(0, 30.0, "asha"),  # before the first at full budget there is no recommendation
        record(1, 40.0),
        record(2, 50.0, "asha"),
        record(3, 10.0, "user"),
        record(4, 90.0, "nan"),
        record(5, 20.0, None),
        record(6, None, None),
        record(7, 12.0, "asha"),  # stopped early: it is not recommended, however low its error was
    ]
    assert standing(found, 100).since == 2 and standing(found, 100).ended == 4
    assert standing([*found, record(8, 20.0)], 100).since == 0


def test_the_objective_s_own_error_counts_and_val_error_beside_a_loss() -> None:
    balanced = [
        record(n, 50.0, val_error_balanced=error, deviation=2.0, objective="val/error_balanced")
        for n, error in enumerate((30.0, 28.5, 27.9))
    ]
    assert standing(balanced[:2], 100).since == 1 and standing(balanced, 100).since == 0
    assert standing(balanced, 100).resolves == pytest.approx(2.0)
    by_loss = records(20.0, 15.0)
    by_loss = [
        TrialRecord(**{**vars(r), "objective": "val/loss", "val_loss": 1.0 + n})
        for n, r in enumerate(by_loss)
    ]
    assert standing(by_loss, 100).since == 1  # recommended is still the one with the lower loss


def test_the_lowest_of_some_of_the_errors_is_expected_as_over_all_choices() -> None:
    errors = [3.0, 9.0, 4.5, 4.5, 20.0, 7.0]
    for draws in (1, 3, 6):
        lowest = [min(chosen) for chosen in itertools.combinations(errors, draws)]
        assert expected_lowest(errors, draws) == pytest.approx(statistics.fmean(lowest))


def test_the_lowest_of_thousands_of_errors_is_found_at_once() -> None:
    def by_binomials(errors: list[float], draws: int) -> float:
        choices = math.comb(len(errors), draws)
        shares = (math.comb(len(errors) - i, draws - 1) / choices for i in range(1, len(errors) + 1))
        return sum(share * error for share, error in zip(shares, sorted(errors), strict=True))

    for draws in (1, 7, 500, 1000):
        some = [float((37 * n) % 1000) for n in range(1000)]
        assert expected_lowest(some, draws) == pytest.approx(by_binomials(some, draws), rel=1e-9)
    began = time.process_time()
    found = expected_lowest([float(n) for n in range(50_000)], 25_000)
    assert found == pytest.approx(
        50_001 / 25_001 - 1
    )  # of k numbers from 1 to n the lowest is (n + 1) / (k + 1)
    assert time.process_time() - began < 3  # minutes with binomials of 15,000 digits


def test_status_says_whether_as_many_trials_again_may_improve_the_recommendation(home: Home) -> None:
    spec = make_spec(home, trials=12, epochs=9)
    valid = spec.config["data"]["valid"]
    many = [40.0, 35.0, 42.0, 5.0]
    found = standing(records(*many), valid)
    # two of the four: 5.0 in 3 of 6 choices, 35 in 2, 40 in 1
    assert found.last_doubling == pytest.approx((3 * 5 + 2 * 35 + 40) / 6 - 5)
    assert found.improves and in_words(found, spec).startswith(
        "further trials may improve the recommendation"
    )
    flat = standing(records(5.0, 5.0, 5.5, 6.0, 5.0), valid)
    assert flat.improves is False and "are not expected to improve" in in_words(flat, spec)
    assert "4 trials in a row have not improved it by as much" in in_words(flat, spec)
    few = standing(records(5.0, 5.0, 5.5), valid)
    assert few.improves is None and in_words(few, spec).startswith("too few trials have ended")
    stopped = [*records(40.0, 41.0), *(record(n, 1.0, "asha") for n in (2, 3))]
    assert standing(stopped, valid).last_doubling == 0  # stopped early: no better than the best
    document = outlook(records(*many), spec.model_copy(update={"patience": 3}))
    assert document["improvement_expected"] is True and document["says"].endswith("; patience: 0 of 3 trials")


def test_the_benchmark_ends_studies_as_the_rule_does_and_its_looks_are_those_of_confirm() -> None:
    assert benchmark.length(records(20.0, 22.0, 21.0, 1.0), 2) == 3
    assert benchmark.length(records(20.0, 22.0, 1.0, 21.0), 2) == 4
    rows = [row for row in benchmark.looks(20_000) if row["shape"] == 1]
    assert rows[0]["last_level"] == pytest.approx(Looks(5, 20).level(20), rel=0.1)
    assert [row["power"] < row["power_of_one_look"] + 0.01 for row in rows] == [True] * 4


# Studies that it ends


def test_a_study_ends_by_its_patience_and_interrupted_at_any_epoch_with_the_same_trials(
    tmp_path: Path,
) -> None:
    whole, cut, without = (tmp_path / name for name in ("whole", "cut", "without"))
    run(study_of(whole, 30, patience=4))
    run(study_of(without, 30))
    found, everything = told(Home(whole), "s"), told(Home(without), "s")
    assert 5 <= len(found) < 30 and found == everything[: len(found)]
    spec = make_spec_again(Home(whole))
    kept = load_study("s", home=whole).records()
    assert is_settled(kept, spec) and not is_settled(kept[:-1], spec)
    halted = study_of(cut, 30, patience=4)
    for _ in range(200):
        before = told(halted, "s") if folder_of(halted).optuna_db.exists() else []
        run(halted, 3)  # a driver for three epochs, then another
        if (now := told(halted, "s")) == before and all(t["state"] != "RUNNING" for t in now):
            break
    assert told(halted, "s") == found


def test_a_study_whose_patience_is_over_grows_with_a_larger_one(home: Home) -> None:
    study_of(home.path, 30, patience=4)
    run(home)
    count = len(told(home, "s"))
    ended(home)
    study = load_study("s", home=home.path)
    with pytest.raises(ConfigError, match=r"--patience 4 has ended the study 's'.*larger one"):
        checked(study, Change(trials=40))
    (wish,) = checked(study, Change(patience=8))
    assert ask(study.folder, wish) == "the study s now has patience 8"
    run(home)
    assert make_spec_again(home).patience == 8 and len(told(home, "s")) >= count + 4
    with pytest.raises(ConfigError, match="patience = 0"):
        checked(study, Change(patience=0))


class Heard(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def say(self, message: str) -> None:
        self.heard.append(message)


def test_the_driver_of_a_study_whose_patience_is_over_runs_nothing_and_notes_why(home: Home) -> None:
    study_of(home.path, 30, patience=4)
    run(home)
    count = len(told(home, "s"))
    folder, spec, progress = folder_of(home), make_spec_again(home), Heard()
    log = open_log(folder)
    driver = StudyRun(spec, folder, home, progress, open_tracker(log, spec, home))
    assert driver.run() == "finished" and not driver.has_more
    driver.records.close()
    log.close()
    (said,) = [line for line in progress.heard if line.startswith("patience 4: 4 trials in a row improved")]
    assert said.endswith(f"the study ends with {count} trials of 30")
    study = load_study("s", home=home.path)
    assert study.history()[-1]["what"] == said and len(study.records()) == count


def test_a_search_ends_says_why_and_status_shows_it(
    local_ray: None, readable: None, ready_home: Home, pictures: Path, ssl_tune: Command
) -> None:
    options = shapes_options(ready_home, pictures) | {"name": "s", "epochs": 4}
    words = [*words_of(options), "--patience", 1, "--scheduler", "none"]
    done = ssl_tune("search", *words)
    assert done.code == 0, done.err
    study = load_study("s", home=ready_home.path)
    trials = len(study.records())
    assert trials < 6 and study.status()["state"] == "finished"
    assert "patience 1: 1 trial in a row improved the recommendation by no more" in done.err
    assert f"the study ends with {trials} trials of 6" in study.status()["history"][-1]["what"]
    shown = json.loads(ssl_tune("status", "s", "--home", ready_home.path, "--json").out)["outlook"]
    assert shown["patience"] == 1 and shown["since_improvement"] == 1
    assert "; patience: 1 of 1 trials." in ssl_tune("status", "s", "--home", ready_home.path).out
