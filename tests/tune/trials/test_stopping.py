"""The scheduler as an option: which rungs and brackets, the median rule, none; each survives a restart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.tune.schedulers import MedianStoppingRule

from benchmarks.simulated import Driver
from ssl_core.system.errors import ConfigError
from tests.tune.engine.test_kill_points import EPOCHS, make_spec_again, outcome
from tests.tune.helpers import Done, make_spec, make_study, told
from tests.tune.trials.test_scheduler import CONTINUE, STOP, a_trial, histories, report, the_record
from tune.definition.rungs import Stopping, expected_ends, expected_epochs, rungs, stopping_of
from tune.engine.scheduler import StudyASHA, StudyFIFO, StudyMedian, TrialNumber, make_scheduler
from tune.store.home import Home
from tune.worker.report_keys import ERROR, SSL_EPOCH


@pytest.mark.parametrize(
    ("epochs", "eta", "grace", "places"),
    [
        (300, 3, None, [11, 33, 100]),
        (300, 4, None, [5, 19, 75]),
        (64, 2, None, [8, 16, 32]),
        (300, 3, 4, [4, 11, 33, 100]),
        (300, 3, 11, [11, 33, 100]),
        (300, 3, 20, [20, 33, 100]),
        (300, 3, 150, [150]),
        (9, 3, 1, [1, 3]),
    ],
)
def test_rungs_follow_eta_and_grace(epochs: int, eta: int, grace: int | None, places: list[int]) -> None:
    assert rungs(epochs, eta, grace) == places


def test_each_further_bracket_lacks_the_lowest_rung_that_is_left() -> None:
    stopping = Stopping(brackets=3)
    assert stopping.by_bracket(81) == [[3, 9, 27], [9, 27], [27]]
    assert stopping.shares(81) == pytest.approx([0.6652, 0.2447, 0.09], abs=1e-3)  # e^3 : e^2 : e
    # All 27 trials in the first bracket run 27 * 3 + 9 * 6 + 3 * 18 + 1 * 54 epochs.
    assert expected_epochs(81, 27, 0) == 81 + 54 + 54 + 54
    assert expected_epochs(81, 27, 0, stopping) > expected_epochs(81, 27, 0)
    assert (
        expected_epochs(81, 27, 0, Stopping(scheduler="none"))
        == 27 * 81
        == 81 * expected_ends(81, 27, 0, Stopping(scheduler="none"))
    )
    # The better half goes on from the third epoch.
    assert expected_epochs(81, 10, 0, Stopping(scheduler="median")) == 10 * 3 + 5 * 78


def test_a_trial_s_bracket_follows_from_the_study_s_seed_and_its_number(home: Home) -> None:
    spec = make_spec(home, epochs=81, brackets=3)
    one, again = (make_scheduler(spec, [], ()) for _ in range(2))
    other = make_scheduler(make_spec(home, epochs=81, brackets=3, seed=1), [], ())
    assert isinstance(one, StudyASHA) and isinstance(again, StudyASHA) and isinstance(other, StudyASHA)
    drawn = [one.bracket_of(n) for n in range(600)]
    assert drawn == [again.bracket_of(n) for n in range(600)]
    assert drawn != [other.bracket_of(n) for n in range(600)]
    counts = Counter(drawn)
    for bracket, share in enumerate(stopping_of(spec).shares(81)):
        assert abs(counts[bracket] / 600 - share) < 0.06
    number = next(n for n in range(600) if drawn[n] == 2)
    trial = a_trial(number)
    one.on_trial_add(None, trial)
    for ssl_epoch in (3, 9):
        assert one.on_trial_result(None, trial, report(ssl_epoch, 90.0)) == CONTINUE
    assert [dict(values) for _, values in one._brackets[2]._rungs] == [{}]
    one.on_trial_result(None, trial, report(27, 90.0))
    assert [dict(values) for _, values in one._brackets[2]._rungs] == [{str(number): -90.0}]


@pytest.mark.parametrize("seed", range(3))
def test_the_median_rule_decides_as_rays_own_and_is_filled_again_as_it_was(seed: int) -> None:
    theirs = MedianStoppingRule(time_attr=SSL_EPOCH, metric=ERROR, mode="min", grace_period=2)
    theirs._on_insufficient_samples = lambda *_: CONTINUE  # type: ignore[method-assign]
    ours, decided, seen = StudyMedian(2), dict[int, str](), dict[int, dict[int, float]]()
    trials = {n: a_trial(n) for n in range(100)}
    for number, ssl_epoch, error in histories(18, seed):
        if decided.get(number) == STOP:
            continue
        result = report(ssl_epoch, error)
        decision = ours.on_trial_result(None, trials[number], result)
        assert decision == theirs.on_trial_result(None, TrialNumber(number), result)  # type: ignore[arg-type]
        if ssl_epoch is not None:
            seen.setdefault(number, {})[ssl_epoch] = error
        again = StudyMedian(2, [the_record(n, errors) for n, errors in sorted(seen.items())])
        assert {k: v for k, v in again._results.items() if v} == {
            str(k): [{SSL_EPOCH: t, ERROR: e} for t, e in v.items()] for k, v in seen.items()
        }
        # A worker that was started again repeats its report: it is judged once.
        assert ours.on_trial_result(None, trials[number], result) == CONTINUE
        decided[number] = decision
    assert list(decided.values()).count(STOP) >= 3 and CONTINUE in decided.values()


def test_without_early_stopping_a_trial_ends_where_somebody_stops_it_alone() -> None:
    asked: set[int] = set()
    for scheduler in (StudyFIFO(asked), StudyMedian(1, stop_asked=asked), StudyASHA(6, stop_asked=asked)):
        asked.clear()
        assert scheduler.on_trial_result(None, a_trial(3), report(2, 99.0)) == CONTINUE
        asked.add(3)
        assert scheduler.on_trial_result(None, a_trial(3), report(3, 99.0)) == STOP


@pytest.mark.parametrize(
    "options",
    [{"scheduler": "median"}, {"scheduler": "none"}, {"brackets": 2, "grace": 1}, {"eta": 2}],
    ids=str,
)
def test_a_study_that_is_resumed_again_and_again_stops_the_same_trials(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    found = []
    for name, budget in (("straight", float("inf")), ("resumed", 11)):
        home = Home(tmp_path / name)
        make_study(home, epochs=EPOCHS, trials=12, concurrent=1, seed=2, **options)
        while True:
            driver = Driver(make_spec_again(home), home, outcome)
            driver.run(budget)
            over = driver.records.asked() == 12 and not driver.records.unfinished()
            driver.close()
            if over:
                break
        found.append(told(home, "s"))
    assert found[0] == found[1] and len(found[0]) == 12
    reasons = {r["stop_reason"] for r in found[0]}
    assert reasons <= {"completed", "nan", options.get("scheduler", "asha")}
    assert (options.get("scheduler", "asha") in reasons) == (options.get("scheduler") != "none")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--scheduler", "hyperband"), "unknown scheduler 'hyperband'. Known: asha, median, none"),
        (("--brackets", "3"), "--brackets 3: runs of 12 epochs have 2 rungs"),
        (("--brackets", "2", "--scheduler", "median"), "--brackets 2: --scheduler median has none"),
        (("--grace", "12"), "--grace 12: a run has 12 epochs"),
        (("--eta", "1"), "eta"),
    ],
)
def test_a_scheduler_that_cannot_be_is_refused(
    ssl_tune: Callable[..., Done], home: Home, words: tuple[str, ...], says: str
) -> None:
    done = ssl_tune("search", "--epochs", "12", *words)
    assert done.code == 2 and says in done.err, done
    assert not home.path.exists()


def test_a_study_of_before_has_the_scheduler_that_there_was(home: Home) -> None:
    spec = make_spec(home, epochs=12).model_copy(update={"grace": None})
    assert stopping_of(spec) == Stopping() and stopping_of(spec).rungs(12) == rungs(12) == [2, 4]
    with pytest.raises(ConfigError, match="Take at most 2"):
        make_spec(home, epochs=12, brackets=3)
