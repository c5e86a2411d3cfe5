"""The points of `--sampler grid`."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from search_spaces import SearchSpace
from ssl_core.system.errors import ConfigError
from tune.definition.spec import StudySpec, generator_seed

MAX_LEVELS = 1000
MOST_POINTS = 100
"""How many times as many points as configurations are looked at: two shares may be one warm-up."""


def grid_points(spec: StudySpec, distributions: Mapping[str, BaseDistribution]) -> list[dict[str, Any]]:
    """Every point of a study's grid, in a random order.

    A range has the same number of levels as the others, at least its two ends, evenly spaced (on a log scale
    where it has one); choices, and whole numbers that are few enough, are all taken. The order is random, so
    that early stopping does not compare one edge of the space with itself.

    Raises:
        ConfigError: of a study that does not say how many levels: even two of every range are more points than trials.
    """
    if spec.grid_levels is not None:
        points = _left(spec, distributions, spec.grid_levels, [])
    else:
        points = _points(distributions, _levels_before(spec, distributions))
    order = np.random.default_rng(generator_seed(spec, "grid", 0)).permutation(len(points))
    return [points[i] for i in order]


def first_grid(spec: StudySpec, space: SearchSpace) -> dict[str, Any]:
    """The grid of a new study: the finest that its trials can cover, less the points that are tried first anyway.

    Returns:
        The specification's fields `grid_levels` and `trials`, which becomes what the grid takes.

    Raises:
        ConfigError: even two levels of every range are more points than trials.
    """
    distributions = space.distributions(spec.config["epochs"])
    first = _distinct([space.baseline_for(spec.config["epochs"]), *spec.points])
    whole = [point for point in first if point.keys() == distributions.keys()]
    room = spec.trials - len(first)
    levels = _finest(spec, distributions, room, whole)
    if levels < 2:
        raise _too_coarse(distributions, room, spec.trials)
    return {"grid_levels": levels, "trials": len(first) + len(_left(spec, distributions, levels, whole))}


def finer_grid(spec: StudySpec, total: int, given: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The grid of a study that grows: the finest whose points, less those that were tried, its trials can cover.

    Args:
        spec: the study.
        total: trials that it may have in all.
        given: the values of its trials so far.

    Returns:
        As `first_grid`.

    Raises:
        ConfigError: there is no finer one of so many points.
    """
    distributions = spec.search_space().distributions(spec.config["epochs"])
    now = spec.grid_levels or _levels_before(spec, distributions)
    levels = max(now, _finest(spec, distributions, total - len(given), given))
    left = len(_left(spec, distributions, levels, given))
    if not left:
        needed = next(
            (
                len(given) + count
                for finer in range(now + 1, MAX_LEVELS + 1)
                if (count := len(_left(spec, distributions, finer, given)))
            ),
            None,
        )
        more = "there is no finer one" if needed is None else f"the next finer one needs --trials {needed}"
        raise ConfigError(f"--trials {total}: every point of the grid has been tried, and {more}.")
    return {"grid_levels": levels, "trials": min(total, len(given) + left)}


def _levels_before(spec: StudySpec, distributions: Mapping[str, BaseDistribution]) -> int:
    """The levels of a study of an earlier version, which counted each point and did not note them.

    Raises:
        ConfigError: even two levels of every range are more points than trials.
    """
    room = spec.trials - 1 - len(spec.points)
    found = 1
    for levels in range(2, MAX_LEVELS + 1):
        if _size(distributions, levels) > room:
            break
        found = levels
    if found < 2:
        raise _too_coarse(distributions, room, spec.trials)
    return found


def _finest(
    spec: StudySpec,
    distributions: Mapping[str, BaseDistribution],
    room: int,
    given: Sequence[Mapping[str, Any]],
) -> int:
    """The most levels at which a grid has no more configurations than there is room for, less those given; 1: none."""
    found, most = 1, _size(distributions, MAX_LEVELS)
    for levels in range(2, MAX_LEVELS + 1):
        size = _size(distributions, levels)
        if size > MOST_POINTS * (room + len(given)) or len(_left(spec, distributions, levels, given)) > room:
            break
        found = levels
        if size == most:  # choices and whole numbers alone: finer ones are the same
            break
    return found


def _too_coarse(distributions: Mapping[str, BaseDistribution], room: int, trials: int) -> ConfigError:
    size = _size(distributions, 2)
    return ConfigError(
        f"--sampler grid: the coarsest grid of this space has {size} points, and with the points that are tried first "
        f"that needs --trials {size + trials - room}. Allow that many, fix parameters with --set, or choose another "
        "sampler."
    )


def _points(distributions: Mapping[str, BaseDistribution], levels: int) -> list[dict[str, Any]]:
    axes = [_levels(d, levels) for d in distributions.values()]
    return [dict(zip(distributions, values, strict=True)) for values in itertools.product(*axes)]


def _left(
    spec: StudySpec,
    distributions: Mapping[str, BaseDistribution],
    levels: int,
    given: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """The points of a grid, one for each configuration, less those that are given."""
    found = dict.fromkeys(point_key(spec, point) for point in given)
    left = []
    for point in _points(distributions, levels):
        key = point_key(spec, point)
        if key not in found:
            found[key] = None
            left.append(point)
    return left


def point_key(spec: StudySpec, point: Mapping[str, Any]) -> str:
    """The same for all points that lead to one configuration, such as two shares of one warm-up."""
    return json.dumps(spec.search_space().resolve(point, spec.config["epochs"]), sort_keys=True, default=str)


def _distinct(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for point in points:
        if point not in found:
            found.append(point)
    return found


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
