"""What `reproduce` is asked for, and the runs that this comes to."""

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
