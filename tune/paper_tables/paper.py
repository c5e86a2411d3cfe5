"""The tables of the published report: their cells, their settings, and a public benchmark's numbers beside them.

"The report" is the published report whose tables `reproduce` trains. Its numbers are in ``tables.csv`` beside this
module; those of the benchmark are in ``published.csv``. Importing this loads neither torch, Ray nor MLflow.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    """

    title: str
    method: str
    epochs: int
    warmup: int
    parameters: Mapping[str, Any]
    choices: tuple[str, ...]

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
DATASETS = {"cifar10": 10, "cifar100": 100}
"""The report's data sets, and how many classes each has."""


@dataclass(frozen=True)
class Cell:
    """One number of the report: test error in percent."""

    table: str
    method: str
    dataset: str
    labels: int
    threshold: float | None
    report: float

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
        """The method's section of the configuration, in the report's setting."""
        own = {} if self.threshold is None else {"threshold": self.threshold}
        return {**SETTINGS[self.table].parameters, **own}


@dataclass(frozen=True)
class Published:
    """A published test error in percent, and how its model was selected."""

    method: str
    error: float
    std: float
    network: str
    budget: str
    selection: str
    source: str


def cells_of(table: str) -> list[Cell]:
    """The cells of a table in the report's order.

    Raises:
        ConfigError: there is no such table.
    """
    if table not in SETTINGS:
        raise unknown("table", table, SETTINGS)
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
                std=float(row["std"]),
                network=row["network"],
                budget=row["budget"],
                selection=row["selection"],
                source=row["source"],
            )
    return None


def _rows(name: str) -> list[dict[str, str]]:
    text = resources.files("tune.paper_tables").joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
