"""What `reproduce` trains: a table's cells as declared runs, and the supervised baseline beside them.

A cell is the report's own setting unless configurations that `export` wrote stand in for it; a budget may
cut either, and what was cut is said. Nothing here trains anything.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssl_core.config import (
    RunConfig,
    bn_momentum_of,
    from_document,
    parameter_names,
    resolve,
    warmup_from_share,
)
from ssl_core.data.datasets import DatasetInfo, describe
from ssl_core.registry import get_method
from ssl_core.system.errors import ConfigError
from tune.definition.inputs import parse_sets, with_overrides
from tune.definition.spec import dataset_tag
from tune.paper_tables.paper import DATASETS, NETWORK, SETTINGS, Cell

BASELINE = "supervised"
LAST_EPOCH = "the report's setting, not selected; the last epoch's model"
OF_ITS_OWN = {
    "labels": "--cell",
    "dataset": "--data",
    "network": "--network",
    "epochs": "--epochs",
    "seed": "--seeds",
    "data.label_seed": "--seeds",
    "stop_after_epoch": "--epochs",
}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a table is trained with where it is not the report's own: None, or empty, is the report's.

    Attributes:
        network, epochs: of every run.
        settings: assignments as ``--set`` takes them.
        places: data to be read in place of a data set's name, such as ``folder:PATH``.
        data_root: where downloaded data lie.
    """

    network: str | None = None
    epochs: int | None = None
    settings: tuple[str, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)
    data_root: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row to be: one configuration, trained on several seeds.

    Attributes:
        table: of the report; "" for a baseline.
        name: the cell, or the baseline's column.
        dataset: the report's name of it.
        labels: labelled images.
        threshold: tau, where the cell has one.
        source: "report", "exported", "searched", or "baseline".
        config: resolved; its seeds are filled in by `tune.confirmation.trainings.fresh`.
        rule: how the configuration and its model were chosen, in words.
        report: the report's own error; None for a baseline.
        report_note: which of the report's numbers that is, where a row stands for several.
    """

    table: str
    name: str
    dataset: str
    labels: int
    threshold: float | None
    source: str
    config: RunConfig
    rule: str
    report: float | None = None
    report_note: str = ""

    @property
    def column(self) -> str:
        return f"{self.dataset}@{self.labels}"

    def folder(self, root: Path) -> Path:
        """Where its runs lie: another configuration has another folder."""
        document = fresh_document(self.config)
        digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:10]
        return root / f"{self.config.method}-{self.column}-{digest}"


def fresh_document(config: RunConfig) -> dict[str, Any]:
    """A configuration without what differs from seed to seed."""
    document = config.document()
    data = {k: v for k, v in document["data"].items() if k != "label_seed"}
    return {k: v for k, v in document.items() if k not in ("seed", "stop_after_epoch")} | {"data": data}


def report_entry(cell: Cell, budget: Budget) -> Entry:
    """A cell in the report's own setting, at a budget.

    Raises:
        ConfigError: data that cannot be had, or a setting that is not one.
    """
    setting = SETTINGS[cell.table]
    epochs = budget.epochs or setting.epochs
    document = _common(cell.dataset, cell.labels, budget) | {
        "method": cell.method,
        "epochs": epochs,
        "warmup_epochs": warmup_from_share(setting.warmup_share, epochs) if epochs > 1 else 0,
        cell.method: cell.parameters,
    }
    return Entry(
        table=cell.table,
        name=cell.name,
        dataset=cell.dataset,
        labels=cell.labels,
        threshold=cell.threshold,
        source="report",
        config=_resolved(document, cell.dataset, budget),
        rule=LAST_EPOCH,
        report=cell.report,
    )


def baseline_entry(entry: Entry, budget: Budget) -> Entry:
    """Supervised training for the same number of steps, with the same common values, untuned."""
    document = {k: v for k, v in entry.config.document().items() if k != entry.config.method}
    document |= {"method": BASELINE, "warmup_epochs": 0, "stop_after_epoch": None}
    return Entry(
        table="",
        name=f"{entry.column},supervised",
        dataset=entry.dataset,
        labels=entry.labels,
        threshold=None,
        source="baseline",
        config=_resolved(document, entry.dataset, budget),
        rule="the same common values, untuned; the last epoch's model",
    )


def tuned_entry(
    cells: Sequence[Cell], config: Mapping[str, Any], budget: Budget, *, source: str, rule: str
) -> Entry:
    """A searched configuration that stands for all cells of a column (the threshold is its own).

    Args:
        cells: of one table, data set and number of labels.
        config: what `export` wrote as `config`.
        budget: what is given replaces the configuration's own.
        source: "exported" or "searched".
        rule: how it was chosen.
    """
    cell = min(cells, key=lambda c: c.report)
    best_of = f"best of {len(cells)} thresholds, {cell.threshold:g}" if len(cells) > 1 else ""
    resolved = tuned_config(config, cell.dataset, budget)
    return Entry(
        table=cell.table,
        name=f"{cell.column},{source}",
        dataset=cell.dataset,
        labels=cell.labels,
        threshold=getattr(resolved.parameters, "threshold", None),
        source=source,
        config=resolved,
        rule=rule,
        report=cell.report,
        report_note=best_of,
    )


def tuned_config(config: Mapping[str, Any], dataset: str, budget: Budget) -> RunConfig:
    """A configuration that was searched, at a budget; its warm-up keeps its share of the run."""
    document = {k: v for k, v in config.items() if k != "stop_after_epoch"}
    steps = (document.get("epochs") or 0) * (document.get("steps_per_epoch") or 0)
    if steps and document.get("bn_momentum") == bn_momentum_of(steps):
        del document["bn_momentum"]  # it followed from the length of the run, and follows again
    if budget.epochs and document.get("epochs") and document.get("warmup_epochs"):
        share = document["warmup_epochs"] / document["epochs"]
        document["warmup_epochs"] = warmup_from_share(share, budget.epochs)
    given = {"network": budget.network, "epochs": budget.epochs, "dataset": place_of(dataset, budget)}
    document |= {k: v for k, v in given.items() if v is not None}
    return _resolved(document, dataset, budget)


def place_of(dataset: str, budget: Budget) -> str:
    """Where a data set's images are read from; a folder by its absolute path."""
    place = budget.places.get(dataset, dataset)
    path = place.removeprefix("folder:")
    return f"folder:{Path(path).expanduser().resolve()}" if path != place else place


