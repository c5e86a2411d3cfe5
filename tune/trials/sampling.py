"""What is asked next: Optuna's samplers, over a view of the study that is kept in memory.

The view holds every trial's parameters and the one value that counts, so that an ask reads no database, and it
can say to each sampler what that sampler understands:

- A trial that diverged is infeasible. TPE ignores failed trials, so the region would be tried again and again;
  by a constraint it is ranked below everything that trained.
- Out of memory is infeasible too where a searched parameter can cause it, and then that parameter alone is to
  blame: the others are drawn anew, so that on average nothing is held against them. Where none can cause it,
  the machine failed and not the configuration: the sampler never hears of it.
- A Gaussian process models complete trials only. To it a trial that was stopped early is a complete one with
  the value that it had, an upper estimate of what it would have reached.

What the sampler sees of a long study is bounded (`tune.trials.asking.view`): all running trials, the NEWEST that ended,
and the BEST.
TPE's good trials are the 25 best, which are the same as without the bound; of the others it weighs old ones least.

The view is a function of what the storage says, so that a driver that resumes asks what it would have asked.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from tune.definition.spec import StudySpec, generator_seed
from tune.trials.asking.tpe import TPE
from tune.trials.asking.view import View, silent
from tune.trials.grid import grid_points, point_key
from tune.trials.record import is_own, is_taken_over

optuna.logging.set_verbosity(optuna.logging.WARNING)

EARLIER_STARTUP_SHARE = 1 / 3
"""Studies of an earlier version drew this share of their trials at random, 4 to 10: see `startup_trials`."""

AT_RANDOM = 10
"""Attempts at a new point after which a model, which may prefer the same few, is not asked any more."""
WORST: dict[str, float] = {
    "val/error_and_loss": 10.0,
    "val/error": 100.0,
    "val/error_balanced": 100.0,
    "val/loss": 10.0,
}
"""The value of a trial without one, by objective. 10 nats are the loss of a uniform guess among 22,000 classes."""
INFEASIBLE = "infeasible"
"""Name of the constraint that a trial violates which the sampler should not try again."""

BEST, NEWEST = 100, 2000
"""Ended trials that TPE sees: the best, and those asked for last."""

# What the memory of a training step depends on; lr or a threshold does not move it by a byte.
_MEMORY = {"batch_size", "mu", "eval_batch_size", "network", "precision", "data.image_size"}
_MEMORY_OF_METHOD = {"maps"}


def is_memory_parameter(name: str) -> bool:
    """Whether a searched parameter (dotted) can make a run need more memory."""
    return name in _MEMORY or ("." in name and name.rsplit(".", 1)[1] in _MEMORY_OF_METHOD)


def startup_trials(spec: StudySpec) -> int:
    """Trials drawn at random before the sampler models anything.

    A study has had their number in its specification since it can grow: it does not depend on how many trials follow.
    One made before that has the share of the total that it began with.
    """
    if spec.startup_trials is not None:
        return spec.startup_trials
    return max(4, min(10, round(spec.trials * EARLIER_STARTUP_SHARE)))


def ask_seed(spec: StudySpec, number: int, attempt: int) -> int:
    """The seed of an attempt at a trial."""
    return generator_seed(spec, f"ask/{attempt}" if attempt else "ask", number)


def make_sampler(spec: StudySpec, number: int, attempt: int = 0) -> optuna.samplers.BaseSampler:
    """The sampler for one ask; for a later attempt at it with a seed of its own, and from AT_RANDOM on a random one."""
    seed = ask_seed(spec, number, attempt)
    if spec.sampler == "random" or attempt >= AT_RANDOM:
        return optuna.samplers.RandomSampler(seed=seed)
    if spec.sampler == "gp":
        return optuna.samplers.GPSampler(
            seed=seed, n_startup_trials=startup_trials(spec), warn_independent_sampling=False
        )
    return TPE(seed=seed, n_startup_trials=startup_trials(spec), multivariate=True, constant_liar=True)


class _Searched:
    """The search space that a Gaussian process models: the same for all trials of a study.

    Optuna finds it by comparing the distributions of all trials at each ask.

    Args:
        distributions: what is searched, by name.
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution]) -> None:
        self._distributions = dict(sorted(distributions.items()))

    def calculate(self, study: optuna.Study, use_cache: bool = False) -> dict[str, BaseDistribution]:
        """As of `optuna.search_space.IntersectionSearchSpace`."""
        known = study._get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return dict(self._distributions) if known else {}


