"""A trial as it stands, and which trials an earlier study ran."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ssl_core.measures import balanced_deviation
from ssl_core.training.warmups.names import SAVED, is_shared
from tune.definition.objective import DEFAULT, FIELDS, FOLD, own, told

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from search_spaces import SearchSpace


@dataclass(frozen=True)
class TrialRecord:
    """A trial as it stands.

    Attributes:
        trial: its Optuna number as a string.
        state: completed, stopped_early, failed or running (also while it waits for `resume`).
        stop_reason: completed, asha, median, nan, oom, error, user or time; None while it runs.
        val_error: percent, of the last finished epoch; None before the first.
        val_error_balanced: the mean of the classes' errors, likewise; None also where an earlier version trained it.
        val_loss: nats, likewise.
        val_error_and_loss: `tune.definition.objective.error_and_loss`; None also where an earlier version trained it.
        epoch: finished epochs; 0 before the first.
        ssl_epoch: finished epochs after the warm-up; None during it.
        seconds: spent in finished epochs.
        params: searched hyperparameters, the warm-up in epochs.
        error: first line of what made it fail.
        values: the same as Optuna has them (the warm-up as searched).
        intermediate: the objective's values by ssl_epoch, as Optuna has them.
        deviation: standard deviation in points of `val_error_balanced` (`ssl_core.measures.balanced_deviation`).
        objective: what the study goes by.
        instead_of: trials whose configurations were asked for first, and known already.
        is_users: whether somebody enqueued its point.
        taken_from: the study and trial of a run that was taken over; None of a study's own trial.
        shared: finished epochs of the warm-up that another run has trained: they took no time.
        seconds_saved: that those epochs took there.
        share: finished epochs of the first fold over those of the full budget, 0 to 1.
        folds: val_error, val_error_balanced and val_loss of each fold that has finished, in order; the trial's own are
            their means. Empty in a study with one fold.
    """

    trial: str
    state: str
    stop_reason: str | None
    val_error: float | None
    val_loss: float | None
    epoch: int
    ssl_epoch: int | None
    seconds: float
    params: dict[str, Any]
    error: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    intermediate: Mapping[int, float] = field(default_factory=dict)
    val_error_balanced: float | None = None
    val_error_and_loss: float | None = None
    deviation: float | None = None
    objective: str = DEFAULT
    instead_of: tuple[str, ...] = ()
    is_users: bool = False
    taken_from: str | None = None
    shared: int = 0
    seconds_saved: float = 0.0
    folds: tuple[Mapping[str, float], ...] = ()
    share: float = 0.0

    @property
    def depth(self) -> tuple[int, int]:
        """How far the trial got, as far as its value tells: its finished folds; within the first its `ssl_epoch`."""
        return len(self.folds), 0 if self.folds else self.ssl_epoch or 0

    @property
    def trained(self) -> int:
        """Finished epochs that the trial has trained itself."""
        return self.epoch - self.shared

    @property
    def score(self) -> float | None:
        """The objective's value, of the last finished epoch; None before the first."""
        value: float | None = getattr(self, FIELDS[self.objective])
        return value

    @property
    def told(self) -> float | None:
        """The value that is told of the trial (`tune.definition.objective.told`), of the last finished epoch."""
        value: float | None = getattr(self, FIELDS[told(self.objective)])
        return value

    def row(self) -> dict[str, Any]:
        """The record without its parameters, flat."""
        measured = ("val_error", "val_error_balanced", "val_loss", "val_error_and_loss")
        names = ("trial", "state", "stop_reason", *measured, "epoch", "ssl_epoch", "seconds")
        return {name: getattr(self, name) for name in names}


_STATES = {
    "completed": "completed",
    "asha": "stopped_early",
    "median": "stopped_early",
    "time": "stopped_early",
    "user": "stopped_early",
    "race": "stopped_early",
    "nan": "failed",
    "oom": "failed",
    "error": "failed",
}


