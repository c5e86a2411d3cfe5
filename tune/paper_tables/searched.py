"""Searched configurations in place of the published report's settings: read from exported files, or searched now."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ssl_core.config import RunConfig
from ssl_core.system.errors import ConfigError, counted
from tune.confirmation.trainings import Say
from tune.definition.inputs import parse_sets
from tune.definition.request import SearchRequest
from tune.definition.spec import dataset_tag
from tune.engine.progress import make_progress
from tune.errors import Exit, ServiceError
from tune.findings.exports import FORMAT, exported, read_exported
from tune.findings.study import Study
from tune.launch.start import carry_on, start, tune_baseline
from tune.paper_tables.entries import (
    BASELINE,
    Budget,
    Entry,
    baseline_entry,
    fresh_document,
    place_of,
    report_entry,
    tuned_config,
    tuned_entry,
)
from tune.paper_tables.order import Order
from tune.paper_tables.paper import DATASETS, Cell
from tune.store.home import Home


@dataclass(frozen=True)
class Found:
    """A searched configuration, and how it was chosen, in words."""

    config: dict[str, Any]
    rule: str


def tuned_rows(order: Order, home: Home, say: Say) -> list[tuple[Entry, Entry]]:
    """A row for each table and column that is asked for, with its supervised baseline.

    Raises:
        ConfigError: a column has no configuration, or only one that was exported for other data.
        ServiceError: a search was interrupted, or none of its trials succeeded.
    """
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in order.wanted():
        groups.setdefault((cell.table, cell.column), []).append(cell)
    exports = [] if order.configs is None else _read_folder(order.configs, trust_method=order.trust_method)
    rows = []
    for cells in groups.values():
        if order.configs is not None:
            found = _exported_for(cells[0], exports, order.configs, order.budget)
            supervised = _match(exports, BASELINE, cells[0], order.budget)
            source = "exported"
        else:
            found, supervised = _searched_for(cells[0], order, home, say)
            source = "searched"
        row = tuned_entry(cells, found.config, order.budget, source=source, rule=found.rule)
        rows.append((row, _baseline(row, supervised, order.budget)))
    return rows


def _baseline(row: Entry, supervised: Found | None, budget: Budget) -> Entry:
    """The tuned supervised configuration if it has the same budget as the row; otherwise an untuned one."""
    plain = baseline_entry(row, budget)
    if supervised is None:
        return plain
    config = tuned_config(supervised.config, row.dataset, budget)
    if _budget_of(config) != _budget_of(plain.config):
        return plain
    return replace(plain, config=config, rule=supervised.rule)


def _budget_of(config: RunConfig) -> dict[str, Any]:
    names = ("dataset", "labels", "network", "epochs", "steps_per_epoch", "batch_size", "precision", "device")
    return {name: fresh_document(config)[name] for name in names}


# Exported configurations


def _read_folder(folder: Path, *, trust_method: bool) -> list[tuple[Path, Mapping[str, Any]]]:
    if not folder.is_dir():
        raise ConfigError(
            f"--configs {folder}: there is no such folder. `ssl-tune export --all DIR` makes one."
        )
    found = []
    for path in sorted(folder.glob("*.y*ml")):
        _, document = read_exported(path, trust_method=trust_method)
        if document.get("format") == FORMAT:
            found.append((path, document))
    if not found:
        raise ConfigError(
            f"--configs {folder}: it holds no configuration that `ssl-tune export` wrote. `ssl-tune export --all DIR` "
            "writes them."
        )
    return found


def _exported_for(
    cell: Cell, exports: list[tuple[Path, Mapping[str, Any]]], folder: Path, budget: Budget
) -> Found:
    found = _match(exports, cell.method, cell, budget)
    if found is not None:
        return found
    near = []
    for path, document in exports:
        config = document["config"]
        if config["method"] == cell.method:
            data = f"{dataset_tag(config['dataset'])}@{config['labels']}"
            classes = (document.get("origin") or {}).get("classes")
            of = "" if classes in (None, DATASETS[cell.dataset]) else f" of {classes} classes"
            near.append(f"{path.name} is for {data}{of}")
    what = "; ".join(near) or f"there is none of {cell.method}"
    raise ConfigError(
        f"--configs {folder}: no configuration of {cell.method} for {cell.column} ({what}). Export one, or choose "
        "other cells with --cell."
    )


def _match(
    exports: list[tuple[Path, Mapping[str, Any]]], method: str, cell: Cell, budget: Budget
) -> Found | None:
    """The configuration for a column. Of several, a confirmed one, then the one with the lowest val/error."""
    names = {cell.dataset, dataset_tag(place_of(cell.dataset, budget))}
    matching = [
        document
        for _, document in exports
        if document["config"]["method"] == method
        and document["config"]["labels"] == cell.labels
        and dataset_tag(document["config"]["dataset"]) in names
        and (document.get("origin") or {}).get("classes") in (None, DATASETS[cell.dataset])
    ]
    if not matching:
        return None
    best = min(matching, key=lambda d: (not (d["origin"] or {}).get("confirmed"), d["expect"]["val_error"]))
    origin = best["origin"]
    trials = f" of {counted(origin['trials'], 'trial')}" if "trials" in origin else ""
    return Found(dict(best["config"]), f"lowest val/error{trials} of study {origin['study']}")


# Searches


def _searched_for(cell: Cell, order: Order, home: Home, say: Say) -> tuple[Found, Found]:
    """The best of a search of the method, and the best of a search of the baseline with as many trials."""
    study = _search(cell, order, home, say)
    outcome = tune_baseline(study, home, make_progress())
    if outcome.code in (Exit.INTERRUPTED, Exit.TERMINATED):
        raise ServiceError("a search was interrupted", outcome.code)
    return _best(study), _best(outcome.study)


def _best(study: Study) -> Found:
    try:
        document = exported(study)
    except ConfigError as error:
        raise ServiceError(str(error), Exit.NO_TRIAL_SUCCEEDED) from None
    return Found(
        document["config"], f"lowest val/error of {counted(study.spec.trials, 'trial')} of study {study.name}"
    )


def _search(cell: Cell, order: Order, home: Home, say: Say) -> Study:
    """Search a column, or resume the search that an earlier command began."""
    request = _request(cell, order)
    name = str(request.name)
    if home.has_study(name):
        outcome = carry_on(name, home, make_progress(), order.address)
    else:
        say(f"searching {cell.column} with {cell.method}: study {name}")
        outcome = start(request, home, make_progress())
    if outcome.code in (Exit.INTERRUPTED, Exit.TERMINATED):
        raise ServiceError("a search was interrupted", outcome.code)
    return outcome.study


def _request(cell: Cell, order: Order) -> SearchRequest:
    """A search at the cell's budget. The name of the study contains a digest of the budget."""
    entry = report_entry(cell, order.budget)
    config, document = entry.config, fresh_document(entry.config)
    names = ("steps_per_epoch", "batch_size", "mu", "precision", "device", "weight_decay", "threads")
    settings = {name: document[name] for name in names} | parse_sets(
        [s for s in order.budget.settings if "." not in s.partition("=")[0]], cell.method
    )
    own = {k: v for k, v in document.items() if k not in ("warmup_epochs", cell.method)}
    digest = hashlib.sha256(json.dumps([own, order.search], sort_keys=True).encode()).hexdigest()[:6]
    assert order.search is not None
    return SearchRequest(
        method=cell.method,
        dataset=config.dataset,
        labels=config.labels,
        network=config.network,
        epochs=config.epochs,
        trials=order.search,
        name=f"{cell.column}-{cell.method}-{digest}",
        settings=settings,
        concurrent=order.concurrent,
        data_root=None if order.budget.data_root is None else str(order.budget.data_root),
        address=order.address,
        warmup_cache=order.warmup_cache,
    )
