"""What is expected of the recommended trial on other images, against draws from the model that it is derived from."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tune.findings.outlook.expected import NORMAL_90, beliefs, log_odds, percent


def test_log_odds_add_half_an_image_and_percent_takes_them_back() -> None:
    assert log_odds([0, 10, 100], 50) == pytest.approx(
        [math.log(0.5 / 50.5), math.log(5.5 / 45.5), math.log(50.5 / 0.5)]
    )
    assert percent(math.log(5.5 / 45.5)) == pytest.approx(100 * 5.5 / 51)


def test_one_trial_is_believed_as_measured_within_the_binomial_deviation() -> None:
    found = beliefs([20.0], 50, correlation=0.5)
    share = 10.5 / 51
    low, middle, high = found.interval(0)
    assert middle == pytest.approx(100 * share)
    deviation = math.sqrt(1 / (50 * share * (1 - share)))
    odds = math.log(share / (1 - share))
    assert low == pytest.approx(percent(odds - NORMAL_90 * deviation))
    assert high == pytest.approx(percent(odds + NORMAL_90 * deviation))
    assert found.chance_of_better(0) is None


def test_equal_trials_are_drawn_to_their_mean_and_each_is_as_likely_the_best() -> None:
    found = beliefs([10.0, 12.0, 10.0, 12.0], 50, correlation=0.5)  # less apart than chance puts them
    assert np.ptp(found.mean) < 0.4 * np.ptp(log_odds([10.0, 12.0], 50))
    chances = [found.chance_of_better(place) for place in range(4)]
    assert sum(1 - chance for chance in chances if chance is not None) == pytest.approx(1, abs=0.01)
    assert all(0.65 < chance < 0.85 for chance in chances if chance is not None)


def test_trials_that_are_far_apart_stay_where_they_were_measured() -> None:
    errors = [5.0, 30.0, 60.0, 90.0]
    found = beliefs(errors, 2000, correlation=0.5)
    assert [percent(m) for m in found.mean] == pytest.approx(errors, abs=0.3)
    assert found.chance_of_better(0) == pytest.approx(0, abs=1e-6)
    assert found.chance_of_better(3) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("images", "spread", "trials"), [(50, 0.3, 8), (50, 0.5, 20), (500, 0.3, 20)])
def test_the_interval_of_the_lowest_holds_in_nine_of_ten_and_the_chance_is_calibrated(
    images: int, spread: float, trials: int
) -> None:
    """Studies drawn from the model: errors on images of which half the hardness is common to all trials."""
    rng = np.random.default_rng(0)
    held, said, true = [], [], []
    for _ in range(600):
        theta = -2 + spread * rng.standard_normal(trials)
        variance = (1 + np.exp(-theta)) * (1 + np.exp(theta)) / images
        y = theta + math.sqrt(0.5 * variance.mean()) * rng.standard_normal()
        y = y + np.sqrt(0.5 * variance) * rng.standard_normal(trials)
        errors = np.rint(images / (1 + np.exp(-y))) * 100 / images
        found, best = beliefs(list(errors), images, correlation=0.5), int(errors.argmin())
        low, _, high = found.interval(best)
        held.append(low <= percent(theta[best]) <= high)
        said.append(found.chance_of_better(best))
        true.append(theta.argmin() != best)
    assert 0.85 <= np.mean(held) <= 0.95
    assert np.mean(said) == pytest.approx(np.mean(true), abs=0.08)
