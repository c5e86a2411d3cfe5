"""What was done to a study besides running it: it grew, a point was enqueued, a trial stopped or pinned.

Each note is an event of the log, of the kind `steered`, with a sentence and the time. The sender writes all of them to
the study's run as one text, `history.txt`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from tune.store.event_log import EventLog
from tune.store.events import Event

KIND, FILE = "steered", "history.txt"


def note(log: EventLog, study: str, said: str, key: str, **facts: object) -> bool:
    """Note what was done to a study; False, and nothing done, where it is noted already.

    Args:
        log: the study's event log.
        study: its name.
        said: a sentence without its full stop.
        key: what makes noting it again a no-op; it is the study's own.
        facts: what programs may want to know besides.
    """
    return log.append(KIND, study, {"said": said, **facts}, key=f"{study}:{KIND}:{key}")


def noted(log: EventLog, study: str, key: str) -> Event | None:
    """The note of this key, where there is one."""
    return log.find(f"{study}:{KIND}:{key}")


def notes(log: EventLog, study: str) -> list[Event]:
    """All notes of a study, oldest first."""
    return log.of_kind(study, KIND)


def as_documents(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Notes as ``ssl-tune status NAME --json`` shows them: time and sentence."""
    return [{"time": _moment(event.time_ms), "what": event.payload["said"]} for event in events]


def as_text(events: Sequence[Event]) -> str:
    """Notes as lines of text."""
    return "".join(f"{_moment(event.time_ms)} {event.payload['said']}\n" for event in events)


def pinned(events: Sequence[Event]) -> str | None:
    """The trial that was pinned last, as `tune.steering` notes it; None where none is."""
    found: str | None = None
    for event in events:
        facts: Mapping[str, Any] = event.payload
        if "pinned" in facts:
            found = facts["pinned"]
    return found


def _moment(time_ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time_ms / 1000))