class Sampling:
    """The sampler's view of a study, and what it asks for. Trials have the numbers that they have in the study.

    Args:
        spec: the study.
        distributions: what is searched, by name.
    """

    def __init__(self, spec: StudySpec, distributions: Mapping[str, BaseDistribution]) -> None:
        self._spec, self._distributions = spec, dict(distributions)
        # A Gaussian process has few trials anyway (`tune.definition.coherence.check_sampler`).
        bound = (None, None) if spec.sampler == "gp" else (BEST, NEWEST)
        self._view = View(self._distributions, *bound)
        self._tpe: TPE | None = None
        self._asked = -1  # the newest number that was asked for here
        self._grid = grid_points(spec, self._distributions) if spec.sampler == "grid" else []
        self._tried: set[str] = set()  # of a grid's study: the points that it has had

    def ask(self, number: int, fixed: Mapping[str, Any], attempt: int = 0) -> dict[str, Any] | None:
        """Parameters of a new trial; None where a grid has no point left.

        Args:
            number: that it will have; all before it have been asked for or added.
            fixed: values that are given: all, some or none.
            attempt: how many points the trial was given before, which were trained already: this one replaces them.
        """
        if self._grid and not fixed:
            left = next(
                (point for point in self._grid if point_key(self._spec, point) not in self._tried), None
            )
            if left is None:
                return None
            fixed = left
        self._view.sampler = self._sampler(number, attempt)
        if self._asked == number:
            asked = self._instead(number, fixed)
        else:
            if fixed:
                self._view.enqueue_trial(dict(fixed))
            asked = self._view.ask(self._distributions)
        assert asked.number == number
        self._asked = number
        self._view.show(number)
        self._note(asked.params)
        return dict(asked.params)

    def _sampler(self, number: int, attempt: int) -> optuna.samplers.BaseSampler:
        """As `make_sampler`; one that need not find out what is searched."""
        if self._tpe is not None and attempt < AT_RANDOM:
            self._tpe.begin_again(ask_seed(self._spec, number, attempt))
            return self._tpe
        sampler = make_sampler(self._spec, number, attempt)
        if isinstance(sampler, TPE):
            self._tpe = sampler
        if isinstance(sampler, optuna.samplers.GPSampler):
            sampler._intersection_search_space = _Searched(self._distributions)  # type: ignore[assignment]
        return sampler

    def _instead(self, number: int, fixed: Mapping[str, Any]) -> optuna.trial.Trial:
        """Ask anew for a trial that has a point; as `optuna.Study.ask` does for one that has none."""
        blank = create_trial(
            state=TrialState.RUNNING, system_attrs={"fixed_params": dict(fixed)} if fixed else {}
        )
        self._view.hide(number)
        self._view.overwrite(number, blank)
        asked = optuna.trial.Trial(self._view, self._view.identity(number))
        for name, distribution in self._distributions.items():
            asked._suggest(name, distribution)
        return asked

    def _note(self, params: Mapping[str, Any]) -> None:
        if self._grid:
            self._tried.add(point_key(self._spec, params))

    def add(self, trial: FrozenTrial) -> None:
        """Take in a trial from the storage, running or ended; in order of numbers."""
        seen = None
        if is_own(trial, self._distributions) or is_taken_over(trial):
            seen = _running(trial) if not trial.state.is_finished() else self.as_seen(trial)
            self._note(trial.params)
        self._view.append(seen or silent())
        self._view.show(trial.number)

    def end(self, trial: FrozenTrial) -> None:
        """A running trial has ended, as the storage now says."""
        seen, storage = self.as_seen(trial) or silent(), self._view._storage
        identity = self._view.identity(trial.number)
        if seen.params not in (
            trial.params,
            {},
        ):  # out of memory: no call of Optuna's changes what was asked for
            asked = copy.copy(storage.get_trial(identity))
            asked.params = seen.params
            self._view.overwrite(trial.number, asked)
        for key, value in seen.system_attrs.items():
            storage.set_trial_system_attr(identity, key, value)
        for step, value in seen.intermediate_values.items():
            storage.set_trial_intermediate_value(identity, step, value)
        storage.set_trial_state_values(identity, seen.state, seen.values)
        self._view.show(trial.number)

    def as_seen(self, trial: FrozenTrial) -> FrozenTrial | None:
        """An ended trial as the sampler should see it; None: not at all."""
        params, values, complete = trial.params, trial.intermediate_values, trial.state == TrialState.COMPLETE
        infeasible = any(value > 0 for value in trial.constraints.values())
        if trial.state == TrialState.FAIL:
            return None
        if trial.user_attrs.get("stop_reason") == "oom":
            params = self._blaming_memory_alone(trial)
        elif not infeasible and not complete and not values:
            return None  # ended before anything was known of it
        state, value = trial.state, trial.value if complete else None
        if self._spec.sampler == "gp":
            state, value = TrialState.COMPLETE, trial.value
            if infeasible or value is None:
                value = WORST[self._spec.objective]
        last = max(values, default=None)
        seen = create_trial(
            state=state,
            value=value,
            params=params,
            distributions=self._distributions,
            intermediate_values={} if last is None or infeasible else {last: values[last]},
        )
        if infeasible or self._spec.sampler == "gp":  # to which all trials need the constraint, or none
            seen.set_constraint(INFEASIBLE, 1.0 if infeasible else -1.0)
        return seen

    def _blaming_memory_alone(self, trial: FrozenTrial) -> dict[str, Any]:
        seed = generator_seed(self._spec, "blameless", trial.number)
        drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask(self._distributions)
        return {k: v if is_memory_parameter(k) else drawn.params[k] for k, v in trial.params.items()}


def _running(trial: FrozenTrial) -> FrozenTrial:
    return create_trial(state=TrialState.RUNNING, params=trial.params, distributions=trial.distributions)
