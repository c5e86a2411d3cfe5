"""What `reproduce` trains: the cells of a table as configurations, and a supervised baseline for each.

A cell has the published report's setting, or a searched configuration in its place. A budget may reduce either;
`cut` says in words what it reduced. This module trains nothing.
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
from tune.cluster import connection
from tune.definition.inputs import parse_sets, with_absolute_place, with_overrides
from tune.definition.spec import dataset_tag
from tune.paper_tables.paper import DATASETS, NETWORK, TABLES, Cell

BASELINE = "supervised"
LAST_EPOCH = "the {whose} setting, not selected; the last epoch's model"
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
    """What replaces the published report's own values. None, or empty, keeps the report's value.

    Attributes:
        network, epochs: for every run.
        settings: assignments as ``--set`` takes them.
        places: by the name of a data set, the data that are read for it, such as ``folder:PATH``.
        data_root: the folder of downloaded data.
        gpus_there: GPUs of a training on the cluster that this process has joined; None: trainings are made here.
    """

    network: str | None = None
    epochs: int | None = None
    settings: tuple[str, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)
    data_root: Path | None = None
    gpus_there: float | None = None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row of a table before it is trained: one configuration, which runs on several seeds.

    Attributes:
        table: "table1", "table2", "table3" or a method; "" for a baseline.
        name: the cell's name, or the baseline's column.
        dataset: the data set as the published report names it.
        labels: number of labelled images.
        threshold: tau, where the cell has one.
        source: "report", "published", "exported", "searched" or "baseline".
        config: the resolved configuration; `tune.confirmation.trainings.fresh` sets its seeds.
        rule: how the configuration and the model were chosen, in words.
        report: the published report's error in percent; None: it has none.
        report_note: which of the report's numbers `report` is, where the row stands for several cells.
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
        """The column of the published table: `DATASET@LABELS`."""
        return f"{self.dataset}@{self.labels}"

    def folder(self, root: Path) -> Path:
        """The folder of its runs; every configuration has a folder of its own."""
        document = fresh_document(self.config)
        digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:10]
        return root / f"{self.config.method}-{self.column}-{digest}"


def fresh_document(config: RunConfig) -> dict[str, Any]:
    """A configuration as plain data, without the fields that differ between seeds."""
    document = config.document()
    data = {k: v for k, v in document["data"].items() if k != "label_seed"}
    return {k: v for k, v in document.items() if k not in ("seed", "stop_after_epoch")} | {"data": data}


def report_entry(cell: Cell, budget: Budget) -> Entry:
    """A cell in the setting of its table, at a budget.

    Raises:
        ConfigError: the data cannot be found, or a setting of the budget is invalid.
    """
    setting = TABLES[cell.table]
    epochs = budget.epochs or setting.epochs
    document = _common(cell.dataset, cell.labels, budget) | {
        "method": cell.method,
        "epochs": epochs,
        "steps_per_epoch": setting.steps_per_epoch,
        "warmup_epochs": warmup_from_share(setting.warmup_share, epochs) if epochs > 1 else 0,
        cell.method: cell.parameters,
    }
    return Entry(
        table=cell.table,
        name=cell.name,
        dataset=cell.dataset,
        labels=cell.labels,
        threshold=cell.threshold,
        source=setting.source,
        config=_resolved(document, cell.dataset, budget),
        rule=LAST_EPOCH.format(whose="report's" if setting.source == "report" else "published"),
        report=cell.report,
    )


def baseline_entry(entry: Entry, budget: Budget) -> Entry:
    """Supervised training with the same number of steps and the same common values; not tuned."""
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
    """A searched configuration in place of all cells of a column. It has a threshold of its own.

    Args:
        cells: the cells of one table, data set and number of labels.
        config: the section `config` of an exported file.
        budget: its values replace those of the configuration.
        source: "exported" or "searched".
        rule: how the configuration was chosen, in words.
    """
    cell = min(cells, key=lambda c: c.report or 0.0)  # a method's table has one cell a column
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
    """A searched configuration at a budget. The warm-up keeps its share of the epochs."""
    document = {k: v for k, v in config.items() if k != "stop_after_epoch"}
    steps = (document.get("epochs") or 0) * (document.get("steps_per_epoch") or 0)
    if steps and document.get("bn_momentum") == bn_momentum_of(steps):
        del document["bn_momentum"]  # it was derived from the length of the run, and is derived again
    if budget.epochs and document.get("epochs") and document.get("warmup_epochs"):
        share = document["warmup_epochs"] / document["epochs"]
        document["warmup_epochs"] = warmup_from_share(share, budget.epochs)
    given = {"network": budget.network, "epochs": budget.epochs, "dataset": place_of(dataset, budget)}
    document |= {k: v for k, v in given.items() if v is not None}
    return _resolved(document, dataset, budget)


def place_of(dataset: str, budget: Budget) -> str:
    """Where the images of a data set are read from; a folder is given by its absolute path."""
    return with_absolute_place(budget.places.get(dataset, dataset))


def parse_places(assignments: Sequence[str]) -> dict[str, str]:
    """``["cifar10=folder:PATH"]`` as a mapping.

    Raises:
        ConfigError: an assignment has another form, or names a data set that is in no table.
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
    if (
        dataset == "cifar100"
    ):  # Sohn et al. (2020), table 4; `resolve` cannot tell that a folder holds CIFAR-100
        common["weight_decay"] = 1e-3
    return common


