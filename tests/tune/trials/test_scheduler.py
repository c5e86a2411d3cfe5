"""ASHA: where it looks, what it decides, and that its rungs survive a restart."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler

from tune.definition.rungs import expected_epochs, rungs
from tune.engine.scheduler import Rung, StudyASHA
from tune.trials.record import TrialRecord
from tune.worker.report_keys import ERROR, SSL_EPOCH

CONTINUE, STOP = "CONTINUE", "STOP"


@pytest.mark.parametrize(
    ("epochs", "places"),
    [
        (300, [11, 33, 100]),
        (81, [3, 9, 27]),
        (27, [3, 9]),
        (18, [2, 6]),
        (15, [2, 5]),
        (12, [2, 4]),
        (9, [3]),
        (6, [2]),
        (5, [2]),
        (4, [1]),
        (3, [1]),
        (1, [1]),
    ],
)
def test_rungs_are_thirds_of_the_budget(epochs: int, places: list[int]) -> None:
    assert rungs(epochs) == places


@pytest.mark.parametrize(
    ("epochs", "trials", "warmup", "expected"),
    [
        # 9 trials to their first rung, 3 to the second, 1 to the end
        (18, 9, 0, 9 * 2 + 3 * 4 + 1 * 12),
        # the warm-up comes before the first rung, and off the end
        (18, 9, 2, 9 * 4 + 3 * 4 + 1 * 10),
        (300, 27, 10, 27 * 21 + 9 * 22 + 3 * 67 + 1 * 190),
        # never less than one trial goes on
        (18, 1, 0, 18),
        # a rung that the warm-up leaves no room for is not reached
        (6, 3, 5, 3 * 6),
    ],
)
def test_expected_epochs_by_hand(epochs: int, trials: int, warmup: float, expected: float) -> None:
    assert expected_epochs(epochs, trials, warmup) == expected


def a_trial(number: int) -> Any:
    return SimpleNamespace(trial_id=f"ray-{number}", config={"trial": number})


def report(ssl_epoch: int | None, error: float) -> dict[str, Any]:
    """What Ray hands the scheduler of an epoch; without an ssl epoch it is one of the warm-up."""
    return {ERROR: error} | ({} if ssl_epoch is None else {SSL_EPOCH: ssl_epoch})


def filled(scheduler: AsyncHyperBandScheduler) -> dict[float, dict[str, float]]:
    return {milestone: dict(values) for milestone, values in scheduler._brackets[0]._rungs}


def the_record(number: int, errors: dict[int, float], last: int | None = None) -> TrialRecord:
    ssl_epoch = max(errors, default=None) if last is None else last
    return TrialRecord(str(number), "running", None, None, None, 0, ssl_epoch, 0.0, {}, intermediate=errors)


def histories(epochs: int, seed: int, trials: int = 25) -> list[tuple[int, int | None, float]]:
    """Reports of many trials in a random order of arrival, each with a warm-up of its own."""
    chance = random.Random(seed)
    left = {n: [None] * chance.randint(0, 3) + list(range(1, epochs)) for n in range(trials)}
    quality = {n: chance.uniform(5, 60) for n in left}
    arrivals = []
    while left:
        number = chance.choice(list(left))
        arrivals.append((number, left[number].pop(0), round(quality[number] + chance.gauss(0, 5), 1)))
        if not left[number]:
            del left[number]
    return arrivals


@pytest.mark.parametrize(("epochs", "seed"), [(27, 0), (27, 1), (54, 2), (81, 3), (18, 4)])
def test_decisions_are_those_of_rays_own_asha(epochs: int, seed: int) -> None:
    places = rungs(epochs)
    theirs = AsyncHyperBandScheduler(
        time_attr=SSL_EPOCH,
        metric=ERROR,
        mode="min",
        max_t=epochs,
        grace_period=places[0],
        reduction_factor=3,
        brackets=1,
        stop_last_trials=False,
    )
    # Ray takes the logarithm of 27 to base 3 for a little less than 3 and leaves out a rung: put it there.
    theirs._brackets[0]._rungs = [(place, {}) for place in reversed(places)]
    ours = StudyASHA(epochs)
    assert [m for m, _ in ours._brackets[0]._rungs] == places[::-1]
    decided: dict[int, str] = {}
    counts = {CONTINUE: 0, STOP: 0}
    for number, ssl_epoch, error in histories(epochs, seed):
        if decided.get(number) == STOP:
            continue
        trial, result = a_trial(number), report(ssl_epoch, error)
        if number not in decided:
            for scheduler in (ours, theirs):
                scheduler.on_trial_add(None, trial)
        decision = ours.on_trial_result(None, trial, result)
        assert decision == theirs.on_trial_result(None, trial, result), (number, ssl_epoch)
        decided[number] = decision
        counts[decision] += 1
    assert counts[STOP] >= 5 and list(decided.values()).count(CONTINUE) >= 1
    for (_, mine), (_, rays) in zip(ours._brackets[0]._rungs, theirs._brackets[0]._rungs, strict=True):
        assert [mine[str(n)] for n in decided if str(n) in mine] == [
            rays[f"ray-{n}"] for n in decided if f"ray-{n}" in rays
        ]


@pytest.mark.parametrize("digits", [0, 1, 12])
def test_a_rungs_quantile_is_numpys(digits: int) -> None:
    """The reference is what Ray calls; values that tie, and one that is not a number."""
    chance, rung = random.Random(digits), Rung()
    assert math.isnan(rung.quantile(0.5))
    for number in range(300):
        rung[str(number)] = math.nan if number == 7 else -round(chance.uniform(0, 100), digits)
        for eta in (2, 3, 4, 7):
            percent = (1 - 1 / eta) * 100
            assert rung.quantile(percent / 100) == np.nanpercentile(list(rung.values()), percent)


def test_filling_rungs_again_looks_at_each_value_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judging takes a quantile of all values in a rung; of earlier sittings nothing is judged again."""
    records = [the_record(n, {epoch: float(n) for epoch in range(1, 20)}) for n in range(30)]
    bracket = type(StudyASHA(27)._brackets[0])
    monkeypatch.setattr(bracket, "cutoff", lambda self, recorded: pytest.fail("judged again"))
    scheduler = StudyASHA(27, records)
    assert [len(values) for values in filled(scheduler).values()] == [30, 30]


