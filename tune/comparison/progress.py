"""Shows how a comparison goes: a table with a row for each method on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tune.definition.objective import in_words, told
from tune.engine.progress import PlainProgress, Progress
from tune.findings.ranking import best_record

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from tune.trials.record import TrialRecord


class Shown:
    """Shows nothing; the base of those that do. Gives each study what shows how that study goes."""

    def of(self, method: str) -> Progress:
        """The progress of one method's study."""
        return Progress()

    def say(self, message: str) -> None:
        """A line that concerns all of the studies."""

    def close(self) -> None:
        """No trial runs any more."""


class Notes(Progress):
    """What concerns all of the studies, as the comparison shows it."""

    def __init__(self, shown: Shown) -> None:
        self._shown = shown

    def say(self, message: str) -> None:
        self._shown.say(message)


class ShownPlainly(Shown):
    """A line when a trial ends, with its method before it, on standard error."""

    def of(self, method: str) -> Progress:
        """The progress of one method's study."""
        return _Named(method)

    def say(self, message: str) -> None:
        """A line on standard error."""
        PlainProgress().say(message)


class _Named(PlainProgress):
    """Lines of one study among those of others."""

    def __init__(self, method: str) -> None:
        self._method = method

    def say(self, message: str) -> None:
        super().say(f"{self._method}: {message.lstrip()}")


class ShownLive(Shown):
    """A table with a row for each method, drawn again in place on standard error."""

    def __init__(self) -> None:
        from rich.console import Console  # a search without a terminal needs none of rich

        self._console = Console(stderr=True, markup=False, highlight=False)
        self._live: Live | None = None
        self.rows: dict[str, tuple[str, ...]] = {}

    def of(self, method: str) -> Progress:
        """The progress of one method's study."""
        return _Row(self, method)

    def say(self, message: str) -> None:
        """A line above the table."""
        self._console.print(message)

    def draw(self) -> None:
        """Draw the table as the rows are now."""
        if self._live is None:
            from rich.live import Live

            self._live = Live(self.table(), console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(self.table(), refresh=True)

    def table(self) -> Table:
        """The table as the rows are now."""
        from rich.table import Table

        table = Table(title="comparison")
        for column in ("method", "trials ended", "running", "best so far", "epochs"):
            table.add_column(column, justify="left" if column == "method" else "right")
        for method, row in self.rows.items():
            table.add_row(method, *row)
        return table

    def close(self) -> None:
        """Leave the table as it is, and draw no more."""
        if self._live is not None:
            self._live.stop()
            self._live = None


class _Row(Progress):
    """One method's row of the table."""

    def __init__(self, shown: ShownLive, method: str) -> None:
        self._shown, self._method = shown, method

    def show(self, records: Sequence[TrialRecord]) -> None:
        """Draw the row."""
        states = Counter(record.state for record in records)
        running = states.pop("running", 0)
        best, _ = best_record(records)
        found = "" if best is None or best.told is None else in_words(told(best.objective), best.told)
        self._shown.rows[self._method] = (
            f"{sum(states.values())}{self.spec.out_of}",
            str(running),
            found,
            str(sum(record.epoch for record in records)),
        )
        self._shown.draw()

    def say(self, message: str) -> None:
        self._shown.say(f"{self._method}: {message.lstrip()}")


def make_shown(*, quiet: bool = False) -> Shown:
    """What fits standard error: a live table for a terminal, else plain lines; nothing if `quiet`."""
    if quiet:
        return Shown()
    return ShownLive() if sys.stderr.isatty() else ShownPlainly()
