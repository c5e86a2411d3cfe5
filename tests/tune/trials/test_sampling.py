"""What is asked next: the sampler's view of trials that diverged, ran out of memory or were stopped, and grids."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import GPSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from ssl_core.system.errors import ConfigError
from tests.tune.helpers import make_spec
from tune.definition.coherence import check_sampler
from tune.definition.spec import StudySpec
from tune.steering.checks import Spent, grown
from tune.store.home import Home
from tune.trials import sampling as module
from tune.trials.grid import grid_points
from tune.trials.sampling import INFEASIBLE, Sampling, is_memory_parameter, make_sampler

SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(0.0, 1.0),
    "batch_size": CategoricalDistribution([16, 64, 256]),
}


def ended(number: int, params: dict[str, Any], reason: str, value: float | None) -> FrozenTrial:
    """A trial as the storage has it after its end."""
    states = {"completed": TrialState.COMPLETE, "error": TrialState.FAIL}
    trial = create_trial(
        state=states.get(reason, TrialState.PRUNED),
        value=value,
        params=params,
        distributions=SPACE,
        user_attrs={"stop_reason": reason},
        intermediate_values={} if value is None else {2: value},
    )
    trial.number = number
    if reason in ("nan", "oom"):
        trial.set_constraint(INFEASIBLE, 1.0)
    return trial


def asked(
    spec: StudySpec, how_it_ends: Callable[[dict[str, Any]], tuple[str, float | None]], count: int
) -> Any:
    """Parameters of `count` trials, each ended before the next is asked for."""
    sampling, points = Sampling(spec, SPACE), []
    for number in range(count):
        params = sampling.ask(number, {})
        assert params is not None
        points.append(params)
        reason, value = how_it_ends(params)
        sampling.end(ended(number, params, reason, value))
    return points


def test_the_sampler_keeps_away_from_where_trials_diverge(home: Home) -> None:
    spec = make_spec(home, trials=40, startup_trials=6, seed=0)

    def bad(reason: str) -> int:
        def ends(params: dict[str, Any]) -> tuple[str, float | None]:
            good = "completed", 40 * abs(params["lr"] - 0.3)
            return good if params["lr"] <= 0.5 else (reason, 5.0 if reason == "nan" else None)

        return sum(point["lr"] > 0.5 for point in asked(spec, ends, 40)[6:])

    # Told as failures, as Ray's own searcher would at best, they are where nothing seems to have been tried yet.
    assert bad("nan") <= 10 and bad("error") >= 25


def test_what_a_sampler_sees_of_an_end(home: Home) -> None:
    params = {"lr": 0.3, "batch_size": 64}
    tpe, gp = (Sampling(make_spec(home, sampler=s), SPACE) for s in ("tpe", "gp"))
    seen = tpe.as_seen(ended(0, params, "asha", 30.0))
    assert seen is not None and seen.state == TrialState.PRUNED and seen.intermediate_values == {2: 30.0}
    seen = gp.as_seen(ended(0, params, "asha", 30.0))
    assert seen is not None and seen.state == TrialState.COMPLETE and seen.value == 30.0
    assert seen.constraints == {INFEASIBLE: -1.0}
    seen = gp.as_seen(ended(0, params, "nan", 30.0))
    assert seen is not None and seen.value == 100.0 and seen.constraints == {INFEASIBLE: 1.0}
    for sampling in (tpe, gp):
        assert sampling.as_seen(ended(0, params, "error", None)) is None
        assert sampling.as_seen(ended(0, params, "time", None)) is None  # nothing is known of it


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("batch_size", True),
        ("mu", True),
        ("attention_fixmatch.maps", True),
        ("data.image_size", True),
        ("lr", False),
        ("vat.eps", False),
        ("warmup_share", False),
        ("maps", False),
    ],
)
def test_which_parameters_move_the_memory(name: str, expected: bool) -> None:
    assert is_memory_parameter(name) is expected


def test_out_of_memory_is_held_against_the_batch_and_nothing_else(home: Home) -> None:
    sampling = Sampling(make_spec(home), SPACE)
    trials = [ended(n, {"lr": 0.9, "batch_size": 256}, "oom", None) for n in range(40)]
    again = Sampling(make_spec(home), SPACE)  # after a restart
    seen = [s.params for s in map(sampling.as_seen, trials) if s is not None]
    assert seen == [s.params for s in map(again.as_seen, trials) if s is not None] and len(seen) == 40
    rates = [params["lr"] for params in seen]
    assert {params["batch_size"] for params in seen} == {256}
    assert 0.35 < sum(rates) / 40 < 0.65 and min(rates) < 0.2  # drawn from all of the range


@pytest.mark.parametrize(("sampler", "kind"), [("tpe", TPESampler), ("gp", GPSampler)])
def test_startup_trials_are_those_asked_for(home: Home, sampler: str, kind: type) -> None:
    for asked_for, startup in ((None, 5), (0, 0), (7, 7)):
        made = make_sampler(make_spec(home, sampler=sampler, startup_trials=asked_for), 0)
        assert isinstance(made, kind) and made._n_startup_trials == startup  # type: ignore[attr-defined]


def test_a_gaussian_process_learns_from_stopped_trials_and_asks_the_same_after_a_restart(home: Home) -> None:
    spec = make_spec(home, sampler="gp", startup_trials=4)
    told = []
    for number in range(6):
        params = {"lr": number / 5}
        reason = ("completed", "asha", "nan")[number % 3]
        trial = ended(number, params | {"batch_size": 16}, reason, 60.0 * abs(params["lr"] - 0.2))
        told.append(trial)
    points = []
    for _ in range(2):
        sampling = Sampling(spec, SPACE)
        for trial in told:
            sampling.add(trial)
        points.append(sampling.ask(6, {}))
    assert points[0] == points[1] and set(points[0] or {}) == set(SPACE)


def test_a_grid_has_every_combination_once_in_an_order_that_the_seed_gives(home: Home) -> None:
    space: dict[str, BaseDistribution] = {
        "a": FloatDistribution(0.01, 1.0, log=True),
        "b": CategoricalDistribution(["x", "y"]),
        "c": IntDistribution(1, 5),
    }
    points = grid_points(make_spec(home, trials=19), space)
    assert len(points) == 18  # 3 x 2 x 3: four levels would be too many, and the baseline comes first
    assert sorted({p["a"] for p in points}) == pytest.approx([0.01, 0.1, 1.0])
    assert {p["c"] for p in points} == {1, 3, 5}
    assert len({tuple(p.values()) for p in points}) == 18
    assert points == grid_points(make_spec(home, trials=19), space)
    assert points != grid_points(make_spec(home, trials=19, seed=1), space)
    assert [p["a"] for p in points] != sorted(p["a"] for p in points)
    few = grid_points(
        make_spec(home, trials=1000), {"c": IntDistribution(1, 5), "d": IntDistribution(0, 9, step=3)}
    )
    assert len(few) == 20 and {p["d"] for p in few} == {0, 3, 6, 9}
    with pytest.raises(ConfigError, match=r"coarsest grid .* has 8 points.*--trials 9"):
        grid_points(make_spec(home, trials=8), space)


def test_a_grid_sets_the_number_of_trials(home: Home) -> None:
    spec = make_spec(home, sampler="grid", trials=18)
    # Five thresholds, and five shares of six epochs, which are warm-ups of one and of three.
    assert spec.trials == 1 + 5 * 2 and make_spec(home, sampler="grid", trials=9).trials == 1 + 4 * 2
    sampling = Sampling(spec, spec.search_space().distributions(6))
    found = [sampling.ask(number, {}) for number in range(3)]
    grid = grid_points(spec, spec.search_space().distributions(6))
    assert found == grid[:3]


def random_end(chance: random.Random, number: int, params: dict[str, Any]) -> FrozenTrial:
    reason = chance.choice(["completed", "asha", "asha", "nan", "error"])
    return ended(number, params, reason, None if reason == "error" else round(chance.uniform(5, 90), 1))


def seen_by(sampling: Sampling) -> list[tuple[int, str]]:
    return [(t.number, t.state.name) for t in sampling._view._get_trials(deepcopy=False)]


def by_hand(trials: list[FrozenTrial], running: list[int], best: int, newest: int) -> list[int]:
    """Numbers of the trials that TPE is to see."""
    taught = [t for t in trials if t.state != TrialState.FAIL]

    def rank(trial: FrozenTrial) -> tuple[int, float, int]:
        if INFEASIBLE in trial.constraints:
            return 2, 0.0, trial.number
        return int(trial.state != TrialState.COMPLETE), float(trial.intermediate_values[2]), trial.number

    chosen = [t.number for t in sorted(taught, key=rank)[:best]]
    return sorted({*chosen, *sorted(t.number for t in taught)[-newest:], *running})


@pytest.mark.parametrize("seed", range(3))
def test_the_view_of_a_long_study_is_bounded_and_follows_from_what_is_stored(
    home: Home, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Trials end in any order; after each a driver that begins anew sees and asks the same."""
    monkeypatch.setattr(module, "BEST", 4)
    monkeypatch.setattr(module, "NEWEST", 6)
    spec, chance = make_spec(home, startup_trials=3), random.Random(seed)
    sampling = Sampling(spec, SPACE)
    running: dict[int, dict[str, Any]] = {}
    stored: dict[int, FrozenTrial] = {}
    for number in range(45):
        asked_for = sampling.ask(number, {})
        assert asked_for is not None
        running[number] = asked_for
        while len(running) > 5:
            ends = chance.choice(list(running))
            stored[ends] = random_end(chance, ends, running.pop(ends))
            sampling.end(stored[ends])
        expected = by_hand(list(stored.values()), list(running), 4, 6)
        assert [n for n, _ in seen_by(sampling)] == expected
        if number % 11 == 0:
            again = Sampling(spec, SPACE)
            for n in range(number + 1):
                again.add(stored.get(n) or under_way(n, running[n]))
            assert seen_by(again) == seen_by(sampling)
            assert again.ask(number + 1, {}) == copy.deepcopy(sampling).ask(number + 1, {})
    dropped = [t for t in sampling._view._storage.get_all_trials(0) if t.number not in expected]
    assert len(dropped) > 20 and all(not t.params for t in dropped)  # their content is let go


