"""The report's tables again: every cell trained on several seeds, beside the report's value, the published one
and the supervised baseline at the same budget.

Runs lie under ``HOME/reproduce``, one folder for each configuration and seed; a run that is done is not made
again, whatever table or command asks for it next.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ssl_core.system.errors import ConfigError
from tune.cluster.gpus import gpu_count
from tune.confirmation.trainings import (
    FIRST_SEED,
    Places,
    Say,
    Trained,
    Training,
    finished,
    fresh,
    train_all,
)
from tune.definition.coherence import check_fresh_sets
from tune.definition.spec import dataset_tag
from tune.errors import Exit, ServiceError
from tune.findings.comparisons import Spread
from tune.paper_tables.entries import Budget, Entry, baseline_entry, cut, info_of, report_entry
from tune.paper_tables.paper import SETTINGS, Cell, cells_of, chosen, published
from tune.revision import git_revision
from tune.store.home import Home

DEFAULT_SEEDS = 3


@dataclass(frozen=True, kw_only=True)
class Order:
    """What `reproduce` is asked for.

    Attributes:
        tables: "table1", "table2", "table3".
        cells: as ``--cell`` takes them; none: all.
        budget: what is not the report's own.
        seeds: trainings of each cell.
        configs: folder of configurations that `export` wrote, in place of the report's settings.
        search: trials of a search that tunes each column first; None: no search.
        concurrent: trainings side by side; None: what the machine holds.
    """

    tables: tuple[str, ...]
    cells: tuple[str, ...] = ()
    budget: Budget = field(default_factory=Budget)
    seeds: int = DEFAULT_SEEDS
    configs: Path | None = None
    search: int | None = None
    concurrent: int | None = None

    def wanted(self) -> list[Cell]:
        """The report's cells that are asked for."""
        return chosen([c for table in dict.fromkeys(self.tables) for c in cells_of(table)], self.cells)


@dataclass(frozen=True)
class Declared:
    """What a table is made of: its rows, and for each the baseline beside it."""

    entries: list[Entry]
    baselines: dict[str, Entry]  # by `key_of` of a row
    beside: tuple[Entry, ...] = ()
    """Rows that are shown where they happen to be done, and not trained for this."""

    def baseline_of(self, entry: Entry) -> Entry:
        return self.baselines[key_of(entry)]

    def all(self) -> list[Entry]:
        """What is trained, baselines first: they are cheap, and every row is read against one."""
        needed = [self.baseline_of(e) for e in self.entries]
        return list({_identity(e): e for e in [*needed, *self.entries]}.values())


def key_of(entry: Entry) -> str:
    """What names a row among those of all tables."""
    return f"{entry.table}/{entry.name}"


def _identity(entry: Entry) -> Path:
    return entry.folder(Path())


def declare(order: Order, home: Home, say: Say) -> Declared:
    """What has to be trained; searches first where that is asked for.

    Raises:
        ConfigError: anything wrong that can be known without training.
    """
    declared = declared_of_report(order)
    if order.configs is not None or order.search is not None:
        from tune.paper_tables.searched import tuned_rows

        rows = tuned_rows(order, home, say)
        baselines = declared.baselines | {key_of(row): baseline for row, baseline in rows}
        declared = Declared([row for row, _ in rows], baselines, tuple(declared.entries))
    for entry in declared.entries:
        check_fresh_sets(info_of(entry, order.budget), entry.config, order.seeds)
    return declared


def declared_of_report(order: Order) -> Declared:
    """The cells in the report's own settings, at the budget that is asked for.

    Raises:
        ConfigError: anything wrong with what is asked for.
    """
    if order.seeds < 1:
        raise ConfigError(f"--seeds {order.seeds}: at least 1.")
    if order.concurrent is not None and order.concurrent < 1:
        raise ConfigError(f"--concurrent {order.concurrent}: at least 1.")
    entries = [report_entry(cell, order.budget) for cell in order.wanted()]
    return Declared(entries, {key_of(e): baseline_entry(e, order.budget) for e in entries})


def reproduce(
    order: Order, home: Home, say: Say, write: Callable[[dict[str, dict[str, Any]]], None]
) -> dict[str, dict[str, Any]]:
    """Train what is not trained yet; each table's document (see `documents`).

    Args:
        order: what is asked for.
        home: the home folder.
        say: told how it goes.
        write: given the documents at the end, and also where an interruption ends it before.

    Raises:
        ConfigError: anything wrong with what is asked for, before anything is trained.
        ServiceError: another `reproduce` is at work in this home.
    """
    declared_of_report(order)  # what is wrong is told before anything is made
    home.check_writable()
    with _alone(home):
        declared = declare(order, home, say)
        trainings = trainings_of(declared, order.seeds, home)
        say(f"{len(trainings)} runs, {sum(finished(t) is not None for t in trainings)} of them done already")
        try:
            train_all(trainings, places_of(order, home, len(trainings)), say)
        finally:
            result = documents(order, declared, home)
            write(result)
    return result


