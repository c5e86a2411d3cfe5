"""Train the tables of the published report: every cell on several seeds, beside the report's value, a public
benchmark's value and a supervised baseline at the same budget.

The runs are kept under ``HOME/reproduce``, in a folder for each configuration and seed. A finished run is never
trained again, also if another table or command needs it.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ssl_core.system.errors import counted
from tune.cluster.capacity import MOST_PLACES
from tune.cluster.gpus import gpu_count
from tune.cluster.readiness import ensure_room, folders_of, make_ready
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
from tune.paper_tables.entries import Entry, chosen_there, cut, info_of
from tune.paper_tables.order import Declared, Order, declared_of_report, key_of
from tune.paper_tables.paper import TABLES, published
from tune.paper_tables.searched import tuned_rows
from tune.revision import git_revision
from tune.store.home import Home


def declare(order: Order, home: Home, say: Say) -> Declared:
    """The rows to train. If the order asks for searches, they run here.

    Raises:
        ConfigError: anything in the order is invalid.
    """
    declared = declared_of_report(order)
    if order.configs is not None or order.search is not None:
        rows = tuned_rows(order, home, say)
        baselines = declared.baselines | {key_of(row): baseline for row, baseline in rows}
        declared = Declared([row for row, _ in rows], baselines, tuple(declared.entries))
    for entry in declared.entries:
        check_fresh_sets(info_of(entry, order.budget), entry.config, order.seeds)
    return declared


def reproduce(
    order: Order, home: Home, say: Say, write: Callable[[dict[str, dict[str, Any]]], None]
) -> dict[str, dict[str, Any]]:
    """Train the runs that are not finished yet, and return a document for each table (see `documents`).

    Args:
        order: what is asked for.
        home: the home folder.
        say: called with each line of progress.
        write: called with the documents at the end, also if an interruption or an error ends the command early.

    Raises:
        ConfigError: anything in the order is invalid; raised before anything is trained.
        ServiceError: another `reproduce` runs in this home.
    """
    if order.budget.gpus_there is not None:
        ensure_room(1, order.budget.gpus_there, say)
    declared_of_report(order)  # an invalid order is refused before the home is made
    home.check_writable()
    with _alone(home):
        declared = declare(order, home, say)
        trainings = trainings_of(declared, order.seeds, home)
        _check_machines(order, declared, home, say)
        say(
            f"{counted(len(trainings), 'run')}, {sum(finished(t) is not None for t in trainings)} of them done already"
        )
        try:
            train_all(trainings, places_of(order, home, len(trainings)), say)
        finally:
            result = documents(order, declared, home)
            write(result)
    return result


def trainings_of(declared: Declared, seeds: int, home: Home) -> list[Training]:
    """All runs, ordered by seed: after the first seed every cell has a value."""
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


def _check_machines(order: Order, declared: Declared, home: Home, say: Say) -> None:
    """Refuse a cluster on which the runs would fail; nothing where they are made here.

    Raises:
        ConfigError, ServiceError: its machines differ, share no folder, or none can hold a run.
    """
    gpus = order.budget.gpus_there
    if gpus is not None:
        folders = folders_of([e.config.dataset for e in declared.all()], order.budget.data_root)
        make_ready(home.path / "reproduce", folders, 1, gpus, say)


def places_of(order: Order, home: Home, count: int) -> Places:
    """How many runs train at a time, each on a GPU or on a processor core of its own."""
    gpus, room = order.budget.gpus_there, MOST_PLACES
    if gpus is None:
        gpus = 1.0 if gpu_count() else 0.0
        room = gpu_count() if gpus else len(os.sched_getaffinity(0))
    root = order.budget.data_root
    return Places(
        home=home,
        data_root=None if root is None else str(root),
        concurrent=max(1, min(order.concurrent or room, count)),
        cpus=1,
        gpus=gpus,
        address=order.address,
        warmup_cache=order.warmup_cache,
    )


def documents(order: Order, declared: Declared, home: Home) -> dict[str, dict[str, Any]]:
    """The tables as plain data, from the runs that are finished."""
    result = {}
    for table in dict.fromkeys(order.tables):
        entries = [e for e in declared.entries if e.table == table]
        beside = [e for e in declared.beside if e.table == table and _results(e, order.seeds, home)]
        if not entries:
            continue
        result[table] = {
            "table": table,
            "title": TABLES[table].title,
            "rows": [_row(e, declared.baseline_of(e), order, home) for e in [*beside, *entries]],
            "choices": list(TABLES[table].choices),
            "fingerprint": _made_on(entries[0], order),
            "git_revision": git_revision(),
            "made": time.strftime("%Y-%m-%d", time.gmtime()),
        }
    return result


def _made_on(entry: Entry, order: Order) -> dict[str, str]:
    """The fingerprint of a machine that trains an entry."""
    from ssl_core.system.environment import fingerprint  # loads torch

    gpus, config = order.budget.gpus_there, entry.config
    if gpus is None:
        return fingerprint(config.device)
    return chosen_there(json.dumps(config.document(), sort_keys=True), gpus)[1]


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
    """The finished runs of an entry, by the number of the seed."""
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
    """Hold the lock that lets one `reproduce` at a time work in a home."""
    folder = home.path / "reproduce"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServiceError(
                f"another `ssl-tune reproduce` is at work in {home.path}. Wait until it ends, or name another --home.",
                Exit.IN_USE,
            ) from None
        yield
