"""Optuna's TPE with its reading of trials replaced: the same points to the last bit, in a fraction of the time.

Optuna sorts all trials that it sees and translates all of their parameters at each ask. A view has both ready
(`tune.trials.asking.points`). What is left is the arithmetic of the two densities.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import RandomSampler, TPESampler
from optuna.samplers._lazy_random_state import LazyRandomState
from optuna.samplers._tpe import _truncnorm
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from optuna.samplers._tpe.probability_distributions import (
    _BatchedCategoricalDistributions,
    _MixtureOfProductDistribution,
)
from optuna.samplers._tpe.sampler import default_gamma
from optuna.study import Study
from optuna.trial import FrozenTrial

from tune.trials.asking.view import View


class TPE(TPESampler):
    """As `optuna.samplers.TPESampler`; fast over a `View`, of a study with one objective, to be minimised."""

    def begin_again(self, seed: int) -> None:
        """Be as a new one with this seed: to make one takes longer than what it does with a hundred trials."""
        self._rng, self._random_sampler = LazyRandomState(seed), RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What is searched: the same for all trials of a study; nothing before the first that taught something."""
        if not isinstance(study, View):
            return super().infer_relative_search_space(study, trial)
        searched = study.points.distributions if study.points.ended else {}
        return {name: each for name, each in sorted(searched.items()) if not each.single()}

    def _sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not isinstance(study, View):
            return super()._sample_relative(study, trial, search_space)
        is_early = not search_space or study.points.ended < self._n_startup_trials
        return {} if is_early else self._sample(study, trial, search_space)

    def _sample(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not isinstance(study, View):
            return super()._sample(study, trial, search_space)
        good = default_gamma(study.points.ended)
        below, above = (
            self._parzen_estimator_cls(observed, search_space, self._parzen_estimator_parameters)
            for observed in study.points.split(good, search_space)
        )
        samples = below.sample(self._rng.rng, self._n_ei_candidates)
        chosen = self._compare(samples, self._compute_acquisition_func(samples, below, above))
        return {name: each.to_external_repr(chosen[name]) for name, each in search_space.items()}

    def _compute_acquisition_func(
        self, samples: dict[str, np.ndarray], mpe_below: _ParzenEstimator, mpe_above: _ParzenEstimator
    ) -> np.ndarray:
        """Logarithm of the ratio of the two densities, (samples,)."""
        points = mpe_below._transform(samples)
        below, above = (log_density(each._mixture_distribution, points) for each in (mpe_below, mpe_above))
        ratio: np.ndarray = below - above
        return ratio


def log_density(mixture: _MixtureOfProductDistribution, points: np.ndarray) -> np.ndarray:
    """As `mixture.log_pdf(points)`, to the last bit.

    The same operations in the same order, on (points, kernels) arrays that are changed in place, one parameter after
    the other. Parameters with steps are left to Optuna.

    Args:
        mixture: a density; a kernel for each trial and one for the prior.
        points: (points, parameters).
    """
    continuous = [d for d in mixture.distributions if not isinstance(d, _BatchedCategoricalDistributions)]
    if not continuous or any(d.step != 0.0 for d in continuous):
        return mixture.log_pdf(points)
    sigma = np.asarray([d.sigma for d in continuous]).T
    mu = np.asarray([d.mu for d in continuous]).T
    low = (np.asarray([d.adapted_low for d in continuous]) - mu) / sigma
    high = (np.asarray([d.adapted_high for d in continuous]) - mu) / sigma
    if (low == high).any():
        return mixture.log_pdf(points)
    mass, log_sigma = _truncnorm._log_gauss_mass(low, high), np.log(sigma)
    total, parts = np.zeros((len(points), len(mixture.weights))), list[np.ndarray]()
    for column, each in enumerate(mixture.distributions):
        if isinstance(each, _BatchedCategoricalDistributions):
            chosen = points[:, column, np.newaxis, np.newaxis].astype(np.int64)
            total += np.log(np.take_along_axis(each.weights[np.newaxis], chosen, axis=-1))[..., 0]
            continue
        place, found = len(parts), np.log(points[:, column]) if each.is_log else points[:, column]
        distance = found[:, np.newaxis] - each.mu
        distance /= each.sigma
        # Of a point within the range no distance is outside of a kernel's: rounding keeps the order.
        is_inside = bool(((found >= each.adapted_low) & (found <= each.adapted_high)).all())
        outside = None if is_inside else (distance < low[:, place]) | (distance > high[:, place])
        np.square(distance, out=distance)
        distance *= -0.5
        distance -= _truncnorm._norm_pdf_logC
        distance -= mass[:, place]
        distance -= log_sigma[:, place]
        if outside is not None:
            distance[outside] = -math.inf
        parts.append(distance)
    # Two summands have one sum; of more the order counts, which is numpy's.
    total += parts[0] + parts[1] if len(parts) == 2 else np.stack(parts, axis=-1).sum(axis=-1)
    total += np.log(mixture.weights)
    highest = total.max(axis=1)
    highest[np.isneginf(highest)] = 0
    total -= highest[:, np.newaxis]
    np.exp(total, out=total)
    with np.errstate(divide="ignore"):
        densities: np.ndarray = np.log(total.sum(axis=1)) + highest
    return densities
