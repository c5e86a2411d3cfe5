"""The benchmark of the search: what a curve answers, what regret is, how repetitions are paired."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from optuna.samplers import RandomSampler
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search.optuna import OptunaSearch

from benchmarks import search_quality
from benchmarks.record_curves import EPOCHS, Curve
from benchmarks.search_quality import CONTENDERS, OWN, RANDOM, STOCK, Course, pairings
from benchmarks.stock_search import HELD, METRIC, NO_MODEL, SEEN, Recorded, StockSearch
from tune.trials.record import TrialRecord


def curve(number: int, seen: float, held: float, *, lr: float = 0.03, epochs: int = EPOCHS) -> Curve:
    """One whose error has its last value from the start."""
    params = {"pseudo_label.threshold": 0.9, "lr": lr, "weight_decay": 5e-4, "warmup_share": 0.2}
    errors = (seen,) * epochs, (seen / 100,) * epochs, (held,) * epochs
    return Curve(number, params, 5, 1.0, *errors)


@pytest.fixture
def recorded() -> Recorded:
    """Three configurations that differ in the learning rate, and one of a rate that diverges."""
    curves = [curve(0, 4, 9, lr=0.01), curve(1, 6, 7, lr=0.03), curve(2, 20, 22, lr=0.09)]
    return Recorded([*curves, curve(3, 50, 50, lr=0.2, epochs=2)])


def completed(lr: float, val_error: float) -> TrialRecord:
    """A trial of that learning rate that ran to its end."""
    params = {**curve(0, 0, 0).params, "lr": lr, "warmup_epochs": 5}
    record = TrialRecord("0", "completed", None, val_error, val_error / 100, EPOCHS, EPOCHS - 5, 1.0, params)
    return record


@pytest.mark.parametrize(
    ("lr", "number"), [(0.01, 0), (0.016, 0), (0.019, 1), (0.05, 1), (0.06, 2), (0.2, 3)]
)
def test_a_configuration_is_answered_by_the_nearest_curve_on_the_axis_of_the_space(
    recorded: Recorded, lr: float, number: int
) -> None:
    """The learning rate's axis is logarithmic: between 0.01 and 0.03 the middle is 0.0173, not 0.02."""
    assert recorded.nearest({**curve(0, 0, 0).params, "lr": lr, "warmup_epochs": 5}).number == number


def test_regret_is_the_recommended_curve_s_end_less_the_best_end(recorded: Recorded) -> None:
    assert recorded.regret([completed(0.03, 6), completed(0.09, 20)]) == {SEEN: 6 - 4, HELD: 7 - 7}
    assert recorded.regret([completed(0.03, 6), completed(0.01, 4)]) == {SEEN: 0, HELD: 9 - 7}
    assert recorded.regret([]) == {SEEN: NO_MODEL - 4, HELD: NO_MODEL - 7}
    assert recorded.floor() == 9 - 7  # the lowest validation error is curve 0's


def test_a_run_that_diverges_leaves_no_model(recorded: Recorded) -> None:
    assert recorded.final(recorded.curves[3], SEEN) == recorded.final(recorded.curves[3], HELD) == NO_MODEL


def stock(recorded: Recorded, concurrent: int) -> StockSearch:
    """Random search without early stopping."""
    space = recorded.space.distributions(EPOCHS)
    searcher = OptunaSearch(space, metric=METRIC, mode="min", sampler=RandomSampler(seed=0))
    return StockSearch(recorded, searcher, FIFOScheduler(), concurrent)


def test_trials_side_by_side_take_turns_and_a_budget_is_kept_to_the_epoch(recorded: Recorded) -> None:
    recorded.curves = [curve(0, 4, 9)] * 4  # none diverges
    search = stock(recorded, concurrent=3)
    search.run(7)
    assert search.epochs == 7 and [r.epoch for r in search.records()] == [3, 2, 2]
    search.run(3 * EPOCHS)
    assert [(r.state, r.epoch) for r in search.records()][:3] == [("completed", EPOCHS)] * 3
    search.run(3 * EPOCHS + 1)
    assert [r.epoch for r in search.records()] == [EPOCHS] * 3 + [1, 0, 0]


def test_a_trial_that_diverges_fails_and_is_replaced(recorded: Recorded) -> None:
    recorded.curves = [curve(0, 4, 9, epochs=2)] * 4
    search = stock(recorded, concurrent=1)
    search.run(5)
    assert [(r.state, r.epoch) for r in search.records()] == [("failed", 2), ("failed", 2), ("running", 1)]


def course(*seen: float) -> Course:
    """A repetition with these regrets after 10, 20 ... epochs; on the held-out images one point more."""
    marks = range(10, 10 * len(seen) + 1, 10)
    held = {mark: value + 1 for mark, value in zip(marks, seen, strict=True)}
    return Course({SEEN: dict(zip(marks, seen, strict=True)), HELD: held}, trials=5, completed=2)


def courses(own: Sequence[Course], other: Sequence[Course]) -> dict[str, list[Course]]:
    """The same opponent under every name."""
    return {name: list(own if name == OWN else other) for name in CONTENDERS}


def test_repetitions_are_paired_by_their_seed() -> None:
    own = [course(1.0, 3.0), course(2.0, 2.0), course(6.0, 1.0)]
    other = [course(4.0, 3.0), course(2.0, 3.0), course(6.0, 2.0)]
    found = {(p.images, p.other, p.epochs): p for p in pairings(courses(own, other), [10, 20])}
    assert len(found) == 2 * (len(CONTENDERS) - 1) * 2
    pair = found[SEEN, STOCK, 10]  # differences -3, 0, 0
    assert (pair.mean, pair.better, pair.equal, pair.worse) == (-1, 1, 2, 0)
    # Student's t at 2 degrees of freedom is 4.3027; the standard error of the mean is sqrt(3 / 3) = 1
    assert pair.interval == pytest.approx((-1 - 4.3027, -1 + 4.3027), abs=1e-3)
    assert (found[HELD, RANDOM, 20].mean, found[HELD, RANDOM, 20].better) == (pytest.approx(-2 / 3), 2)


def test_every_contender_spends_the_same_epochs_on_the_recorded_curves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "plot.png"
    words = ["--repetitions", "2", "--marks", "40", "--plot", str(plot), "--json"]
    search_quality.main(words)
    found = json.loads(capsys.readouterr().out)
    assert list(found["contenders"]) == list(CONTENDERS)
    for repetitions in found["contenders"].values():
        for repetition in repetitions:
            assert repetition["regret"][SEEN].keys() == repetition["regret"][HELD].keys() == {"27", "40"}
            assert all(0 <= v <= NO_MODEL for by in repetition["regret"].values() for v in by.values())
            assert repetition["trials"] >= 4
    assert found["contenders"][RANDOM][0] != found["contenders"][RANDOM][1]  # another seed
    assert plot.read_bytes().startswith(b"\x89PNG")
    search_quality.main(words)
    assert json.loads(capsys.readouterr().out) == found  # a seed gives one course
