"""The report's tables: their cells, the settings behind them, and what was published for the same settings.

The numbers are the report's own (``paper/tables.csv``) and, beside them, those of a public benchmark
(``paper/published.csv``). Loads neither torch, Ray nor MLflow.
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
"""Methods that nobody published besides the report, and the published one that each extends."""


@dataclass(frozen=True)
class Setting:
    """How a table of the report was made.

    Attributes:
        title: of the table.
        method: of all its cells.
        epochs: of a run, warm-up included.
        warmup: epochs on labelled images alone.
        parameters: of the method, the threshold aside.
        choices: what was chosen where the report contradicts itself or leaves something open.
    """

    title: str
    method: str
    epochs: int
    warmup: int
    parameters: Mapping[str, Any]
    choices: tuple[str, ...]

    @property
    def warmup_share(self) -> float:
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
            "Task 3 is said to run 200 epochs and 100: 200 here.",
            "Its models are said to start from random weights and not to: random weights here.",
            "A warm-up is described for tasks 1 and 2 alone: none here.",
            "The two views' attention maps are compared as they are, as in the report, not aligned (align: none).",
            *_EPOCH,
        ),
    ),
}
DATASETS = {"cifar10": 10, "cifar100": 100}
"""The report's data sets and their classes."""


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
        """As ``--cell`` takes it."""
        return self.column if self.threshold is None else f"{self.column},tau={self.threshold:g}"

    @property
    def parameters(self) -> dict[str, Any]:
        """The method's section in the report's setting."""
        own = {} if self.threshold is None else {"threshold": self.threshold}
        return {**SETTINGS[self.table].parameters, **own}


@dataclass(frozen=True)
class Published:
    """A published test error in percent, with how its model was chosen."""

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
        ConfigError: no such table.
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
    """The cells that ``--cell`` names: ``cifar10@4000,tau=0.6``, or ``cifar10@4000`` for all of a column.

    Raises:
        ConfigError: a name of another form, or one that is no cell of these tables (lists those that are).
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
    """The published error of a method, or of the method that it extends; None where there is none."""
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
