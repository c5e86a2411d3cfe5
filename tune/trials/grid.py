"""The points of `--sampler grid`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from ssl_core.system.errors import ConfigError
from tune.definition.spec import StudySpec, generator_seed

MAX_LEVELS = 1000


def grid_points(spec: StudySpec, distributions: Mapping[str, BaseDistribution]) -> list[dict[str, Any]]:
    """Every point of the finest even grid that the study's trials can cover, in a random order.

    A range has the same number of levels as the others, at least its two ends, evenly spaced (on a log scale
    where it has one); choices, and whole numbers that are few enough, are all taken. The order is random, so
    that early stopping does not compare one edge of the space with itself.

    Raises:
        ConfigError: even two levels of every range are more points than trials.
    """
    room = spec.trials - 1 - len(spec.points)  # the baseline comes first
    levels = 2
    if _size(distributions, levels) > room:
        raise ConfigError(
            f"--sampler grid: the coarsest grid of this space has {_size(distributions, 2)} points, and with the "
            f"points that are tried first that needs --trials {_size(distributions, 2) + spec.trials - room}. "
            "Allow that many, fix parameters with --set, or choose another sampler."
        )
    for finer in range(3, MAX_LEVELS + 1):
        if _size(distributions, finer) > room:
            break
        levels = finer
    axes = [_levels(d, levels) for d in distributions.values()]
    points = [dict(zip(distributions, values, strict=True)) for values in itertools.product(*axes)]
    order = np.random.default_rng(generator_seed(spec, "grid", 0)).permutation(len(points))
    return [points[i] for i in order]


def _size(distributions: Mapping[str, BaseDistribution], levels: int) -> int:
    return math.prod(len(_levels(d, levels)) for d in distributions.values())


def _levels(distribution: BaseDistribution, count: int) -> Sequence[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    places = np.geomspace(low, high, count) if distribution.log else np.linspace(low, high, count)
    if isinstance(distribution, IntDistribution):
        return list(dict.fromkeys(low + round((x - low) / (step or 1)) * (step or 1) for x in places))
    if step is not None:
        return list(dict.fromkeys(low + round((x - low) / step) * step for x in places))
    return [low, *(float(x) for x in places[1:-1]), high]