@pytest.mark.parametrize("seed", range(4))
def test_rungs_are_filled_again_as_they_were(seed: int) -> None:
    straight = StudyASHA(27)
    stopped: set[int] = set()
    seen: dict[int, dict[int, float]] = {}
    arrivals = histories(27, seed)
    for number, ssl_epoch, error in arrivals[: len(arrivals) // 2]:
        if number not in stopped:
            if straight.on_trial_result(None, a_trial(number), report(ssl_epoch, error)) == STOP:
                stopped.add(number)
            if ssl_epoch is not None:
                seen.setdefault(number, {})[ssl_epoch] = error
    again = StudyASHA(27, [the_record(number, errors) for number, errors in sorted(seen.items())])
    assert filled(again) == filled(straight) and any(filled(again).values())
    for number, ssl_epoch, error in arrivals[len(arrivals) // 2 :]:
        if number not in stopped:
            result, trial = report(ssl_epoch, error), a_trial(number)
            decision = straight.on_trial_result(None, trial, result)
            assert again.on_trial_result(None, trial, result) == decision
            stopped |= {number} if decision == STOP else set()


def test_a_value_whose_driver_died_while_noting_it_is_judged_when_it_is_reported_again() -> None:
    earlier = [the_record(0, {1: 20.0, 2: 20.0}), the_record(1, {1: 60.0, 2: 60.0}, last=1)]
    scheduler = StudyASHA(6, earlier)
    assert filled(scheduler) == {2: {"0": -20.0}}
    assert scheduler.on_trial_result(None, a_trial(1), report(2, 60.0)) == STOP


def test_nothing_is_decided_during_the_warmup() -> None:
    scheduler = StudyASHA(6, [the_record(0, {1: 5.0, 2: 5.0})])
    trial = a_trial(1)
    for _ in range(8):
        assert scheduler.on_trial_result(None, trial, report(None, 99.0)) == CONTINUE
    assert scheduler.on_trial_result(None, trial, report(1, 99.0)) == CONTINUE
    assert scheduler.on_trial_result(None, trial, report(2, 99.0)) == STOP


def test_an_end_without_an_epoch_is_no_report() -> None:
    scheduler = StudyASHA(6, [the_record(0, {2: 5.0})])
    assert scheduler.on_trial_result(None, a_trial(1), {"stop_reason": "nan"}) == CONTINUE
    scheduler.on_trial_complete(None, a_trial(1), {"stop_reason": "nan"})
    assert filled(scheduler) == {2: {"0": -5.0}}


def test_the_first_trial_and_equals_go_on() -> None:
    scheduler = StudyASHA(6)
    assert scheduler.on_trial_result(None, a_trial(0), report(2, 99.0)) == CONTINUE
    assert scheduler.on_trial_result(None, a_trial(1), report(2, 99.0)) == CONTINUE
    assert scheduler.on_trial_result(None, a_trial(2), report(2, 99.1)) == STOP


def test_a_trial_is_judged_once_at_a_rung_also_when_it_reports_again() -> None:
    scheduler = StudyASHA(6, [the_record(0, {2: 50.0}), the_record(1, {2: 90.0})])
    scheduler.on_trial_result(None, a_trial(2), report(2, 10.0))
    for again in (2, 3):  # a worker that was started again repeats its reports
        assert scheduler.on_trial_result(None, a_trial(1), report(again, 90.0)) == CONTINUE
    assert filled(scheduler) == {2: {"0": -50.0, "1": -90.0, "2": -10.0}}


def test_a_last_report_that_reached_a_rung_is_entered_when_the_run_ends_with_it() -> None:
    scheduler = StudyASHA(6)
    trial = a_trial(0)
    scheduler.on_trial_add(None, trial)
    scheduler.on_trial_complete(None, trial, report(2, 40.0))
    scheduler.on_trial_complete(None, trial, report(2, 40.0))
    scheduler.on_trial_remove(None, trial)
    assert filled(scheduler) == {2: {"0": -40.0}}


def test_decisions_do_not_depend_on_rays_ids() -> None:
    one, other = StudyASHA(6), StudyASHA(6)
    for number, error in enumerate((30.0, 20.0, 40.0)):
        first = SimpleNamespace(trial_id=f"a{number}", config={"trial": number})
        second = SimpleNamespace(trial_id=f"b{9 - number}", config={"trial": number})
        assert one.on_trial_result(None, first, report(2, error)) == other.on_trial_result(
            None, second, report(2, error)
        )
    assert filled(one) == filled(other)
