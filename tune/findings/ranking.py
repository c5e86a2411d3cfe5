"""Which trials of a study are best, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tune.definition.objective import BOTH, FIELDS, error_beside
from tune.trials.record import TrialRecord

HALF = 0.5
"""Share of the full budget from which on a trial can be recommended that goes by error and loss."""


def best_record(records: Sequence[TrialRecord]) -> tuple[TrialRecord | None, bool]:
    """The best trial, and whether it ran the full budget.

    It is chosen among trials that ran the full budget, since errors at different epochs cannot be compared;
    where there is none, among those of the deepest epoch after the warm-up that any reached. With several folds
    (`--folds`) the full budget is all of them, and then counts how many a trial has finished. The lowest value of the
    study's objective is best. Ties in an error, which a small validation set often gives, are broken by val/loss.

    Where the study goes by `val/error_and_loss`, every trial that ran HALF of the budget is a candidate: while few ran
    all of it that recommends better ones, and later on no worse ones (docs/search-quality.md).
    """
    chosen = candidates(records)
    if not chosen:
        return None, False
    best = min(chosen, key=lambda r: (*_order(r), int(r.trial)))
    return best, best.state == "completed"


def candidates(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The trials that `best_record` chooses from."""
    known = [r for r in records if r.score is not None and r.state != "failed"]
    if any(r.objective == BOTH for r in known) and not any(r.folds for r in known):
        found = [r for r in known if r.share >= HALF]
    else:
        found = [r for r in known if r.state == "completed"]
    return found or _deepest(known)


def _order(record: TrialRecord) -> tuple[float, float]:
    """What a trial is ranked by: the objective's value, then the loss (where that is the objective, the error)."""
    second = record.val_error if record.objective == "val/loss" else record.val_loss
    return record.score or 0.0, second or 0.0


def _deepest(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    depth = max((r.depth for r in records), default=(0, 0))
    return [r for r in records if r.depth == depth]


def ranked(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The trials that ended with a result, best first.

    Errors at different epochs cannot be compared: what `best_record` chooses from comes first, then trials that got
    farther.
    """
    ended = [r for r in records if r.score is not None and r.state in ("completed", "stopped_early")]
    chosen = {r.trial for r in candidates(records)}
    first = sorted((r for r in ended if r.trial in chosen), key=_order)
    return first + sorted(
        (r for r in ended if r.trial not in chosen), key=lambda r: (*_farthest_first(r), *_order(r))
    )


def _farthest_first(record: TrialRecord) -> tuple[int, int]:
    """By finished folds; within the first by epochs: those of a later fold tell nothing until it has finished."""
    return -len(record.folds), 0 if record.folds else -record.epoch


def describe_best(record: TrialRecord, full_budget: bool) -> dict[str, Any]:
    """The best trial as `status` shows it; `full_budget` is false where none was at full budget."""
    return {
        "trial": record.trial,
        "val_error": record.val_error,
        "val_error_balanced": record.val_error_balanced,
        "val_loss": record.val_loss,
        "val_error_and_loss": record.val_error_and_loss,
        "epoch": record.epoch,
        "params": record.params,
        "full_budget": full_budget,
        **({"folds": len(record.folds)} if record.folds else {}),
    }


def resolution(valid: int, error: float) -> float:
    """Standard deviation in points of an error of `error` percent measured on `valid` images (binomial)."""
    share = min(max(error / 100, 1 / valid), 1 - 1 / valid)  # an error of 0 is not known exactly either
    return 100 * math.sqrt(share * (1 - share) / valid)


def error_of(record: TrialRecord) -> float | None:
    """The error by which trials are told apart, in percent: the objective's own; else the val/error beside it."""
    value: float | None = getattr(record, FIELDS[error_beside(record.objective)])
    return value


def deviation_of(record: TrialRecord, valid: int) -> float:
    """Standard deviation in points of a trial's `error_of` on `valid` images, as far as it comes from their choice."""
    balanced = record.objective == "val/error_balanced" and record.deviation is not None
    return (record.deviation or 0.0) if balanced else resolution(valid, error_of(record) or 0.0)


def shows_balanced(records: Sequence[TrialRecord]) -> bool:
    """Whether a table of trials needs a column for the balanced error: where it goes by it, or the two errors differ.

    With as many validation images of every class they are the same.
    """
    pairs = [(r.val_error, r.val_error_balanced, r.objective) for r in records]
    return any(
        balanced is not None and (objective == "val/error_balanced" or abs(balanced - (error or 0.0)) > 0.005)
        for error, balanced, objective in pairs
    )


def near_ties(records: Sequence[TrialRecord], best: TrialRecord, valid: int) -> list[TrialRecord]:
    """Other trials of a study within one standard deviation of the best one's error (`error_of`).

    They ran the full budget; in a study that goes by error and loss every candidate counts.
    """
    reach = (error_of(best) or 0.0) + deviation_of(best, valid)
    compared = (
        candidates(records) if best.objective == BOTH else [r for r in records if r.state == "completed"]
    )
    others = [r for r in compared if r.trial != best.trial]
    return [r for r in others if (error := error_of(r)) is not None and error <= reach]


def trials_document(records: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """What ``ssl-tune trials NAME --json`` prints."""
    measured = ("val_error", "val_error_balanced", "val_loss", "val_error_and_loss")
    names = ("trial", "state", "stop_reason", *measured, "epoch", "ssl_epoch", "params")
    has_folds = any(r.folds for r in records)
    return [
        {name: getattr(r, name) for name in names}
        | ({"folds": [dict(fold) for fold in r.folds]} if has_folds else {})
        for r in records
    ]