def under_way(number: int, params: dict[str, Any]) -> FrozenTrial:
    trial = create_trial(state=TrialState.RUNNING, params=params, distributions=SPACE)
    trial.number = number
    return trial


def test_a_study_within_the_bound_is_asked_what_optuna_asks(home: Home) -> None:
    """Optuna's own study in memory, told the same, asks for the same points."""
    spec, space = make_spec(home, startup_trials=3), {"lr": SPACE["lr"], "batch_size": SPACE["batch_size"]}
    sampling, plain, chance = Sampling(spec, space), optuna.create_study(), random.Random(0)
    for number in range(12):
        plain.sampler = make_sampler(spec, number)
        theirs = plain.ask(space)
        assert sampling.ask(number, {}) == theirs.params
        trial = ended(number, theirs.params, chance.choice(["completed", "asha"]), chance.uniform(5, 90))
        sampling.end(trial)
        for step, value in trial.intermediate_values.items():
            theirs.report(value, step)
        plain.tell(theirs, trial.value if trial.state == TrialState.COMPLETE else None, state=trial.state)


def test_a_gaussian_process_is_refused_more_trials_than_it_can_take(home: Home) -> None:
    check_sampler("gp", 1000)
    check_sampler("tpe", 100_000)
    with pytest.raises(ConfigError, match=r"--sampler gp with --trials 1001.*--sampler tpe.*--trials 1000"):
        check_sampler("gp", 1001)
    spec, cost = make_spec(home, sampler="gp", trials=900), Spent(0.0, 0, 0.0)
    assert grown(spec, {"trials": 1000}, [], cost).trials == 1000
    with pytest.raises(ConfigError, match=r"--sampler gp with --trials 2000"):
        grown(spec, {"trials": 2000}, [], cost)
