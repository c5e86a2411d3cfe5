"""Searched parameters and their ranges, in terms of Optuna's distributions."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from ssl_core.system.errors import ConfigError

SHARE = "warmup_share"
EPOCHS = "warmup_epochs"
RANGE_KEYS = ("low", "high", "log", "step")

Role = Literal["scientific", "nuisance"]


@dataclass(frozen=True)
class Parameter:
    """One searched parameter.

    Attributes:
        name: dotted, as in ``--set``; or `warmup_share`.
        distribution: its range, both ends included, before it is bound to a number of epochs.
        role: scientific (the study asks about it) or nuisance (tuned along to make the comparison fair).
        why: the reason of the range.
    """

    name: str
    distribution: BaseDistribution
    role: Role
    why: str


def describe(distribution: BaseDistribution) -> str:
    """A range in words: ``0.5 to 0.995``, ``0.003 to 0.3, log``, ``one of false, true``."""
    if isinstance(distribution, FloatDistribution | IntDistribution):
        words = f"{distribution.low} to {distribution.high}" + (", log" if distribution.log else "")
        every_one = distribution.step == (1 if isinstance(distribution, IntDistribution) else None)
        return words if every_one else f"{words}, in steps of {distribution.step}"
    return "one of " + ", ".join(
        choice if isinstance(choice, str) else json.dumps(choice) for choice in choices(distribution)
    )


def bound(parameter: Parameter, epochs: int, source: str) -> BaseDistribution:
    """A parameter's range in runs of `epochs` epochs, where a warm-up must be shorter than the run.

    Raises:
        ConfigError: no warm-up of the range is; `source` is the space, named in the message.
    """
    distribution = parameter.distribution
    if parameter.name != EPOCHS:
        return distribution
    if isinstance(distribution, IntDistribution):
        low, step, longest = distribution.low, distribution.step, min(distribution.high, epochs - 1)
        if longest >= low:
            high = low + (longest - low) // step * step
            return IntDistribution(low, high, log=distribution.log, step=step)
        shortest = low
    else:
        shorter = [choice for choice in choices(distribution) if choice < epochs]
        if shorter:
            return CategoricalDistribution(shorter)
        shortest = min(choices(distribution))
    raise ConfigError(
        f"{source}: {EPOCHS} is searched from {shortest} on, but must be shorter than the run of {epochs} "
        f"epochs. Take more epochs, a lower end, or {SHARE}."
    )


def choices(distribution: BaseDistribution) -> tuple[Any, ...]:
    """The choices of a categorical distribution."""
    assert isinstance(distribution, CategoricalDistribution)
    return distribution.choices


def holds(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a value is of the distribution's type and within it."""
    if isinstance(distribution, CategoricalDistribution):  # 1 == True, but they are different choices
        is_bool = isinstance(value, bool)
        return any(c == value and isinstance(c, bool) == is_bool for c in distribution.choices)
    if not is_number(value) or (isinstance(distribution, IntDistribution) and not isinstance(value, int)):
        return False
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if not distribution.low <= value <= distribution.high:
        return False
    if distribution.step is None:
        return True
    steps = (value - distribution.low) / distribution.step
    return abs(steps - round(steps)) < 1e-8


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value is a finite number (a boolean is none) that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def plain(distribution: BaseDistribution) -> dict[str, Any]:
    """A distribution as plain data, in our own words, so that an upgrade of Optuna does not change a digest."""
    if isinstance(distribution, FloatDistribution | IntDistribution):
        kind = "float" if isinstance(distribution, FloatDistribution) else "int"
        return {"type": kind} | {key: getattr(distribution, key) for key in RANGE_KEYS}
    return {"type": "categorical", "choices": list(choices(distribution))}
