"""What the HTML page of a study consists of: sections with sentences, tables, pictures and folded text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ssl_core.config import RunConfig
from tune.definition.objective import AXES
from tune.findings.study import Study
from tune.store.event_log import EventLog
from tune.store.events import Report
from tune.trials.record import TrialRecord


@dataclass(frozen=True)
class Table:
    """Rows under a head.

    Attributes:
        head: the columns' titles; all empty: no head is shown.
        rows: text, one row after the other.
        numeric: places of the columns that are aligned to the right.
        strong: places of the rows that are set in bold.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[int] = frozenset()
    strong: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Figure:
    """A picture as PNG, and a sentence that says what it shows."""

    png: bytes
    caption: str


@dataclass(frozen=True)
class Chart:
    """A picture as SVG, and a sentence that says what it shows.

    Attributes:
        svg: made by `tune.page.charts`, which escapes all text in it.
        caption: the sentence.
        wide: it needs the page's whole width.
    """

    svg: str
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Hidden:
    """Text that is shown only after a click on its title."""

    title: str
    text: str


Item = Table | Figure | Chart | Hidden


@dataclass(frozen=True)
class Part:
    """A section of the page: sentences first, then the items. An empty section is not shown."""

    title: str
    sentences: Sequence[str] = ()
    items: Sequence[Item] = ()


@dataclass(frozen=True)
class Content:
    """The whole page.

    Attributes:
        study: its name.
        subtitle: method, data and network, in one line.
        facts: the numbers at the top, as pairs of label and value.
        verdict: the outcome in words; the first sentence is set in bold.
        parts: the sections.
        closing: the line at the foot of the page.
        refresh: seconds between two looks of a page that is served while the study runs; None: a page in a file, which
            has no scripts.
    """

    study: str
    subtitle: str
    facts: Sequence[tuple[str, str]]
    verdict: Sequence[str]
    parts: Sequence[Part] = field(default_factory=tuple)
    closing: str = ""
    refresh: float | None = None


@dataclass(frozen=True)
class Look:
    """A study as it is when its page is made.

    Attributes:
        study: the study.
        records: its trials.
        best: the best trial.
        full: whether the best trial ran the full budget.
        config: the configuration that all trials share.
        confirmation: the result of the last confirmation; None if there was none.
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
    def objective(self) -> str:
        """What the study goes by."""
        return self.study.spec.objective

    @property
    def axis(self) -> str:
        """What a figure's axis says of the objective."""
        return AXES[self.objective]

    @property
    def measured(self) -> str:
        """The objective in words: "validation error"."""
        return self.axis.rpartition(",")[0]

    def reports(self, records: Sequence[TrialRecord]) -> dict[str, list[Report]]:
        """Learning curves by trial."""
        with EventLog(self.study.folder.events_db, read_only=True) as log:
            return {r.trial: log.reports(f"{self.study.name}/{r.trial}") for r in records}