def _resolved(document: Mapping[str, Any], dataset: str, budget: Budget) -> RunConfig:
    """Apply ``--set`` and resolve. The data must have as many classes as the published report's data set."""
    from ssl_core.system.environment import choose_device  # loads torch

    method = str(document["method"])
    config = from_document(with_overrides(document, _sets_of(method, budget.settings)))
    info = _described(config.dataset, budget.data_root, config.data.image_size)
    if info.num_classes != DATASETS[dataset]:
        raise ConfigError(
            f"--data {dataset}={budget.places.get(dataset, dataset)}: {dataset} has {DATASETS[dataset]} classes, "
            f"there are {info.num_classes}. Name a folder of {DATASETS[dataset]} classes."
        )
    config = resolve(config, info)
    if budget.gpus_there is None:
        return choose_device(config)
    text = json.dumps(config.document(), sort_keys=True)
    return config.model_copy(update=chosen_there(text, budget.gpus_there)[0])


@functools.lru_cache(maxsize=1024)
def chosen_there(document: str, gpus: float) -> tuple[dict[str, Any], dict[str, str]]:
    """What `tune.cluster.connection.chosen_there` says of a configuration, as JSON; each is asked for once."""
    config = json.loads(document)
    return connection.chosen_there(config, int(config["threads"]), gpus)


def _sets_of(method: str, assignments: Sequence[str]) -> dict[str, Any]:
    """The settings that apply to a method: parameters of the other tables' methods are left out."""
    mine = []
    for text in assignments:
        name = text.partition("=")[0]
        if name in OF_ITS_OWN:
            raise ConfigError(f"--set {text}: say it with {OF_ITS_OWN[name]}.")
        if name.endswith(".threshold"):
            raise ConfigError(
                f"--set {text}: the threshold is the cell's own. Choose cells by their threshold with --cell."
            )
        section, dot, _ = name.partition(".")
        others = {s.method for s in TABLES.values()} - {method}
        if dot and section in others and name in parameter_names(get_method(section)):
            continue
        mine.append(text)
    return parse_sets(mine, method)


def info_of(entry: Entry, budget: Budget) -> DatasetInfo:
    """Facts about an entry's data set; no image is decoded."""
    return _described(entry.config.dataset, budget.data_root, entry.config.data.image_size)


@functools.lru_cache(maxsize=8)
def _described(dataset: str, root: Path | None, image_size: int | None) -> DatasetInfo:
    """`describe`, cached: it lists all files of a folder."""
    return describe(dataset, root=root, image_size=image_size)


def cut(entry: Entry, budget: Budget) -> list[str]:
    """What was reduced against the published report's setting, in words; empty for a full run or a baseline."""
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
    """The entry at the published report's budget on the real data set; needs none of its images."""
    document = {
        "method": entry.config.method,
        "dataset": entry.dataset,
        "labels": entry.labels,
        "network": NETWORK,
        "epochs": TABLES[entry.table].epochs,
        "steps_per_epoch": TABLES[entry.table].steps_per_epoch,
    }
    return resolve(from_document(document), describe(entry.dataset))
