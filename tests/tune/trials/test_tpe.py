"""TPE over a view's table: the points that Optuna's own TPE asks for, to the last bit."""

from __future__ import annotations

import math
import random

import numpy as np
import optuna
import pytest
from numpy.random import RandomState
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from optuna.trial import FrozenTrial, TrialState, create_trial

from tests.tune.helpers import make_spec
from tune.definition.spec import generator_seed
from tune.store.home import Home
from tune.trials.asking.points import Points, rank_of
from tune.trials.asking.tpe import TPE, log_density
from tune.trials.sampling import INFEASIBLE, Sampling, make_sampler

KINDS: list[BaseDistribution] = [
    FloatDistribution(0.0, 1.0),
    FloatDistribution(1e-4, 0.5, log=True),
    CategoricalDistribution(["a", "b", "c"]),
    IntDistribution(1, 9),
    FloatDistribution(2.0, 2.0),  # a single value, which no sampler models
]


def some_space(chance: random.Random, parameters: int) -> dict[str, BaseDistribution]:
    return {f"p{chance.random():.6f}": chance.choice(KINDS) for _ in range(parameters)} | {"lr": KINDS[0]}


def some_end(chance: random.Random, trial: FrozenTrial) -> None:
    """Give a trial an end: values tie often, and some are not finite."""
    reason = chance.choice(["completed", "completed", "asha", "asha", "nan", "error", "time"])
    values = [*map(float, range(20, 40)), math.nan, math.inf]
    steps = chance.sample(range(1, 10), chance.randint(0, 3))
    trial.intermediate_values = {step: chance.choice(values) for step in steps}
    trial.state = {"completed": TrialState.COMPLETE, "error": TrialState.FAIL}.get(reason, TrialState.PRUNED)
    if reason == "completed":
        trial.value = chance.choice([*map(float, range(20, 40)), math.inf])
    if reason == "nan":
        trial.set_constraint(INFEASIBLE, 1.0)
    trial.user_attrs = {"stop_reason": reason}


@pytest.mark.parametrize(("seed", "parameters"), [(0, 1), (1, 2), (2, 3), (3, 4), (4, 8), (5, 11)])
def test_the_points_are_optunas(home: Home, seed: int, parameters: int) -> None:
    """The reference is Optuna's sampler on a study of its own that was told what the view was told."""
    chance = random.Random(seed)
    space, spec = some_space(chance, parameters), make_spec(home, startup_trials=4, seed=seed)
    sampling, told = Sampling(spec, space), optuna.create_study()
    running: dict[int, FrozenTrial] = {}
    for number in range(70):
        assert isinstance(make_sampler(spec, number), TPE)
        told.sampler = TPESampler(
            seed=generator_seed(spec, "ask", number),
            n_startup_trials=4,
            multivariate=True,
            constant_liar=True,
        )
        theirs, point = told.ask(space), sampling.ask(number, {})
        assert point == theirs.params, number
        running[number] = create_trial(state=TrialState.RUNNING, params=theirs.params, distributions=space)
        running[number].number = number
        while len(running) > 4:
            ends = running.pop(chance.choice(list(running)))
            some_end(chance, ends)
            sampling.end(ends)
            seen = sampling.as_seen(ends) or create_trial(state=TrialState.FAIL)
            seen.number, seen._trial_id = ends.number, ends.number
            told._storage._set_trial(ends.number, seen)  # type: ignore[attr-defined]
    assert len(sampling._view._get_trials(deepcopy=False)) > 40


@pytest.mark.parametrize("kernels", [0, 1, 26, 400])
@pytest.mark.parametrize("parameters", [1, 2, 3, 5, 9, 12])
def test_a_density_is_optunas(kernels: int, parameters: int) -> None:
    chance, drawn = random.Random(parameters), np.random.default_rng(kernels)
    space = {f"p{n}": chance.choice(KINDS[:3]) for n in range(parameters)}
    observed: dict[str, np.ndarray] = {}
    for name, kind in space.items():
        if isinstance(kind, FloatDistribution):
            observed[name] = np.round(drawn.uniform(kind.low, kind.high, kernels), 3).clip(
                kind.low, kind.high
            )
        else:
            observed[name] = drawn.integers(0, 3, kernels).astype(float)
    density = _ParzenEstimator(observed, space, TPESampler(seed=0)._parzen_estimator_parameters)
    points = density._transform(density.sample(RandomState(1), 24))
    mixture = density._mixture_distribution
    assert np.array_equal(log_density(mixture, points), mixture.log_pdf(points))


def test_a_table_of_points_is_the_one_that_is_made_anew() -> None:
    """Rows come, change and go in any order; what is there is in order of numbers, and split by rank."""
    chance, space = random.Random(0), {"lr": KINDS[0], "kind": KINDS[2]}
    points, there = Points(space), dict[int, FrozenTrial]()
    for _ in range(600):
        number = chance.randint(0, 90)
        if number in there and chance.random() < 0.4:
            points.remove(number)
            del there[number]
        else:
            params = {"lr": chance.random(), "kind": chance.choice("abc")}
            trial = create_trial(state=TrialState.RUNNING, params=params, distributions=space)
            if chance.random() < 0.7:
                some_end(chance, trial)
            trial.number, there[number] = number, trial
            points.put(trial)
    points.remove(1000)
    ended = sorted((t for t in there.values() if t.state.is_finished()), key=lambda t: (rank_of(t), t.number))
    assert points.ended == len(ended) > 20
    best = {t.number for t in ended[:9]}
    numbers = sorted(there)
    for found, chosen in zip(
        points.split(9, ["kind", "lr"]),
        ([n for n in numbers if n in best], [n for n in numbers if n not in best]),
        strict=True,
    ):
        assert found["lr"].tolist() == [there[n].params["lr"] for n in chosen]
        assert found["kind"].tolist() == ["abc".index(there[n].params["kind"]) for n in chosen]
