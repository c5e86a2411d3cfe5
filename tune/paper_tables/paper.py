"""The tables of the published report and of other methods: cells, settings, and published numbers beside them.

A table has one method. `table1` to `table3` are the report's; a table by the name of a method has its published
errors in place of the report's. "The report" is the published report whose tables `reproduce` trains. Its numbers are
in ``tables.csv`` beside this module; those of a public benchmark and of papers in ``published.csv``. Importing this
loads neither torch, Ray nor MLflow.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from ssl_core.system.errors import ConfigError, unknown

NETWORK = "wrn-28-2"
NEAREST = {"attention_fixmatch": "fixmatch"}
"""Methods that only the report has, and the published method that each extends."""


@dataclass(frozen=True)
class Setting:
    """How a table of the report was made.

    Attributes:
        title: the table's title.
        method: the method of all cells.
        epochs: epochs of a run, the warm-up included.
        warmup: epochs on labelled images only.
        parameters: the method's parameters, except the threshold.
        choices: the choices made where the report contradicts itself or leaves something open, in sentences.
        steps_per_epoch: None: an epoch is a pass over the unlabelled images.
        by_dataset: parameters that a data set has of its own.
        source: where the settings are from: "report" or "published".
    """

    title: str
    method: str
    epochs: int
    warmup: int
    parameters: Mapping[str, Any]
    choices: tuple[str, ...]
    steps_per_epoch: int | None = None
    by_dataset: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    source: str = "report"

    @property
    def warmup_share(self) -> float:
        """The warm-up as a share of the epochs."""
        return self.warmup / self.epochs


_EPOCH = (
    "The report does not say what an epoch is: here it is one pass over the unlabelled images at mu * B a step.",
    "The report names its network only as WideResNet: wrn-28-2 is the one of the papers it builds on.",
    "The report does not say how a run's result was chosen: here it is that of the last epoch.",
)
SETTINGS = {
    "table1": Setting(
        "Test error of pseudo-labelling",
        "pseudo_label",
        300,
        10,
        {"accumulate": False},
        (
            "The report rebuilds the pseudo-labels every epoch in its algorithm and accumulates them in its text: "
            "rebuilt here.",
            "CIFAR-100 has 4000 labels in one sentence of the report and 10,000 in every table: 10,000 here.",
            *_EPOCH,
        ),
    ),
    "table2": Setting(
        "Test error of VAT",
        "vat",
        300,
        35,
        {"xi": 10.0, "eps": 10.0, "iterations": 5, "alpha": 1.0, "use_entmin": False},
        (
            "The report gives xi = 10, eps = 10, iter = 5 among its settings and alpha = 10 in place of xi in its "
            "discussion: xi = 10 here, and the loss unweighted.",
            "The report tried entropy minimisation without a gain: off here.",
            *_EPOCH,
        ),
    ),
    "table3": Setting(
        "Test error of FixMatch with an attention loss",
        "attention_fixmatch",
        200,
        0,
        {"align": "none", "maps": 2, "lambda_att": 1.0},
        (
            "The report says both 200 and 100 epochs for task 3: 200 here.",
            "The report says both that its models start from random weights and that they do not: random weights here.",
            "The report describes a warm-up for tasks 1 and 2 only: none here.",
            "The attention maps of the two views are compared without alignment (align: none), as in the report.",
            *_EPOCH,
        ),
    ),
}
_PUBLIC_CHOICES = (
    "2^20 steps of 64 labelled images, shown as 1024 epochs of 1024 steps; mu and all that is not named in the row are "
    "the package's defaults, which follow the method's paper.",
    "The published errors are the best on the test images over training, where their source says how they were "
    "selected; here the last epoch's is read.",
)
_MORE_CHOICES = {
    "mean_teacher": (
        "No published error stands beside it: that of the benchmark is of an implementation whose unlabelled loss has "
        "no gradient, so it equals supervised training.",
    ),
    "mixmatch": ("The benchmark mixes a batch with one lambda from Beta(0.5, 0.5) and weighs with 100.",),
    "simple": ("The published network on CIFAR-100 is wrn-28-8.",),
    "alphamatch": ("The paper aligns distributions on CIFAR-100, and does not say how: not done here.",),
}
_METHOD_NAMES = {
    "fixmatch": "FixMatch",
    "flexmatch": "FlexMatch",
    "freematch": "FreeMatch",
    "softmatch": "SoftMatch",
    "uda": "UDA",
    "mixmatch": "MixMatch",
    "mean_teacher": "Mean Teacher",
    "simple": "SimPLE",
    "alphamatch": "AlphaMatch",
}
_ON_CIFAR100: dict[str, dict[str, Any]] = {
    "mixmatch": {"lambda_u": 150.0},  # Berthelot et al. (2019)
    # runs/cifar100_args.txt of the authors' code
    "simple": {"lambda_u": 150.0, "lambda_pair": 150.0, "strong_views": 4},
}
PUBLIC = {
    method: Setting(
        f"Test error of {name}",
        method,
        1024,
        0,
        {},
        (*_PUBLIC_CHOICES, *_MORE_CHOICES.get(method, ())),
        steps_per_epoch=1024,
        by_dataset={"cifar100": _ON_CIFAR100.get(method, {})},
        source="published",
    )
    for method, name in _METHOD_NAMES.items()
}
"""Tables of methods that the report has no results of, by the method's name."""
TABLES = {**SETTINGS, **PUBLIC}
"""All tables that `reproduce` can make."""
PUBLIC_COLUMNS = (
    *(("cifar10", labels) for labels in (40, 250, 4000)),
    *(("cifar100", labels) for labels in (400, 2500, 10_000)),
)
"""Data set and labels of the cells of each table of `PUBLIC`."""
DATASETS = {"cifar10": 10, "cifar100": 100}
"""The tables' data sets, and how many classes each has."""