def trainings_of(declared: Declared, seeds: int, home: Home) -> list[Training]:
    """Every run, seed by seed, so that a table is whole in width before it is in depth."""
    return [
        Training(
            f"{entry.table or 'baseline'} {entry.name}, seed {number}",
            fresh(entry.config, number),
            _out(entry, number, home),
        )
        for number in range(1, seeds + 1)
        for entry in declared.all()
    ]


def _out(entry: Entry, number: int, home: Home) -> Path:
    return entry.folder(home.path / "reproduce") / f"seed-{number}"


def places_of(order: Order, home: Home, count: int) -> Places:
    """Where the runs run: a GPU each, or a processor each."""
    gpus = 1.0 if gpu_count() else 0.0
    room = gpu_count() if gpus else len(os.sched_getaffinity(0))
    root = order.budget.data_root
    return Places(
        home=home,
        data_root=None if root is None else str(root),
        concurrent=max(1, min(order.concurrent or room, count)),
        cpus=1,
        gpus=gpus,
    )


def documents(order: Order, declared: Declared, home: Home) -> dict[str, dict[str, Any]]:
    """Each table as plain data, from what is trained so far."""
    from ssl_core.system.environment import fingerprint

    result = {}
    for table in dict.fromkeys(order.tables):
        entries = [e for e in declared.entries if e.table == table]
        beside = [e for e in declared.beside if e.table == table and _results(e, order.seeds, home)]
        if not entries:
            continue
        result[table] = {
            "table": table,
            "title": SETTINGS[table].title,
            "rows": [_row(e, declared.baseline_of(e), order, home) for e in [*beside, *entries]],
            "choices": list(SETTINGS[table].choices),
            "fingerprint": fingerprint(entries[0].config.device),
            "git_revision": git_revision(),
            "made": time.strftime("%Y-%m-%d", time.gmtime()),
        }
    return result


def _row(entry: Entry, baseline: Entry, order: Order, home: Home) -> dict[str, Any]:
    config = entry.config
    mine, theirs = (_results(e, order.seeds, home) for e in (entry, baseline))
    test = {n: t.result["test_error"] for n, t in mine.items() if t.result}
    supervised = {n: t.result["test_error"] for n, t in theirs.items() if t.result}
    known = published(config.method, entry.dataset, entry.labels)
    return {
        "cell": entry.name,
        "column": entry.column,
        "source": entry.source,
        "method": config.method,
        "threshold": entry.threshold,
        "parameters": config.parameters.model_dump(mode="json"),
        "data": dataset_tag(config.dataset),
        "network": config.network,
        "epochs": config.epochs,
        "warmup_epochs": config.warmup_epochs,
        "steps": config.total_steps,
        "batch_size": config.batch_size,
        "mu": config.mu,
        "cut": cut(entry, order.budget),
        "rule": entry.rule,
        "seeds": [FIRST_SEED + n for n in test],
        "failed": len(mine) - len(test),
        "test_error": _spread(test.values()),
        "val_error": _spread(t.result["val_error"] for t in mine.values() if t.result),
        "seconds": _spread(t.result["seconds"] for t in mine.values() if t.result),
        "report": entry.report,
        "report_note": entry.report_note,
        "published": None if known is None else asdict(known),
        "supervised": {
            "test_error": _spread(supervised.values()),
            "seconds": _spread(t.result["seconds"] for t in theirs.values() if t.result),
            "rule": baseline.rule,
        },
        "difference": _spread(test[n] - supervised[n] for n in test if n in supervised),
    }


def _results(entry: Entry, seeds: int, home: Home) -> dict[int, Trained]:
    """What is done of an entry, by the number of its seed."""
    found = {
        n: finished(Training("", fresh(entry.config, n), _out(entry, n, home))) for n in range(1, seeds + 1)
    }
    return {n: trained for n, trained in found.items() if trained is not None}


def _spread(values: Iterable[float]) -> dict[str, Any] | None:
    listed = tuple(values)
    if not listed:
        return None
    spread = Spread(listed)
    return {"values": list(listed), "mean": spread.mean, "std": spread.std, "interval": spread.interval}


@contextmanager
def _alone(home: Home) -> Iterator[None]:
    folder = home.path / "reproduce"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServiceError(
                f"another `ssl-tune reproduce` is at work in {home.path}. Wait for it, or name another --home.",
                Exit.IN_USE,
            ) from None
        yield
