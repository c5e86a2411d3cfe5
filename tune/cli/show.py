"""What commands print: JSON for machines, tables for people."""

from __future__ import annotations

import json
import shlex
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ssl_core.system.errors import counted
from tune.cli.line.layout import print_columns
from tune.findings.outlook.expected import expectation
from tune.findings.ranking import best_record, deviation_of, near_ties, ranked, shows_balanced
from tune.findings.words import certainty, last_epochs, parameters, result, uncertain

if TYPE_CHECKING:
    from tune.findings.study import Study
    from tune.trials.record import TrialRecord

FAILED_SHOWN = 5
"""Failed trials in a table of the best."""
WIDTH_ELSEWHERE = 140  # columns where standard output is no terminal
MOMENT = 1.5  # seconds of waiting of which nothing is said


def console(*, to_error: bool = False) -> Console:
    """Standard output (or standard error), wide if it is a file or a pipe; brackets in values are text, not markup.

    Sentences are not broken into lines: a command that is printed can be copied whole.
    """
    stream = sys.stderr if to_error else sys.stdout
    width = None if stream.isatty() else WIDTH_ELSEWHERE
    return Console(file=stream, width=width, highlight=False, markup=False, soft_wrap=True)


def typed(verb: str, name: str | None, home: str | None, *more: str) -> str:
    """A command as the user would type it, with the same home."""
    words = ["ssl-tune", verb, *([name] if name else []), *more, *(["--home", str(home)] if home else [])]
    return shlex.join(words)


@contextmanager
def waiting(what: str, seconds: float | None = None) -> Iterator[None]:
    """Say on standard error what a block waits for, where that takes longer than a moment.

    Args:
        what: that is waited for, as it follows "waiting for".
        seconds: how long nothing is said; None: `MOMENT`.
    """
    text = f"ssl-tune: waiting for {what} ..."
    timer = threading.Timer(MOMENT if seconds is None else seconds, lambda: print(text, file=sys.stderr))  # noqa: T201
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


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
    """Print a table; numbers are aligned to the right. No word is broken (`tune.cli.line.layout`)."""
    listed = [list(row) for row in rows]
    right = [
        bool(listed)
        and all(isinstance(row[place], int | float) or row[place] in ("", None) for row in listed)
        for place in range(len(columns))
    ]
    out = console()
    cells = [[_cell(value) for value in row] for row in listed]
    width = out.width if sys.stdout.isatty() else None
    print_columns(out, columns, cells, right=right, title=title, width=width)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_study(study: Study, records: Sequence[TrialRecord] | None = None, top: int = 10) -> None:
    """A study's outcome: the ten best trials, those that failed, and how much the best one's lead means.

    Args:
        study: the study.
        records: its trials, where they have been read already.
        top: how many trials to show.
    """
    records = study.records() if records is None else records
    best, full = best_record(records)
    shown = ranked(records)[:top]
    found = f"best {len(shown)} of {counted(len(records), 'trial')}"
    lost = [r for r in records if r.state == "failed"]
    if best is not None and best.trial not in {r.trial for r in shown}:  # it is still running
        shown = [best, *shown]
        found = f"{found}, and the one that leads"
    title = f"study {study.name}: {found}, {study.spec.protocol} protocol"
    print_trials([*shown, *lost[:FAILED_SHOWN]], title=title)
    if any(r.stop_reason != "nan" for r in lost):
        again = study.folder.command("resume", "--retry-failed")
        console().print(
            f"{counted(len(lost), 'trial')} failed. Once the cause is mended, run them again with: {again}"
        )
    if best is None or best.val_error is None:
        return
    valid = study.spec.config["data"]["valid"]
    spread = deviation_of(best, valid)
    out = console()
    where = "" if full else f" after {counted(best.epoch, 'epoch')}, not the full budget"
    out.print(f"best: trial {best.trial}, {uncertain(best, spread)}{where}")
    expected = expectation(records, best, valid)
    if expected is not None:
        out.print(f"{expected.says}.")
    ties = near_ties(records, best, valid)
    if ties:
        out.print(certainty(valid, spread, best.trial, [r.trial for r in ties]))
    if (pinned := next((r for r in records if r.trial == study.pinned()), None)) is not None:
        out.print(f"pinned: trial {pinned.trial}, {uncertain(pinned, deviation_of(pinned, valid))}")
    for doubt in study.doubts(records):
        out.print(f"careful: {doubt}")
    print_known(study, records)


def print_known(study: Study, records: Sequence[TrialRecord]) -> None:
    """Print which configurations were asked for that were trained before: taken over, or not trained again."""
    out = console()
    for record in study.taken_over():
        found = f"taken over, not trained again: {record.taken_from}, {result(record)}"
        out.print(f"{found}  [{parameters(record.params)}]")
    if again := Counter(trial for r in records for trial in r.instead_of if "/" not in trial):
        listed = ", ".join(f"{trial} ({counted(count, 'time')})" for trial, count in again.items())
        out.print(f"asked for again, and not trained again: the configurations of trial {listed}")


def print_running(records: Sequence[TrialRecord], epochs: int) -> None:
    """Print the trials that run, or that wait for `resume`, with their last epochs; nothing where there are none.

    Args:
        records: a study's trials.
        epochs: of the full budget.
    """
    running = [r for r in records if r.state == "running"]
    if not running:
        return
    rows = [
        [
            r.trial,
            f"{r.epoch} of {epochs}",
            last_epochs(r),
            parameters(r.params),
        ]
        for r in running
    ]
    print_table(
        ["trial", "epoch", f"{running[0].objective}, last epochs", "searched"], rows, title="under way"
    )


def print_trials(records: Sequence[TrialRecord], title: str | None = None) -> None:
    """Print trials as a table."""
    names = list(records[0].params) if records else []
    balanced, folded = shows_balanced(records), any(r.folds for r in records)
    rows = [
        [
            r.trial,
            r.state.replace("_", " "),
            "" if r.stop_reason in (None, "completed") else r.stop_reason,
            "" if r.val_error is None else round(r.val_error, 2),
            *(["" if r.val_error_balanced is None else round(r.val_error_balanced, 2)] if balanced else []),
            "" if r.val_loss is None else round(r.val_loss, 4),
            r.epoch,
            *([len(r.folds)] if folded else []),
            *[r.params.get(n, "") for n in names],
        ]
        for r in records
    ]
    errors = ["val/error %", *(["val/error_balanced %"] if balanced else [])]
    columns = ["trial", "state", "why", *errors, "val/loss", "epoch", *(["folds"] if folded else []), *names]
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
