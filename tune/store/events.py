"""The events of a study's log, and how they are written as rows of its table."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class NewEvent(NamedTuple):
    """An event to append: see `EventLog.append`."""

    kind: str
    run: str
    payload: Mapping[str, object]
    key: str | None = None
    time_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event as it lies in the log.

    Attributes:
        id: the order in which events were appended.
        key: what makes appending it again a no-op; None where it may happen any number of times.
        kind: what happened, for example "metrics"; `tune.tracking.tracker` lists the kinds.
        run: the run's own key, for example "my-study/7".
        payload: the event's data.
        time_ms: Unix time in milliseconds, fixed when the event was appended.
    """

    id: int
    key: str | None
    kind: str
    run: str
    payload: dict[str, object]
    time_ms: int


class DeadLetter(NamedTuple):
    """An event that tracking refused for good, and why."""

    event: Event
    reason: str


class Report(NamedTuple):
    """One epoch of one run, as it was reported; `classes` as in `ssl_core.training.run.Report`."""

    epoch: int
    time_ms: int
    metrics: dict[str, float]
    classes: dict[str, list[int]] = {}  # noqa: RUF012 - never written to


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


def row_of(event: NewEvent) -> tuple[str | None, str, str, str, int]:
    """The columns key, kind, run, payload and time_ms."""
    payload = json.dumps(event.payload, separators=(",", ":"))
    time_ms = now_ms() if event.time_ms is None else event.time_ms
    return event.key, event.kind, event.run, payload, time_ms


def event_of(row: tuple[object, ...]) -> Event:
    """An event of the columns id, key, kind, run, payload and time_ms."""
    id, key, kind, run, payload, time_ms = row
    return Event(
        id=integer(id),
        key=None if key is None else str(key),
        kind=str(kind),
        run=str(run),
        payload=json.loads(str(payload)),
        time_ms=integer(time_ms),
    )


def integer(value: object) -> int:
    """A column that holds whole numbers; raises TypeError where it holds something else."""
    if not isinstance(value, int):
        raise TypeError(f"the event log holds {value!r} where a whole number belongs")
    return value
