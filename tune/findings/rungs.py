"""How many trials came to each rung, and how many were stopped there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


def rung_counts(records: Sequence[TrialRecord], places: Sequence[int]) -> list[Rung]:
    """The rungs of a study (`tune.definition.rungs.Stopping.rungs`), from the beginning to the full budget."""
    found = [Rung("begun", len(records), 0)]
    for place in places:
        reached = sum((r.ssl_epoch or 0) >= place for r in records)
        stopped = sum(r.stop_reason == "asha" and r.ssl_epoch == place for r in records)
        found.append(Rung(f"{place} after warm-up", reached, stopped))
    return [*found, Rung("full budget", sum(r.state == "completed" for r in records), 0)]
