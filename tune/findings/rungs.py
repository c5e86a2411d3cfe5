"""How many trials came to each rung, and how many were stopped there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ssl_core.system.errors import counted
from tune.trials.record import TrialRecord


@dataclass(frozen=True)
class Rung:
    """A place at which early stopping looks, or the beginning or the end of the budget.

    Attributes:
        name: as figures show it.
        reached: how many trials came there.
        stopped: how many of them were stopped there.
    """

    name: str
    reached: int
    stopped: int


def rung_counts(
    records: Sequence[TrialRecord], places: Sequence[int], fold_ends: Sequence[int] = ()
) -> list[Rung]:
    """The rungs of a study (`tune.definition.rungs.Stopping`), from the beginning to the full budget.

    Args:
        records: its trials.
        places: `Stopping.rungs`.
        fold_ends: `Stopping.fold_rungs`.
    """
    found = [Rung("begun", len(records), 0)]
    first = [_of_first_fold(r, fold_ends) for r in records]
    for place in places:
        reached = sum(at >= place for at in first)
        stopped = sum(
            r.stop_reason == "asha" and not r.folds and at == place
            for r, at in zip(records, first, strict=True)
        )
        found.append(Rung(f"{place} after warm-up", reached, stopped))
    for fold in range(1, len(fold_ends) + 1):
        reached = sum(len(r.folds) >= fold for r in records)
        stopped = sum(r.stop_reason == "asha" and len(r.folds) == fold for r in records)
        found.append(Rung(f"after {counted(fold, 'fold')}", reached, stopped))
    return [*found, Rung("full budget", sum(r.state == "completed" for r in records), 0)]


def _of_first_fold(record: TrialRecord, fold_ends: Sequence[int]) -> int:
    """Epochs after the warm-up in a trial's first fold."""
    beyond = max(0, record.epoch - fold_ends[0]) if fold_ends else 0
    return (record.ssl_epoch or 0) - beyond
