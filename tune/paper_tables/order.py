"""What `reproduce` is asked for, and the rows and baselines that have to be trained for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ssl_core.system.errors import ConfigError
from tune.paper_tables.entries import Budget, Entry, baseline_entry, report_entry
from tune.paper_tables.paper import Cell, cells_of, chosen

DEFAULT_SEEDS = 3


@dataclass(frozen=True, kw_only=True)
class Order:
    """What `reproduce` is asked for.

    Attributes:
        tables: "table1", "table2", "table3", or methods, as `tune.paper_tables.paper.TABLES` has them.
        cells: cells as ``--cell`` names them; empty: all.
        budget: what replaces the published report's values.
        seeds: how often each cell is trained.
        configs: folder of exported configurations that replace the published report's settings.
        search: number of trials of a search that tunes each column first; None: no search.
        concurrent: how many trainings run at a time; None: as many as the machine has room for.
        trust_method: a method file in `configs` is run also where this user has not run it before.
        address: of the cluster that this process has joined, where trainings and searches run; None: this machine.
        warmup_cache: bytes that warm-ups which trainings share may take; 0: none are shared; None: a share of the disk.
    """

    tables: tuple[str, ...]
    cells: tuple[str, ...] = ()
    budget: Budget = field(default_factory=Budget)
    seeds: int = DEFAULT_SEEDS
    configs: Path | None = None
    search: int | None = None
    concurrent: int | None = None
    trust_method: bool = False
    address: str | None = None
    warmup_cache: int | None = None

    def wanted(self) -> list[Cell]:
        """The cells that are asked for."""
        return chosen([c for table in dict.fromkeys(self.tables) for c in cells_of(table)], self.cells)


@dataclass(frozen=True)
class Declared:
    """The rows of the tables, and the baseline of each row."""

    entries: list[Entry]
    baselines: dict[str, Entry]
    """By `key_of` of the row."""
    beside: tuple[Entry, ...] = ()
    """Rows that are not trained, but shown if an earlier command trained them."""

    def baseline_of(self, entry: Entry) -> Entry:
        """The baseline of a row."""
        return self.baselines[key_of(entry)]

    def all(self) -> list[Entry]:
        """What is trained, without repetitions; the baselines come first, since every row is compared with one."""
        needed = [self.baseline_of(e) for e in self.entries]
        return list({_identity(e): e for e in [*needed, *self.entries]}.values())


def key_of(entry: Entry) -> str:
    """A name of a row that is unique among all tables."""
    return f"{entry.table}/{entry.name}"


def _identity(entry: Entry) -> Path:
    return entry.folder(Path())


def declared_of_report(order: Order) -> Declared:
    """The cells in the published report's settings, at the budget that is asked for.

    Raises:
        ConfigError: anything in the order is invalid.
    """
    if order.seeds < 1:
        raise ConfigError(f"--seeds {order.seeds}: at least 1.")
    if order.concurrent is not None and order.concurrent < 1:
        raise ConfigError(f"--concurrent {order.concurrent}: at least 1.")
    entries = [report_entry(cell, order.budget) for cell in order.wanted()]
    return Declared(entries, {key_of(e): baseline_entry(e, order.budget) for e in entries})
