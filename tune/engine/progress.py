"""Shows how a sitting goes: a live table on a terminal, plain lines elsewhere, nothing where asked for."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from tune.definition.objective import DEFAULT, in_words, is_error, told
from tune.findings.ranking import best_record
from tune.findings.words import duration, last_epochs, parameters, result

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from tune.definition.spec import StudySpec
    from tune.trials.record import TrialRecord

REFRESH_SECONDS = 0.5
LAST_EPOCHS = 4  # of a running trial, in the live table
SHARE_OF_TIME = 20  # looking at all trials may cost a twentieth of the driver's time at most


class Progress:
    """Shows nothing; the base of those that do."""

    def begin(
        self, spec: StudySpec, records: Callable[[], Sequence[TrialRecord]], waiting: Callable[[], str]
    ) -> None:
        """A sitting begins.

        Args:
            spec: the study.
            records: gives its trials as they stand.
            waiting: says what tracking still owes; nothing where all is well.
        """
        self.spec, self._records, self._waiting = spec, records, waiting
        self._began = time.monotonic()
        self._next_look = 0.0
        earlier = records()
        self._epochs_before = sum(r.trained for r in earlier)
        self._ended = {r.trial for r in earlier if r.state != "running"}

    def update(self) -> None:
        """Something happened."""
        now = time.monotonic()
        if now < self._next_look:
            return
        records = self._records()
        self.show(records)
        took = time.monotonic() - now
        self._next_look = now + max(REFRESH_SECONDS, SHARE_OF_TIME * took)

    def end(self) -> None:
        """The sitting is over."""
        self.show(self._records())

    def show(self, records: Sequence[TrialRecord]) -> None:
        """Show the trials as they stand."""

    def say(self, message: str) -> None:
        """Say something once."""

    def summary(self, records: Sequence[TrialRecord]) -> str:
        """One line: trials by state, best so far, epochs a second, time left, what waits for MLflow."""
        states = Counter(r.state for r in records)
        ended = sum(n for state, n in states.items() if state != "running")
        parts = [f"{ended}{self.spec.out_of} trials ended"]
        parts += [f"{n} {state.replace('_', ' ')}" for state, n in sorted(states.items())]
        best, full = best_record(records)
        if best is not None and best.told is not None:
            objective = told(self.spec.objective)
            named = "" if objective == DEFAULT else f"{objective} "
            parts.append(
                f"best {named}{in_words(objective, best.told)} "
                f"(trial {best.trial}{'' if full else ', not at full budget'})"
            )
        seconds = time.monotonic() - self._began
        epochs = sum(r.trained for r in records)
        rate = (epochs - self._epochs_before) / seconds if seconds else 0.0
        parts.append(f"{rate:.2f} epochs/s")
        if rate and ended and not self.spec.ends_by_epochs:
            mean = sum(r.trained for r in records if r.state != "running") / ended
            under_way = sum(max(0.0, mean - r.trained) for r in records if r.state == "running")
            left = (mean * (self.spec.trials - len(records)) + under_way) / rate
            parts.append(f"about {duration(left)} left")
        if waiting := self._waiting():
            parts.append(waiting)
        return ", ".join(parts)


class PlainProgress(Progress):
    """A line when a trial ends, on standard error."""

    def show(self, records: Sequence[TrialRecord]) -> None:
        """A line for each trial that ended since the last look, and how the study stands."""
        news = [r for r in records if r.state != "running" and r.trial not in self._ended]
        for record in news:
            self._ended.add(record.trial)
            self.say(_line(record))
        if news:
            self.say(f"  {self.summary(records)}")

    def say(self, message: str) -> None:
        _print(message)


class LiveProgress(Progress):
    """A table that is drawn again in place, on standard error."""

    def begin(
        self, spec: StudySpec, records: Callable[[], Sequence[TrialRecord]], waiting: Callable[[], str]
    ) -> None:
        """Open the live table."""
        from rich.console import Console  # a search without a terminal needs none of rich
        from rich.live import Live

        super().begin(spec, records, waiting)
        self._console = Console(stderr=True, markup=False, highlight=False)
        self._live: Live = Live(self._table(records()), console=self._console, auto_refresh=False)
        self._live.start(refresh=True)

    def show(self, records: Sequence[TrialRecord]) -> None:
        """Draw the table."""
        self._live.update(self._table(records), refresh=True)

    def end(self) -> None:
        """Draw the table for the last time, and close it."""
        super().end()
        self._live.stop()

    def say(self, message: str) -> None:
        if hasattr(self, "_console"):
            self._console.print(message)
        else:
            _print(message)

    def _table(self, records: Sequence[TrialRecord]) -> Table:
        from rich.table import Table

        table = Table(title=f"study {self.spec.name}", caption=self.summary(records), caption_justify="left")
        objective = told(self.spec.objective)
        unit = " %" if is_error(objective) else ""
        for column in ("trial", "state", "epoch", f"{objective}{unit}"):
            table.add_column(column, justify="right" if column != "state" else "left")
        table.add_column("searched")
        best, _ = best_record(records)
        shown = [r for r in records if r.state == "running"]
        finished = sorted(
            (r for r in records if r.state == "completed" and r.score is not None),
            key=lambda r: r.score or 0,
        )
        for record in [*finished[:5], *shown[-12:]]:
            style = "bold green" if best is not None and record.trial == best.trial else None
            error = last_epochs(record, LAST_EPOCHS if record.state == "running" else 1)
            table.add_row(
                record.trial, record.state, f"{record.epoch}", error, parameters(record.params), style=style
            )
        return table


def make_progress(*, quiet: bool = False) -> Progress:
    """What fits standard error: a live table for a terminal, else plain lines; nothing if `quiet`."""
    if quiet:
        return Progress()
    return LiveProgress() if sys.stderr.isatty() else PlainProgress()


def _print(message: str) -> None:
    """A line on standard error; a study goes on when nobody reads it any more."""
    with suppress(OSError):
        print(message, file=sys.stderr, flush=True)  # noqa: T201


def _line(record: TrialRecord) -> str:
    why = f" ({record.stop_reason})" if record.state != "completed" else ""
    what = f": {record.error.splitlines()[-1]}" if record.error else ""
    return (
        f"trial {record.trial} {record.state.replace('_', ' ')}{why} at epoch {record.epoch}: {result(record)}"
        f"  [{parameters(record.params)}]{what}"
    )
