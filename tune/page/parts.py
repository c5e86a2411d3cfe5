"""What a page is made of: sections of sentences, tables, pictures and text that is folded away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ssl_core.config import RunConfig
from tune.findings.study import Study
from tune.store.event_log import EventLog
from tune.store.events import Report
from tune.trials.record import TrialRecord


@dataclass(frozen=True)
class Table:
    """Rows under a head; the numbers of the columns in `numeric` stand to the right, rows in `strong` stand out."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[int] = frozenset()
    strong: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Figure:
    """A picture as PNG, and what to see in it."""

    png: bytes
    caption: str


@dataclass(frozen=True)
class Hidden:
    """Text that is folded away under a title."""

    title: str
    text: str


Item = Table | Figure | Hidden


@dataclass(frozen=True)
class Part:
    """A section of the page: sentences first, then what else there is; an empty one is not shown."""

    title: str
    sentences: Sequence[str] = ()
    items: Sequence[Item] = ()


@dataclass(frozen=True)
class Content:
    """The whole page.

    Attributes:
        study: its name.
        subtitle: method, data and network in a line.
        facts: the figures at the top, each with its label.
        verdict: the outcome in words; the first sentence stands out.
        parts: the sections.
        closing: the line at the foot.
    """

    study: str
    subtitle: str
    facts: Sequence[tuple[str, str]]
    verdict: Sequence[str]
    parts: Sequence[Part] = field(default_factory=tuple)
    closing: str = ""


@dataclass(frozen=True)
class Look:
    """A study as it stands while its page is made.

    Attributes:
        study: the study.
        records: its trials.
        best: the best of them.
        full: whether that one ran the full budget.
        config: what all trials share.
        confirmation: what the last confirmation found, if there was one.
    """

    study: Study
    records: Sequence[TrialRecord]
    best: TrialRecord
    full: bool
    config: RunConfig
    confirmation: Mapping[str, Any] | None

    @property
    def valid(self) -> int:
        """How many validation images there are."""
        assert self.config.data.valid is not None
        return self.config.data.valid

    @property
    def best_error(self) -> float:
        """The best trial's error, percent of the validation images."""
        assert self.best.val_error is not None
        return self.best.val_error

    def reports(self, records: Sequence[TrialRecord]) -> dict[str, list[Report]]:
        """Learning curves by trial."""
        with EventLog(self.study.folder.events_db, read_only=True) as log:
            return {r.trial: log.reports(f"{self.study.name}/{r.trial}") for r in records}


def value(given: object) -> str:
    """A parameter's value, floats to four digits."""
    return "" if given is None else f"{given:.4g}" if isinstance(given, float) else str(given)


def parameters(params: Mapping[str, Any]) -> str:
    """Parameters in a line."""
    return ", ".join(f"{name} {value(given)}" for name, given in params.items())
