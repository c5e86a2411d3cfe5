"""What a search goes by: the number whose lowest value is best, for the sampler, for early stopping and for `best`."""

from __future__ import annotations

from typing import Literal

Objective = Literal["val/error", "val/error_balanced", "val/loss"]
DEFAULT: Objective = "val/error"
FIELDS: dict[str, str] = {
    "val/error": "val_error",
    "val/error_balanced": "val_error_balanced",
    "val/loss": "val_loss",
}
"""Its name in results and in records of trials."""
AXES: dict[str, str] = {
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


def in_words(objective: str, value: float) -> str:
    """A value with its unit: ``8.00 %`` for an error, ``0.1234`` for a loss in nats."""
    return f"{value:.4f}" if objective == "val/loss" else f"{value:.2f} %"
