"""Which trials of a study are best, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tune.trials.record import TrialRecord


def best_record(records: Sequence[TrialRecord]) -> tuple[TrialRecord | None, bool]:
    """The best trial, and whether it ran the full budget.

    It is chosen among trials that ran the full budget, since errors at different epochs cannot be compared;
    where there is none, among those of the deepest epoch after the warm-up that any reached. Ties in
    val/error, which a small validation set often gives, are broken by val/loss.
    """
    completed = [r for r in records if r.state == "completed" and r.val_error is not None]
    candidates = completed or _deepest(
        [r for r in records if r.val_error is not None and r.state != "failed"]
    )
    if not candidates:
        return None, False
    return min(candidates, key=lambda r: (r.val_error, r.val_loss, int(r.trial))), bool(completed)


def _deepest(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    depth = max((r.ssl_epoch or 0 for r in records), default=0)
    return [r for r in records if (r.ssl_epoch or 0) == depth]


def ranked(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The trials that ended with a result, best first.

    Errors at different epochs cannot be compared: trials at full budget come first, then those that got farther.
    """
    ended = [r for r in records if r.val_error is not None and r.state in ("completed", "stopped_early")]
    return sorted(
        ended, key=lambda r: (r.state != "completed", -r.epoch, r.val_error or 0.0, r.val_loss or 0.0)
    )


def describe_best(record: TrialRecord, full_budget: bool) -> dict[str, Any]:
    """The best trial as `status` shows it; `full_budget` is false where none was at full budget."""
    return {
        "trial": record.trial,
        "val_error": record.val_error,
        "val_loss": record.val_loss,
        "epoch": record.epoch,
        "params": record.params,
        "full_budget": full_budget,
    }


def resolution(valid: int, error: float) -> float:
    """Standard deviation in points of an error of `error` percent measured on `valid` images (binomial)."""
    share = min(max(error / 100, 1 / valid), 1 - 1 / valid)  # an error of 0 is not known exactly either
    return 100 * math.sqrt(share * (1 - share) / valid)


def near_ties(records: Sequence[TrialRecord], best: TrialRecord, valid: int) -> list[TrialRecord]:
    """Other full-budget trials within one standard deviation of the best one's error."""
    assert best.val_error is not None
    reach = best.val_error + resolution(valid, best.val_error)
    return [
        r
        for r in records
        if r.state == "completed"
        and r.trial != best.trial
        and r.val_error is not None
        and r.val_error <= reach
    ]


def trials_document(records: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """What ``ssl-tune trials NAME --json`` prints."""
    names = ("trial", "state", "stop_reason", "val_error", "epoch", "ssl_epoch", "params")
    return [{name: getattr(r, name) for name in names} for r in records]