@dataclass(frozen=True)
class Cell:
    """One number of a table: test error in percent. `report`: None in a table that is not the report's."""

    table: str
    method: str
    dataset: str
    labels: int
    threshold: float | None
    report: float | None

    @property
    def column(self) -> str:
        """Data set and labels, such as ``cifar10@4000``."""
        return f"{self.dataset}@{self.labels}"

    @property
    def name(self) -> str:
        """The cell as ``--cell`` takes it."""
        return self.column if self.threshold is None else f"{self.column},tau={self.threshold:g}"

    @property
    def parameters(self) -> dict[str, Any]:
        """The method's section of the configuration, in the table's setting."""
        own = {} if self.threshold is None else {"threshold": self.threshold}
        setting = TABLES[self.table]
        return {**setting.parameters, **setting.by_dataset.get(self.dataset, {}), **own}


@dataclass(frozen=True)
class Published:
    """A published test error in percent, and how its model was selected. `std`: None: not known."""

    method: str
    error: float
    std: float | None
    network: str
    budget: str
    selection: str
    source: str


def cells_of(table: str) -> list[Cell]:
    """The cells of a table in the report's order, or those of a method's published errors.

    Raises:
        ConfigError: there is no such table.
    """
    if table not in TABLES:
        raise unknown("table", table, TABLES)
    if table in PUBLIC:
        return [Cell(table, table, dataset, labels, None, None) for dataset, labels in PUBLIC_COLUMNS]
    return [
        Cell(
            table=table,
            method=row["method"],
            dataset=row["dataset"],
            labels=int(row["labels"]),
            threshold=float(row["threshold"]) if row["threshold"] else None,
            report=float(row["test_error_percent"]),
        )
        for row in _rows("tables.csv")
        if f"table{row['table']}" == table
    ]


_CELL = re.compile(r"(?P<column>[a-z0-9]+@[0-9]+)(,tau=(?P<tau>[0-9]+(\.[0-9]+)?))?")


def chosen(cells: Sequence[Cell], wanted: Sequence[str]) -> list[Cell]:
    """The cells that ``--cell`` names: ``cifar10@4000,tau=0.6``, or ``cifar10@4000`` for all cells of a column.

    Raises:
        ConfigError: a name has another form or is no cell of these tables; the message lists the cells.
    """
    if not wanted:
        return list(cells)
    named = set[Cell]()
    for text in wanted:
        match = _CELL.fullmatch(text.strip())
        found = [c for c in cells if match and _is_named(c, match["column"], match["tau"])]
        if not found:
            known = ", ".join(dict.fromkeys(c.name for c in cells))
            raise ConfigError(
                f"--cell {text!r} is no cell of {', '.join(dict.fromkeys(c.table for c in cells))}. Write "
                f"DATASET@LABELS or DATASET@LABELS,tau=T; there are {known}."
            )
        named.update(found)
    return [c for c in cells if c in named]


def _is_named(cell: Cell, column: str, tau: str | None) -> bool:
    return cell.column == column and (tau is None or cell.threshold == float(tau))


def published(method: str, dataset: str, labels: int) -> Published | None:
    """The published error of a method, or of the published method that it extends; None if there is none."""
    wanted = NEAREST.get(method, method)
    for row in _rows("published.csv"):
        if (row["method"], row["dataset"], int(row["labels"])) == (wanted, dataset, labels):
            return Published(
                method=wanted,
                error=float(row["test_error_percent"]),
                std=float(row["std"]) if row["std"] else None,
                network=row["network"],
                budget=row["budget"],
                selection=row["selection"],
                source=row["source"],
            )
    return None


def _rows(name: str) -> list[dict[str, str]]:
    text = resources.files("tune.paper_tables").joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
