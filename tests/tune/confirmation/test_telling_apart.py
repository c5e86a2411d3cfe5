"""How many seeds tell two configurations apart, and a confirmation that goes on until it can: against simulation."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from ssl_core.system.errors import ConfigError
from tests.tune.helpers import copy_home
from tune.api.confirming import run_confirm
from tune.comparison.confirm import answer
from tune.confirmation.confirm import confirm
from tune.confirmation.document import comparison_document
from tune.confirmation.looks import Looks, looks_of
from tune.confirmation.power import MOST_SEEDS, plan_of, power_of, resolved, seeds_needed
from tune.confirmation.verdicts import planned, sentences
from tune.engine.progress import Progress
from tune.findings import comparisons
from tune.findings.comparisons import LEVEL, Spread, compare_all
from tune.store.home import Home

# How many seeds


def test_the_power_is_that_of_the_noncentral_t_distribution_and_of_simulated_tests() -> None:
    for effect, seeds, level in itertools.product((0.0, 0.3, 1.0, 2.0), (3, 5, 20), (0.05, 0.05 / 3)):
        limit, shift = stats.t.isf(level / 2, seeds - 1), effect * seeds**0.5
        exact = stats.nct.sf(limit, seeds - 1, shift) + stats.nct.cdf(-limit, seeds - 1, shift)
        if not np.isnan(exact):  # SciPy's cannot be computed for the largest shifts
            assert power_of(effect, seeds, level) == pytest.approx(exact, abs=1e-5)
    drawn = np.random.default_rng(0).normal(-1.0, 1.25, (20_000, 12))  # an effect of -0.8
    found = (stats.ttest_1samp(drawn, 0.0, axis=1).pvalue < 0.05).mean()
    assert power_of(-0.8, 12) == pytest.approx(found, abs=3 * (found * (1 - found) / 20_000) ** 0.5)
    assert power_of(30.0, 3, 0.05 / 21) > power_of(10.0, 3, 0.05 / 21) > 0.4  # there, too
    assert power_of(0.0, 7) == pytest.approx(LEVEL, abs=1e-6)


def test_the_seeds_needed_are_those_of_the_tables() -> None:
    # Paired t-test, two-sided, level 5 %, power 80 %: G*Power 3.1 has 199, 34, 15 and 10 pairs for these effects.
    assert [seeds_needed(effect) for effect in (0.2, 0.5, 0.8, 1.0)] == [None, 34, 15, 10]
    assert seeds_needed(100.0) == 3 and seeds_needed(0.0) is None
    for effect in (0.4, -0.9, 1.7):
        needed = seeds_needed(effect, 0.01)
        assert needed is not None
        assert power_of(effect, needed, 0.01) >= 0.8 > power_of(effect, needed - 1, 0.01)
    assert power_of(resolved(5), 5) == pytest.approx(0.8, abs=1e-6)
    assert seeds_needed(resolved(34)) == 34


def document(errors: dict[str, list[float]], looks: Looks | None = None) -> dict[str, Any]:
    """A confirmation as `tune.confirmation.confirm` writes it, from validation errors that are the test errors, too."""
    by_seed = {who: dict(enumerate(values)) for who, values in errors.items()}
    rows = [
        {"who": who, "val_error": v, "test_error": v, "seconds": None, "luck": None, "problems": []}
        for who, v in errors.items()
    ]
    trials = [who for who in errors if who.isdigit()]
    winner = min(trials, key=lambda who: sum(errors[who]))
    baseline = next((who for who in errors if not who.isdigit()), None)
    corrected = None if looks is None else looks.corrected
    comparisons = [comparison_document(c, looks) for c in compare_all(by_seed, corrected)]
    made = {
        "rows": rows,
        "seeds": list(range(len(errors[winner]))),
        "baseline": baseline,
        "winner": winner,
        "comparisons": comparisons,
        "plan": plan_of(rows, comparisons, winner, "val/error", baseline),
    }
    if looks is not None:
        made["looks"] = {"first": looks.first, "most": looks.most, "level": looks.level(looks.most)}
    return made


def test_the_plan_is_for_the_second_best_and_the_baseline_as_far_as_they_are_not_told_apart() -> None:
    made = document(
        {
            "7": [12.0, 12.4, 14.0, 13.2],
            "2": [12.0, 11.4, 13.9, 11.9],  # best: by 0.6 ± 0.61
            "3": [15.0, 15.1, 16.0, 14.0],
            "supervised": [30.0, 29.0, 31.0, 28.0],
        }
    )
    (needs,) = made["plan"]
    differences = [0.0, -1.0, -0.1, -1.3]
    assert (needs["one"], needs["other"], needs["n"]) == ("2", "7", 4)
    assert needs["difference"] == pytest.approx(np.mean(differences))
    assert needs["std"] == pytest.approx(np.std(differences, ddof=1))
    assert needs["level"] == pytest.approx(0.05 / 6)  # Holm's factor for the smallest of six
    effect = float(np.mean(differences) / np.std(differences, ddof=1))
    assert needs["seeds"] == seeds_needed(effect, 0.05 / 6) == 18
    (said,) = [each for each in sentences(made) if each.startswith("to tell ")]
    assert said.startswith("to tell trial 2 and trial 7 apart, about 18 seeds each would be needed")
    assert "(-0.60 ± 0.65 points, paired t-test, level 0.83 %, power 80 %): --seeds 18." in said
    assert f"the 4 seeds of now tell a difference of {needs['resolves']:.1f} points." in said


def test_one_configuration_is_planned_against_the_baseline_and_what_no_number_tells_is_said() -> None:
    made = document({"1": [10.0, 12.0, 11.0, 9.0], "supervised": [11.0, 10.0, 9.1, 12.0]})
    (needs,) = made["plan"]
    assert needs["other"] == "supervised" and needs["level"] == LEVEL and needs["seeds"] is None
    (said,) = [each for each in sentences(made) if each.startswith("to tell ")]
    assert "to tell trial 1 and the untuned supervised baseline apart, more than 100 seeds each" in said
    assert "no reasonable number" in said and "--seeds" not in said
    same = document({"1": [10.0, 12.0, 11.0], "2": [10.0, 12.0, 11.0]})
    assert same["plan"][0]["seeds"] is None and same["plan"][0]["resolves"] == 0
    assert "the same test error on each seed" in planned(same["plan"][0], str)
    assert (
        document({"1": [10.0, 12.0], "2": [13.0, 19.0]})["plan"] == []
    )  # two seeds say little of the spread
    assert document({"1": [10.0, 12.0, 11.0], "2": [30.0, 32.1, 31.0]})["plan"] == []  # told apart


def test_a_comparison_s_answer_is_a_plan_for_its_methods() -> None:
    errors = {
        "supervised": [30.0, 29.0, 31.0, 28.0],
        "vat": [12.0, 12.4, 14.0, 13.2],
        "fixmatch": [12.0, 11.4, 13.9, 11.9],
    }
    rows = [{"who": who, "val_error": v, "test_error": v, "problems": []} for who, v in errors.items()]
    comparisons = [
        comparison_document(c)
        for c in compare_all({who: dict(enumerate(values)) for who, values in errors.items()})
    ]
    made = {
        "rows": rows,
        "seeds": [1, 2, 3, 4],
        "baseline": "supervised",
        "winner": "fixmatch",
        "objective": "val/error",
        "comparisons": comparisons,
        "plan": plan_of(rows, comparisons, "fixmatch", "val/error", "supervised"),
    }
    (said,) = [each for each in answer(made) if each.startswith("to tell ")]
    needed = seeds_needed(0.6 / float(np.std([0.0, 1.0, 0.1, 1.3], ddof=1)), 0.05 / 3)
    assert said.startswith(f"to tell fixmatch and vat apart, about {needed} seeds each")
    assert f"--confirm-seeds {needed}. As it is" in said


# Looks after each seed


def statistics(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two-sided p-values of paired t-tests on the first n differences of each row, for every n from 2 on."""
    found = []
    for n in range(2, differences.shape[1] + 1):
        part = differences[:, :n]
        spread = part.std(axis=1, ddof=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.abs(part.mean(axis=1)) / spread * n**0.5
        found.append(np.where(spread > 0, 2 * stats.t.sf(np.nan_to_num(t), n - 1), part[:, 0] == 0))
    return np.array(found).T  # (rows, seeds - 1)


def share_told_apart(differences: NDArray[np.float64], looks: Looks) -> float:
    """In which share of the rows one of the looks finds a difference."""
    p = statistics(differences)[:, looks.first - 2 :]
    levels = np.array([looks.level(n) for n in range(looks.first, looks.most + 1)])
    return float((p <= levels).any(axis=1).mean())


@pytest.mark.parametrize(("first", "most"), [(3, 10), (5, 20), (10, 40)])
def test_all_looks_together_find_a_difference_between_equals_in_5_percent(first: int, most: int) -> None:
    sequences, looks = 20_000, Looks(first, most)
    margin = 3 * (LEVEL * (1 - LEVEL) * (1 / sequences + 1 / 100_000)) ** 0.5  # of both simulations
    drawn = np.random.default_rng(first).normal(0.0, 1.7, (sequences, most))
    assert share_told_apart(drawn, looks) == pytest.approx(LEVEL, abs=margin)
    uncorrected = (statistics(drawn)[:, first - 2 :] < LEVEL).any(axis=1).mean()
    assert uncorrected > 0.15  # what it would be without the correction


def test_the_error_rate_holds_for_errors_that_are_counts_of_images() -> None:
    """Two equal configurations of 20 % error, which fail on many of the same of 360 test images."""
    random = np.random.default_rng(7)
    both = random.binomial(360, 0.12, (20_000, 20, 1))
    errors = 100 * (both + random.binomial(360, 0.08, (20_000, 20, 2))) / 360
    assert share_told_apart(errors[..., 0] - errors[..., 1], Looks(5, 20)) < LEVEL + 0.005


def test_the_error_rate_holds_for_the_family_of_all_pairs_whenever_one_stops() -> None:
    """Four equal configurations; Holm rejects something where the smallest corrected p-value is below level / pairs."""
    looks, sequences = Looks(4, 12), 5_000
    random = np.random.default_rng(1)
    seeds = random.normal(0, 2.0, (sequences, 12, 1))  # what they share
    errors = seeds + random.normal(0, 1.0, (sequences, 12, 4))
    pairs = list(itertools.combinations(range(4), 2))
    found = np.zeros(sequences, dtype=bool)
    for one, other in pairs:
        p = statistics(errors[..., one] - errors[..., other])[:, looks.first - 2 :]
        for place, n in enumerate(range(looks.first, looks.most + 1)):
            close = np.flatnonzero(
                p[:, place] < looks.level(n)
            )  # none else can be below a sixth of the level
            found[close] |= [looks.corrected(each, n) < LEVEL / len(pairs) for each in p[close, place]]
    assert found.mean() <= LEVEL + 3 * (LEVEL * (1 - LEVEL) / sequences) ** 0.5
    assert found.mean() > 0.01  # the test can fail


def test_a_large_difference_ends_it_early() -> None:
    looks = Looks(5, 20)
    drawn = np.random.default_rng(3).normal(1.2, 1.0, (5_000, 20))
    p = statistics(drawn)[:, looks.first - 2 :]
    hit = p <= np.array([looks.level(n) for n in range(5, 21)])
    ends = np.where(hit.any(axis=1), hit.argmax(axis=1) + 5, 20)
    assert hit.any(axis=1).mean() > 0.99 and ends.mean() < 10


def test_a_corrected_p_value_is_what_the_level_says_and_grows_with_the_looks() -> None:
    looks = Looks(5, 20)
    for n in (5, 11, 20):
        assert looks.corrected(looks.level(n), n) <= LEVEL < looks.corrected(1.01 * looks.level(n), n)
    assert looks.level(10) == pytest.approx(looks.level(20) / 2)
    assert looks.corrected(0.01, 5) > looks.corrected(0.01, 20) > 0.01
    assert looks.corrected(0.0, 5) == pytest.approx(1e-5, rel=0.01)
    assert looks.corrected(1e-9, 4) == 1.0  # a training without a result: the pair has not been looked at yet
    assert Looks(19, 20).level(20) > Looks(3, 20).level(20)


def test_comparisons_are_corrected_for_the_looks_and_their_intervals_go_with_it() -> None:
    looks = Looks(5, 10)
    errors = {"1": [10.0, 11.0, 10.5, 9.8, 10.1], "2": [10.9, 12.4, 11.2, 10.1, 11.8]}
    once, often = document(errors), document(errors, looks)
    (plain,), (strict,) = once["comparisons"], often["comparisons"]
    assert plain["told_apart"] and not strict["told_apart"]
    assert strict["p"] == plain["p"] and strict["p_holm"] == looks.corrected(plain["p"], 5)
    differences = tuple(a - b for a, b in zip(errors["1"], errors["2"], strict=True))
    assert strict["interval"] == list(Spread(differences).interval_at(looks.level(5)) or ())
    assert strict["interval"][0] < plain["interval"][0] < plain["interval"][1] < 0 < strict["interval"][1]
    said = " ".join(sentences(often))
    assert "ended after 5 seeds of at most 10" in said and "looked after each seed from 5 on" in said
    assert not any("looked" in each for each in sentences(once))


def test_numbers_between_which_there_are_no_looks_are_refused() -> None:
    assert looks_of(5, None) is None and looks_of(1, None) is None
    assert looks_of(3, 8) == Looks(3, 8)
    for seeds, most, says in (
        (2, 9, "seeds = 2"),
        (5, 5, "until_told_apart = 5"),
        (5, MOST_SEEDS + 1, "100"),
    ):
        with pytest.raises(ConfigError, match=says):
            looks_of(seeds, most)


# The confirmation itself


class HaltedError(Exception):
    """A confirmation that ends in the middle."""


def test_a_confirmation_goes_on_seed_by_seed_and_ends_where_an_uninterrupted_one_does(
    finished: Home, readable: None, no_figures: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No three seeds tell anything apart, whatever these trainings come to: it goes on to the last seed.
    monkeypatch.setattr(comparisons, "LEVEL", 1e-9)
    homes = [copy_home(finished, tmp_path / name) for name in ("whole", "halted")]
    options: dict[str, Any] = {"seeds": 3, "until_told_apart": 4, "baseline": "plain"}
    heard: list[str] = []
    whole = confirm("shapes", home=homes[0].path, say=heard.append, **options)
    looks = [line for line in heard if line.startswith("after ")]
    seeds = len(whole["seeds"])
    assert looks and seeds == 3 + len(looks) == 4
    assert whole["looks"] == {"first": 3, "most": 4, "level": Looks(3, 4).level(4)}
    assert [len(row["test_error"]) for row in whole["rows"]] == [seeds, seeds]

    def halting(line: str) -> None:
        if ("seed 2" in line and "supervised" in line) or line.startswith("after 3"):
            raise HaltedError

    for _ in range(2):
        with pytest.raises(HaltedError):
            confirm("shapes", home=homes[1].path, say=halting, **options)
    again = run_confirm("shapes", homes[1], Progress(), **options)
    timeless = [
        {**d, "rows": [{**r, "seconds": 0} for r in d["rows"]], "verdict": ()} for d in (whole, again)
    ]
    assert timeless[0] == timeless[1]
    read = homes[1].test_readings.read_text().splitlines()
    assert len(read) == 2 * seeds  # once for each model, however often it was begun
