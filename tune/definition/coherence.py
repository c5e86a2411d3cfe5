"""Whether a space makes sense for a study: each point it may ask for is a configuration, and what is searched counts.

A space is checked entry by entry where it is read. Here it is checked as a whole, with what `--set` fixes: a weight
of a head that the network does not have, say, would fail in trial after trial, and a parameter without effect would
only make the search slower.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from search_spaces import SearchSpace
from search_spaces.ranges import EPOCHS, SHARE, choices
from ssl_core.config import RunConfig, from_document
from ssl_core.data.datasets import DatasetInfo
from ssl_core.registry import method_of
from ssl_core.system.errors import ConfigError, counted
from tune.definition.inputs import with_overrides

MOST_POINTS = 1024
"""Above so many corners, only those in which at most two parameters leave the baseline are looked at."""

MOST_EPOCHS = 100_000
"""The longest run that a configuration allows: stands for one whose length is not known yet."""


MOST_FOR_GP = 1000
"""Trials that a Gaussian process is fitted to at most: the time of an ask grows with the cube of their number."""


FEW_TRIALS, FEW_PARAMETERS = 100, 6
SHORT_RUNS = range(8, 14)
"""Epochs of a run that ASHA looks at first after one: it has two rungs then, as what was measured (12 epochs) had."""


def chosen_sampler(sampler: str, trials: int, parameters: int) -> str:
    """The sampler that ``auto`` stands for; any other as it is.

    On the recorded curves (4 and 5 parameters, up to 100 trials, 40 and 50 validation images) random points recommend
    configurations as good as TPE's or better: what the lowest of few noisy values lies beside says little
    (docs/search-quality.md). Beyond what was measured TPE stays.

    Args:
        sampler: as asked for.
        trials: that the study will have, as far as is known.
        parameters: that are searched.
    """
    if sampler != "auto":
        return sampler
    return "random" if trials <= FEW_TRIALS and parameters <= FEW_PARAMETERS else "tpe"


def chosen_grace(grace: int | None, scheduler: str, epochs: int) -> int | None:
    """The grace period where none is asked for: an epoch in a short run under ASHA, else what `rungs` makes of None.

    In runs of 12 epochs a first look after one epoch instead of two leaves more for others (docs/search-quality.md).
    """
    return 1 if grace is None and scheduler == "asha" and epochs in SHORT_RUNS else grace


def check_sampler(sampler: str, trials: int) -> None:
    """Refuse a Gaussian process for a study in which its asks would take longer than the trials.

    Raises:
        ConfigError: it has too many trials.
    """
    if sampler == "gp" and trials > MOST_FOR_GP:
        raise ConfigError(
            f"--sampler gp with --trials {trials}: at each ask a Gaussian process is fitted to all trials so far, "
            f"which takes minutes beyond {MOST_FOR_GP}. Take --sampler tpe (or random), or at most --trials "
            f"{MOST_FOR_GP}."
        )


def check_sense(space: SearchSpace, config: RunConfig) -> None:
    """Refuse a space that may ask for a configuration that is none, or that searches what changes nothing.

    Args:
        space: what is searched, less what is fixed.
        config: what all trials share; resolved, where the data are at hand.

    Raises:
        ConfigError: names the parameters, their values and what is wrong with them.
    """
    if config.refit:
        raise ConfigError(
            "refit = True: a search needs the validation images to choose by. Leave refit out, and train on them once "
            "everything is chosen: `ssl-tune train --config FILE --final --refit`, or `ssl-tune confirm NAME --refit`."
        )
    epochs = config.epochs or MOST_EPOCHS
    _check_warmup(space, config)
    document = config.document()
    vain: dict[str, str] | None = None  # parameters without effect, and why; None: no point was looked at yet
    for point in points(space, epochs):
        overrides = space.resolve(point, epochs)
        try:
            trial = from_document(with_overrides(document, overrides))
        except ConfigError as error:
            values = ", ".join(
                f"{name} = {point[name]}" for name in point if name.startswith(f"{config.method}.")
            )
            raise ConfigError(
                f"{space.source}: a trial may be given {values}, which is refused: {error} Change the space, or fix "
                "one of them with --set."
            ) from None
        idle = {
            f"{config.method}.{name}": why for name, why in method_of(trial).idle(trial.parameters).items()
        }
        vain = idle if vain is None else {name: why for name, why in vain.items() if name in idle}
    for parameter in space.parameters:
        if vain and parameter.name in vain:
            raise ConfigError(
                f"{space.source}: {parameter.name} is searched, but has no effect with {vain[parameter.name]}. Fix it "
                f"too, for example with --set {parameter.name}={space.baseline[parameter.name]}, or take a method "
                "without it."
            )


def points(space: SearchSpace, epochs: int) -> Iterator[dict[str, Any]]:
    """The baseline and the corners of a space: every choice, and both ends of every range."""
    ends = {name: _ends(distribution) for name, distribution in space.distributions(epochs).items()}
    baseline = space.baseline_for(epochs)
    yield baseline
    count = 1
    for values in ends.values():
        count *= len(values)
    together = len(ends) if count <= MOST_POINTS else min(2, len(ends))
    for names in itertools.combinations(ends, together):
        for values in itertools.product(*(ends[name] for name in names)):
            yield baseline | dict(zip(names, values, strict=True))


def _ends(distribution: BaseDistribution) -> tuple[Any, ...]:
    if isinstance(distribution, FloatDistribution | IntDistribution):
        return (distribution.low, distribution.high)
    return choices(distribution)


def _check_warmup(space: SearchSpace, config: RunConfig) -> None:
    searched = [p.name for p in space.parameters if p.name in (SHARE, EPOCHS)]
    if searched and not method_of(config).has_warmup:
        raise ConfigError(
            f"{space.source}: {searched[0]} is searched, but the method {config.method!r} has no warm-up: it has no "
            "effect. Remove it from the space."
        )


def check_folds(folds: int, info: DatasetInfo, config: RunConfig) -> None:
    """Refuse folds of data that have none.

    Raises:
        ConfigError: the data set brings validation images of its own, or a fold is fixed already.
    """
    if folds > 1 and info.valid_per_class is not None:
        raise ConfigError(
            f"--folds {folds}: {info.name!r} brings validation images of its own, and folds would train on them. Put "
            "them among the labelled images in train/ (of a table: leave `split` empty), or leave out --folds."
        )
    if folds > 1 and config.data.fold:
        raise ConfigError(
            f"--folds {folds} with data.fold = {config.data.fold}: a trial's folds are 0 to {folds - 1}. Leave "
            "data.fold out."
        )


def check_fresh_sets(info: DatasetInfo, config: RunConfig, seeds: int) -> None:
    """Refuse more labelled sets than can be drawn beside the validation images.

    Raises:
        ConfigError: for example where all other images are labelled, so that every seed has the same ones.
    """
    assert config.labels and config.data.valid
    if not info.is_plain:  # the seeds change the training alone
        return
    classes = info.num_classes
    left = sum(info.train_per_class) - config.data.valid - config.labels
    each = (config.labels + config.data.valid) / classes
    if left > 0 and (config.data.split == "proportional" or each > min(info.train_per_class)):
        return  # numbers differ from class to class, and there are other images to draw
    taken, kept = config.labels // classes, config.data.valid // classes
    sets = math.prod(math.comb(count - kept, taken) for count in info.train_per_class)
    if sets < seeds:
        raise ConfigError(
            f"{seeds} seeds need as many labelled sets, but beside {config.data.valid} validation images of "
            f"{info.name!r} only {sets} of {config.labels} images can be drawn. Take fewer labels, a smaller "
            f"data.valid, or at most {counted(sets, 'seed')}."
        )
