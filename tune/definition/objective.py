"""What a search goes by: the number whose lowest value is best, for the sampler, for early stopping and for `best`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Literal

Objective = Literal["val/error_and_loss", "val/error", "val/error_balanced", "val/loss"]
BOTH: Objective = "val/error_and_loss"
"""What new studies go by: `error_and_loss`."""
DEFAULT: Objective = "val/error"
"""What studies went by before there was a choice; and the error that is shown beside a value that is none."""
FIELDS: dict[str, str] = {
    "val/error_and_loss": "val_error_and_loss",
    "val/error": "val_error",
    "val/error_balanced": "val_error_balanced",
    "val/loss": "val_loss",
}
"""Its name in results and in records of trials."""
AXES: dict[str, str] = {
    "val/error_and_loss": "log odds of the error + log loss, 3 epochs",
    "val/error": "validation error, %",
    "val/error_balanced": "mean of the classes' validation errors, %",
    "val/loss": "validation loss, nats",
}
"""What a figure's axis says of it."""
FOLD = "fold"
"""Metric of a trial with several folds (`--folds`): which one its epoch was of, from 0."""


def own(objective: str) -> str:
    """The metric that has the value of the fold under way; the one of the objective's name has the trial's."""
    return f"{FOLD}/{objective}"


LAST = 3
"""Epochs that `error_and_loss` is a mean over."""
_LEAST_LOSS = 1e-6


def error_and_loss(epochs: Sequence[tuple[float, float]], images: int) -> float:
    """The log odds of the validation error plus the log of the validation loss, a mean over the last LAST epochs.

    An error on few images takes few values, and a loss sees how sure each answer was: together they find configurations
    that are better on other images than either does (docs/search-quality.md). Half an image is added to the wrong and
    to the right ones, so that no odds are infinite.

    Args:
        epochs: val/error in percent and val/loss in nats of each finished epoch, in order; at least one.
        images: that they were measured on.

    Returns:
        A number without a unit, about -10 to 10; the lowest is best.
    """

    def of_epoch(error: float, loss: float) -> float:
        wrong = images * min(max(error, 0.0), 100.0) / 100
        return math.log((wrong + 0.5) / (images - wrong + 0.5)) + math.log(loss + _LEAST_LOSS)

    return fmean(of_epoch(error, loss) for error, loss in epochs[-LAST:])


def is_error(objective: str) -> bool:
    """Whether an objective is an error in percent."""
    return objective in ("val/error", "val/error_balanced")


def error_beside(objective: str) -> Objective:
    """The error by which trials are compared in points: the objective where it is one, else val/error."""
    return "val/error_balanced" if objective == "val/error_balanced" else DEFAULT


def told(objective: str) -> Objective:
    """What is told of a trial, and what configurations that several seeds have trained are compared by.

    It is the objective itself but for BOTH, whose value means nothing to a reader: then the error, of which a mean over
    seeds says enough.
    """
    return "val/loss" if objective == "val/loss" else error_beside(objective)


def in_words(objective: str, value: float) -> str:
    """A value with its unit: ``8.00 %`` for an error, ``0.1234`` for a loss in nats, ``-3.21`` for both together."""
    if objective == BOTH:
        return f"{value:.2f}"
    return f"{value:.4f}" if objective == "val/loss" else f"{value:.2f} %"
