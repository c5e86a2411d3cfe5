"""What commands print: JSON for machines, tables for people."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from ssl_core.system.errors import counted
from tune.findings.ranking import best_record, deviation_of, near_ties, ranked, shows_balanced
from tune.findings.words import certainty, parameters, uncertain

if TYPE_CHECKING:
    from tune.findings.study import Study
    from tune.trials.record import TrialRecord

WIDTH_ELSEWHERE = 140  # columns where standard output is no terminal


def console(*, to_error: bool = False) -> Console:
    """Standard output (or standard error), wide if it is a file or a pipe; brackets in values are text, not markup.

    Sentences are not broken into lines: a command that is printed can be copied whole.
    """
    stream = sys.stderr if to_error else sys.stdout
    width = None if stream.isatty() else WIDTH_ELSEWHERE
    return Console(file=stream, width=width, highlight=False, markup=False, soft_wrap=True)


def typed(verb: str, name: str | None, home: str | None) -> str:
    """A command as the user would type it, with the same home."""
    words = ["ssl-tune", verb, *([name] if name else []), *(["--home", str(home)] if home else [])]
    return shlex.join(words)


def print_json(document: object) -> None:
    """One JSON document on standard output; NaN, which JSON lacks, becomes null."""
    print(json.dumps(_finite(document), indent=2))  # noqa: T201


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and value - value != 0 else value


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """Print a table; numbers are aligned to the right."""
    listed = [list(row) for row in rows]
    table = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        numeric = all(isinstance(row[place], int | float) or row[place] in ("", None) for row in listed)
        table.add_column(column, justify="right" if numeric and listed else "left", overflow="fold")
    for row in listed:
        table.add_row(*[_cell(value) for value in row])
    console().print(table, soft_wrap=False)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_study(study: Study, records: Sequence[TrialRecord] | None = None, top: int = 10) -> None:
    """A study's outcome: the ten best trials, and how much the best one's lead means.

    Args:
        study: the study.
        records: its trials, where they have been read already.
        top: how many trials to show.
    """
    records = study.records() if records is None else records
    shown = ranked(records)[:top]
    found = f"best {len(shown)} of {counted(len(records), 'trial')}"
    print_trials(shown, title=f"study {study.name}: {found}, {study.spec.protocol} protocol")
    best, full = best_record(records)
    if best is None or best.val_error is None:
        return
    valid = study.spec.config["data"]["valid"]
    spread = deviation_of(best, valid)
    out = console()
    where = "" if full else f" after {counted(best.epoch, 'epoch')} (no trial ran the full budget)"
    out.print(f"best: trial {best.trial}, {uncertain(best, spread)}{where}")
    ties = near_ties(records, best, valid)
    if ties:
        out.print(certainty(valid, spread, best.trial, [r.trial for r in ties]))


def print_trials(records: Sequence[TrialRecord], title: str | None = None) -> None:
    """Print trials as a table."""
    names = list(records[0].params) if records else []
    balanced = shows_balanced(records)
    rows = [
        [
            r.trial,
            r.state.replace("_", " "),
            "" if r.stop_reason in (None, "completed") else r.stop_reason,
            "" if r.val_error is None else round(r.val_error, 2),
            *(["" if r.val_error_balanced is None else round(r.val_error_balanced, 2)] if balanced else []),
            "" if r.val_loss is None else round(r.val_loss, 4),
            r.epoch,
            *[r.params.get(n, "") for n in names],
        ]
        for r in records
    ]
    errors = ["val/error %", *(["val/error_balanced %"] if balanced else [])]
    columns = ["trial", "state", "why", *errors, "val/loss", "epoch", *names]
    print_table(columns, rows, title)


def print_confirmation(document: dict[str, Any]) -> None:
    """Print configurations and the baseline on fresh seeds, side by side."""
    from tune.findings.confirmation import title

    rows = [
        [
            title(row["who"])
            + (" *" if row["who"] == document["winner"] and len(document["rows"]) > 2 else ""),
            parameters(row["params"]),
            _spread(row["val_error"]),
            _spread(row["test_error"]),
            _interval(row["test_interval"]),
            "" if row["seconds"] is None else f"{row['seconds']:.1f}",
        ]
        for row in document["rows"]
    ]
    seeds = len(document["seeds"])
    print_table(
        ["configuration", "searched", "val/error %", "test/error %", "95 % interval", "seconds"],
        rows,
        title=f"confirmed on {counted(seeds, 'fresh seed')}, {counted(document['steps'], 'step')} each (mean ± std)",
    )
    for sentence in document["verdict"]:
        console().print(sentence)


def _spread(values: Sequence[float]) -> str:
    from tune.findings.comparisons import Spread

    return str(Spread(tuple(values))) if values else "no result"


def _interval(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"