def _record(trial: FrozenTrial, space: SearchSpace, epochs: int, objective: str = DEFAULT) -> TrialRecord:
    last = trial.user_attrs.get("last", {})
    # A driver may die between noting the reason and telling: until it is told, the trial is running.
    reason = trial.user_attrs.get("stop_reason") if trial.state.is_finished() else None
    return TrialRecord(
        trial=str(trial.number),
        state=_STATES[reason] if reason else "running",
        stop_reason=reason,
        val_error=last.get("val_error"),
        val_loss=last.get("val_loss"),
        epoch=last.get("epoch", 0),
        ssl_epoch=last.get("ssl_epoch"),
        seconds=last.get("seconds", 0.0),
        params=space.resolve(trial.params, epochs),
        error=trial.user_attrs.get("error"),
        values=trial.params,
        intermediate=trial.intermediate_values,
        val_error_balanced=last.get("val_error_balanced"),
        val_error_and_loss=last.get("val_error_and_loss"),
        deviation=last.get("deviation"),
        objective=objective,
        instead_of=tuple(trial.user_attrs.get(INSTEAD_OF, ())),
        is_users=ENQUEUED in trial.user_attrs,
        taken_from=trial.user_attrs.get(TAKEN_OVER),
        shared=last.get("shared", 0),
        seconds_saved=last.get("seconds_saved", 0.0),
        folds=tuple(last.get("folds", ())),
        share=min(1.0, last.get("epoch", 0) / epochs),
    )


def shared_so_far(last: Mapping[str, Any], metrics: Mapping[str, float]) -> dict[str, Any]:
    """What is noted of a trial's epochs that another run has trained, after one more epoch; nothing without any.

    Args:
        last: what was noted before.
        metrics: of the epoch.
    """
    shared, saved = last.get("shared", 0), last.get("seconds_saved", 0.0)
    if is_shared(metrics):
        shared, saved = shared + 1, saved + metrics[SAVED]
    return {"shared": shared, "seconds_saved": saved} if shared else {}


def folds_so_far(
    last: Mapping[str, Any], metrics: Mapping[str, float], *, epoch: int, epochs: int
) -> dict[str, Any]:
    """What is noted of a trial's finished folds, after one more epoch; nothing where it has one fold or none is done.

    Args:
        last: what was noted before.
        metrics: of the epoch.
        epoch: of the trial.
        epochs: of a fold.
    """
    found = list(last.get("folds", ()))
    if FOLD in metrics and epoch % epochs == 0:
        found.append({field: metrics[own(name)] for name, field in FIELDS.items() if own(name) in metrics})
    return {"folds": found} if found else {}


def deviation_so_far(classes: Mapping[str, list[int]], folds: int) -> float | None:
    """Standard deviation of a trial's balanced error, from the counts by class of its newest epoch; None without any.

    Counts of several folds are sums over images of which many are the same. So the deviation is that of one fold: an
    upper end.

    Args:
        classes: the counts.
        folds: how many they are of; 0 and 1: the fold under way alone.
    """
    if "images" not in classes:
        return None
    return balanced_deviation(classes["images"], classes["wrong"]) * math.sqrt(max(1, folds))


TAKEN_OVER = "taken_over"
"""Attribute of a trial that another study ran: which one."""


SAME_BITS = "same_bits"
"""Attribute of a taken over trial whose configuration this study would have trained to the same bits."""


ENQUEUED = "enqueued"
"""Attribute of a trial whose point somebody enqueued, through `ssl-tune enqueue` or through Optuna."""


GIVEN = "given"
"""Attribute of a trial that was given one of the points that are tried first: its place among them."""


INSTEAD_OF = "instead_of"
"""Attribute of a trial: the trials whose configurations were asked for before its own, and not trained again."""


WISH = "wish"
"""Attribute of a trial that a wish enqueued: which one, and its place there."""


STOP_ASKED = "stop_asked"
"""Attribute of a trial that somebody stops: it ends with its next report."""


def is_own(trial: FrozenTrial, searched: Collection[str]) -> bool:
    """Whether this study runs this trial: it is not one of an earlier study, it does not wait in Optuna's queue, and
    nobody else began it or put it into the storage with its result.

    Args:
        trial: the trial.
        searched: names of the study's searched parameters: its trials have all of them from the first moment.
    """
    if is_taken_over(trial) or trial.state.name == "WAITING":
        return False
    return (
        "stop_reason" in trial.user_attrs
        if trial.state.is_finished()
        else set(searched) <= trial.params.keys()
    )


def is_taken_over(trial: FrozenTrial) -> bool:
    """Whether an earlier study ran this trial."""
    return TAKEN_OVER in trial.user_attrs