def parse_places(assignments: Sequence[str]) -> dict[str, str]:
    """``["cifar10=folder:PATH"]`` as a mapping.

    Raises:
        ConfigError: another form, or a data set that no table has.
    """
    places = {}
    for text in assignments:
        name, equals, place = text.partition("=")
        if not equals or name not in DATASETS or not place:
            raise ConfigError(
                f"--data {text!r}: write {' or '.join(f'{d}=PLACE' for d in DATASETS)}, for example "
                "--data cifar10=folder:PATH."
            )
        places[name] = place
    return places


def _common(dataset: str, labels: int, budget: Budget) -> dict[str, Any]:
    common: dict[str, Any] = {
        "dataset": place_of(dataset, budget),
        "labels": labels,
        "network": budget.network or NETWORK,
        "threads": 1,  # part of the bits: another number of runs side by side must not change them
    }
    if dataset == "cifar100":  # Sohn et al. (2020), table 4; of a folder `resolve` could not know
        common["weight_decay"] = 1e-3
    return common


def _resolved(document: Mapping[str, Any], dataset: str, budget: Budget) -> RunConfig:
    """The configuration with ``--set`` laid over it, resolved; its data must have the report's classes."""
    from ssl_core.system.environment import choose_device

    method = str(document["method"])
    config = from_document(with_overrides(document, _sets_of(method, budget.settings)))
    info = _described(config.dataset, budget.data_root, config.data.image_size)
    if info.num_classes != DATASETS[dataset]:
        raise ConfigError(
            f"--data {dataset}={budget.places.get(dataset, dataset)}: {dataset} has {DATASETS[dataset]} classes, "
            f"there are {info.num_classes}. Name a folder of {DATASETS[dataset]} classes."
        )
    return choose_device(resolve(config, info))


def _sets_of(method: str, assignments: Sequence[str]) -> dict[str, Any]:
    """The settings that concern a method: another table's own parameters do not."""
    mine = []
    for text in assignments:
        name = text.partition("=")[0]
        if name in OF_ITS_OWN:
            raise ConfigError(f"--set {text}: say it with {OF_ITS_OWN[name]}.")
        if name.endswith(".threshold"):
            raise ConfigError(f"--set {text}: the threshold is the cell's own. Choose cells with --cell.")
        section, dot, _ = name.partition(".")
        others = {s.method for s in SETTINGS.values()} - {method}
        if dot and section in others and name in parameter_names(get_method(section)):
            continue
        mine.append(text)
    return parse_sets(mine, method)


def info_of(entry: Entry, budget: Budget) -> DatasetInfo:
    """What is known of an entry's data without decoding them."""
    return _described(entry.config.dataset, budget.data_root, entry.config.data.image_size)


@functools.lru_cache(maxsize=8)
def _described(dataset: str, root: Path | None, image_size: int | None) -> DatasetInfo:
    """`describe`, which lists a folder's files, once for all entries."""
    return describe(dataset, root=root, image_size=image_size)


def cut(entry: Entry, budget: Budget) -> list[str]:
    """What is less than in the report's own setting (or not its data), in words; nothing for a full run."""
    if not entry.table:
        return []
    config, full, real = entry.config, _full(entry), describe(entry.dataset)
    words = []
    if config.network != NETWORK:
        words.append(f"network {config.network} instead of {NETWORK}")
    if config.total_steps < full.total_steps:
        words.append(f"{config.total_steps:,} of {full.total_steps:,} steps")
    for name, label in (("batch_size", "labelled images a step"), ("mu", "as mu")):
        mine, theirs = getattr(config, name), getattr(full, name)
        if mine < theirs:
            words.append(f"{mine} instead of {theirs} {label}")
    images, theirs = sum(info_of(entry, budget).train_per_class), sum(real.train_per_class)
    if dataset_tag(config.dataset) != entry.dataset or images != theirs:
        words.append(
            f"{dataset_tag(config.dataset)} ({images:,} images) in place of {entry.dataset} ({theirs:,})"
        )
    return words


def _full(entry: Entry) -> RunConfig:
    """The entry in the report's own budget on the real data set, of which no image is needed to know it."""
    document = {
        "method": entry.config.method,
        "dataset": entry.dataset,
        "labels": entry.labels,
        "network": NETWORK,
        "epochs": SETTINGS[entry.table].epochs,
    }
    return resolve(from_document(document), describe(entry.dataset))
