"""Spreads, intervals and comparisons against hand-computed values and SciPy's."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from tune.confirmation.document import comparison_document
from tune.confirmation.verdicts import sentences
from tune.findings.comparisons import Spread, compare_all, holm, paired_p, selection_luck


def test_a_spread_is_mean_and_sample_deviation() -> None:
    assert str(Spread((10.0, 12.0, 14.0))) == "12.00 ± 2.00"
    assert Spread((10.0, 12.0)).std == pytest.approx(2**0.5)
    assert Spread((7.0,)).std is None and str(Spread((7.0,))) == "7.00"


def test_the_interval_of_a_mean_is_students() -> None:
    # t(0.975, 2) = 4.3027: 12 +- 4.3027 * 2 / sqrt(3)
    assert Spread((10.0, 12.0, 14.0)).interval == pytest.approx((7.0317, 16.9683), abs=1e-3)
    values = tuple(np.random.default_rng(1).normal(20, 3, 5))
    expected = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert Spread(values).interval == pytest.approx(expected)
    assert Spread((10.0, 12.0)).interval is None  # too few to claim anything


def test_the_interval_of_a_paired_difference_is_that_of_the_paired_test() -> None:
    random = np.random.default_rng(2)
    for n in (3, 5, 20):
        one, other = random.normal(20, 3, n), random.normal(18, 3, n)
        (found,) = compare_all({"one": dict(enumerate(one)), "other": dict(enumerate(other))})
        expected = stats.ttest_rel(one, other).confidence_interval(0.95)
        assert found.difference.interval == pytest.approx((expected.low, expected.high))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("same", [0.0, 5.0, -5.0, 0.1])
def test_identical_differences_have_an_interval_without_width_and_no_warning(same: float) -> None:
    assert Spread((same,) * 4).interval == pytest.approx((same, same), abs=1e-12)
    assert paired_p([same] * 4) == (0.0 if same else 1.0)


def test_one_seed_has_neither_interval_nor_test() -> None:
    (found,) = compare_all({"one": {1: 10.0}, "other": {1: 12.0}})
    assert found.difference.values == (-2.0,) and found.difference.std is None
    assert found.difference.interval is None and found.p is None and not found.told_apart


def test_the_paired_test_is_scipys() -> None:
    random = np.random.default_rng(0)
    for n in (3, 5, 20):
        one, other = random.normal(20, 3, n), random.normal(18, 3, n)
        expected = stats.ttest_rel(one, other).pvalue
        assert paired_p([a - b for a, b in zip(one, other, strict=True)]) == pytest.approx(expected)
    # by hand: differences 1, 2, 3 have t = 2 / (1 / sqrt(3)) = 3.4641 on 2 degrees of freedom, p = 0.07418
    assert paired_p([1.0, 2.0, 3.0]) == pytest.approx(0.07418, abs=1e-5)
    assert paired_p([1.0, 2.0]) is None
    assert paired_p([-5.0, -5.0, -5.0]) == 0.0 and paired_p([0.0, 0.0, 0.0]) == 1.0


def test_holms_correction_is_its_own_definition() -> None:
    # the textbook's example: 0.01 * 4, 0.005 * ... in order of size, never falling
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == [1.0, 1.0] and holm([]) == [] and holm([0.2]) == [0.2]
    for values in itertools.permutations([0.001, 0.02, 0.02, 0.9]):
        slow = [
            max(min(1.0, sum(q >= p for q in values) * p) for p in values if p <= value) for value in values
        ]
        assert holm(values) == pytest.approx(slow)


def test_every_pair_is_compared_on_the_seeds_that_both_have() -> None:
    errors = {
        "0": {1: 10.0, 2: 11.0, 3: 12.5},
        "1": {1: 12.0, 2: 13.0, 3: 14.0},
        "s": {1: 20.0, 3: 22.0},  # the second seed turned NaN
    }
    found = {(c.one, c.other): c for c in compare_all(errors)}
    assert list(found) == [("0", "1"), ("0", "s"), ("1", "s")]
    assert found["0", "1"].difference.values == (-2.0, -2.0, -1.5)
    assert found["0", "s"].difference.values == (-10.0, -9.5)
    assert found["0", "s"].p is None and not found["0", "s"].told_apart
    p = paired_p((-2.0, -2.0, -1.5))
    assert found["0", "1"].p == p == found["0", "1"].adjusted  # the only one that can be tested
    assert found["0", "1"].told_apart


def test_the_correction_counts_every_comparison() -> None:
    random = np.random.default_rng(3)
    errors = {name: dict(enumerate(random.normal(20 + 2 * n, 1, 5))) for n, name in enumerate("abcd")}
    found = compare_all(errors)
    assert len(found) == 6
    expected = holm(
        [
            float(stats.ttest_rel(list(errors[c.one].values()), list(errors[c.other].values())).pvalue)
            for c in found
        ]
    )
    assert [c.adjusted for c in found] == pytest.approx(expected)
    assert [c.told_apart for c in found] == [p < 0.05 for p in expected]


def test_luck_is_what_fresh_seeds_do_worse() -> None:
    assert selection_luck(7.0, [8.0, 9.0, 8.5]) == pytest.approx(1.5)
    assert selection_luck(7.0, [6.0]) == -1.0


def document(errors: dict[str, list[float]], **more: object) -> dict[str, object]:
    """A confirmation as `tune.confirmation.confirm` writes it, from test errors alone."""
    by_seed = {who: dict(enumerate(values)) for who, values in errors.items()}
    rows = [
        {
            "who": who,
            "val_error": values,
            "test_error": values,
            "seconds": 2.0,
            "luck": None,
            "problems": [],
            "val_error_at_selection": 1.0,
        }
        for who, values in errors.items()
    ]
    trials = [who for who in errors if who.isdigit()]
    return {
        "rows": rows,
        "seeds": list(range(max(len(v) for v in errors.values()))),
        "baseline": next((who for who in errors if not who.isdigit()), None),
        "winner": min(trials, key=lambda who: sum(errors[who])),
        "comparisons": [comparison_document(c) for c in compare_all(by_seed)],
        **more,
    }


@pytest.mark.parametrize(
    ("method", "baseline", "says"),
    [
        ((10.0,), (20.0,), "-10.00 points of test error, n = 1; cannot tell below 3 seeds"),
        ((10.0, 10.0), (20.0, 20.0), "-10.00 points of test error, n = 2; cannot tell below 3 seeds"),
        # t(0.975, 2) = 4.3027; differences -3, -2, -1: 2 +- 4.3027 / sqrt(3) = 2.4841
        ((17.0, 18.0, 19.0), (20.0, 20.0, 20.0), "cannot be told .*-2.00 .*[-4.48, +0.48], n = 3"),
        # differences -12, -11, -10: the same spread, farther off
        ((8.0, 9.0, 10.0), (20.0, 20.0, 20.0), "beats .*-11.00 .*[-13.48, -8.52], n = 3"),
        ((32.0, 31.0, 30.0), (20.0, 20.0, 20.0), "is worse than .*+11.00 .*[+8.52, +13.48], n = 3"),
        # paired: seeds differ by far more than the methods do
        ((9.0, 49.1, 28.9), (20.0, 60.0, 40.0), "beats .*-11.00"),
        # no spread at all
        ((20.0, 20.0, 20.0), (20.0, 20.0, 20.0), "cannot be told .*+0.00 .*[+0.00, +0.00]"),
        ((15.0, 15.0, 15.0), (20.0, 20.0, 20.0), "beats .*-5.00 .*[-5.00, -5.00]"),
    ],
)
def test_a_verdict_claims_no_more_than_the_spread_carries(
    method: tuple[float, ...], baseline: tuple[float, ...], says: str
) -> None:
    words = sentences(document({"3": list(method), "supervised": list(baseline)}))[0]
    assert words.startswith("trial 3 ") and words.endswith(".") and "the untuned supervised baseline" in words
    place = 0
    for part in says.split(".*"):
        place = words.find(part.strip(), place)
        assert place >= 0, (part, words)


def test_configurations_are_told_apart_only_after_the_correction() -> None:
    # differences -0.5, -0.8, -0.4: p = 0.042 alone, 0.126 as the smallest of three
    close = {"1": [10.0, 10.1, 10.3], "2": [10.5, 10.9, 10.7], "supervised-tuned": [10.6, 10.4, 11.3]}
    words = sentences(document(close))
    alone = paired_p([a - b for a, b in zip(close["1"], close["2"], strict=True)])
    assert alone is not None and alone < 0.05
    assert "trials 1 and 2 cannot be told apart" in words[2] and "Holm's correction" in words[2]
    assert "trial 1 has the lowest val/error on the fresh seeds" in words[2]
    assert "after Holm's correction for 3 comparisons" in words[0]
    far = {
        "1": [10.0, 10.1, 10.3],
        "2": [30.5, 30.4, 30.9],
        "3": [30.3, 30.7, 30.8],
        "supervised": [50.1, 50.0, 50.3],
    }
    words = sentences(document(far))
    assert "trials 1 from 2, 1 from 3; not told apart: 2 and 3" in words[3]
    assert all("beats the untuned supervised baseline" in sentence for sentence in words[:3])


def test_below_three_seeds_nothing_is_claimed_among_configurations_either() -> None:
    words = sentences(document({"1": [10.0, 10.0], "2": [30.0, 30.0], "supervised": [50.0, 50.0]}))
    assert "which of trials 1 and 2 is better: cannot tell below 3 seeds." in words
    assert not any("beats" in sentence or "told apart" in sentence for sentence in words)


def test_overconfidence_is_told_from_ten_points_on() -> None:
    made = document({"1": [10.0, 11.0, 12.0], "supervised": [20.0, 21.0, 22.0]})
    assert not any("overconfident" in sentence for sentence in sentences(made))  # of an earlier version
    winner = made["rows"][0]  # type: ignore[index]
    winner |= {"val_overconfidence": [12.0, 20.0, 19.0], "val_ece": [15.0, 21.0, 21.0]}
    (told,) = [sentence for sentence in sentences(made) if "overconfident" in sentence]
    assert told.startswith(
        "trial 1 is overconfident: on the validation images its confidence is 17.0 points above"
    )
    assert "calibration error 19.0 points" in told
    winner["val_overconfidence"] = [9.0, 9.0, 11.0]
    assert not any("overconfident" in sentence for sentence in sentences(made))


def test_cost_luck_and_failures_are_told() -> None:
    made = document({"1": [10.0, 11.0, 12.0], "supervised": [20.0, 21.0, 22.0]})
    winner, baseline = made["rows"]  # type: ignore[misc, attr-defined]
    winner |= {"seconds": 6.0, "luck": 1.5, "val_error_at_selection": 9.5, "problems": ["nan"]}
    words = sentences(made)
    assert "a training costs: trial 1 6.0 s (3.0 times), the baseline 2.0 s." in words
    assert any("val/error 9.50 %, fresh training seeds give 11.00 ± 1.00 %" in w for w in words)
    assert any("flattered by 1.50 points." in w for w in words)
    assert "trial 1: 1 of 3 trainings turned NaN or infinite and are left out." in words
    assert math.isclose(baseline["seconds"], 2.0)
