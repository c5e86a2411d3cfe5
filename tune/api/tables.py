"""The published report's tables again (docs/report.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_core.system.errors import ConfigError
from ssl_core.system.measured import Measured
from tune.cluster.connection import joined, machines_of
from tune.definition.inputs import parse_size
from tune.signals import resumable
from tune.store.home import Home

if TYPE_CHECKING:
    from tune.paper_tables.order import Order

DEFAULT_SEEDS, DEFAULT_TRIALS = 3, 16


def order_of(
    tables: Sequence[str],
    *,
    cells: Sequence[str] = (),
    data: Sequence[str] = (),
    network: str | None = None,
    epochs: int | None = None,
    seeds: int = DEFAULT_SEEDS,
    settings: Sequence[str] = (),
    configs: Path | str | None = None,
    search: bool = False,
    trials: int = DEFAULT_TRIALS,
    concurrent: int | None = None,
    data_root: Path | str | None = None,
    trust_method: bool = False,
    address: str | None = None,
    warmup_cache: int | str | None = None,
) -> Order:
    """What `reproduce` and `price` take as an object; the arguments are those of `reproduce`.

    Args:
        trust_method: a method file in `configs` is run also where this user has not run it before.
        address: of a Ray cluster that this process has joined; None: this machine.
        warmup_cache: what warm-ups that trainings share may take of the home's disk, in bytes or as text such as
            ``"2GiB"``; 0: none are shared; None: 5 % of the free disk.

    Raises:
        ConfigError: an unknown table or cell, a setting or place that cannot be read, or both configs and search.
    """
    from tune.paper_tables.entries import Budget, parse_places  # reads the tables with pandas
    from tune.paper_tables.order import Order

    there = machines_of(address)
    if search and configs is not None:
        raise ConfigError("--search and --configs exclude each other: take one.")
    return Order(
        tables=tuple(dict.fromkeys(tables)),
        cells=tuple(cells),
        budget=Budget(
            network=network,
            epochs=epochs,
            settings=tuple(settings),
            places=parse_places(data),
            data_root=None if data_root is None else Path(data_root),
            gpus_there=None if there is None else float(any(machine.gpus for machine in there)),
        ),
        seeds=seeds,
        configs=None if configs is None else Path(configs),
        search=trials if search else None,
        concurrent=concurrent,
        trust_method=trust_method,
        address=address,
        warmup_cache=parse_size(str(warmup_cache), "--warmup-cache") if warmup_cache is not None else None,
    )


def reproduce(
    *tables: str,
    output: Path | str | None = None,
    home: Path | str | None = None,
    say: Callable[[str], None] = lambda message: None,
    carry_on: str = "the same call",
    address: str | None = None,
    **order: Any,
) -> dict[str, dict[str, Any]]:
    """Make tables of the published report again: Markdown, LaTeX, CSV and PNG, beside the published values.

    What is trained already is not trained again.

    Args:
        tables: table1, table2, table3, or methods with published errors, such as "freematch".
        output: the folder of the tables; None: ``tables`` in the home.
        home: the home folder.
        say: told as runs end and files are written.
        carry_on: named where it is interrupted.
        address: of a Ray cluster that this machine belongs to, to train there; the home lies in a folder that its
            machines share. None: this machine.
        order: as `order_of` takes them.

    Returns:
        Each table's document, by its name: rows, budget, notes.

    Raises:
        ConfigError: anything wrong with what is asked for, before anything is trained.
        ServiceError: another `reproduce` is at work in this home, or it was interrupted.
    """
    from tune.paper_tables.files import write_all  # loads pandas
    from tune.paper_tables.reproduce import reproduce as train_tables

    place = Home(home).folder_for("reproduce")
    folder = place.path / "tables" if output is None else Path(output)

    def write(documents: dict[str, dict[str, Any]]) -> None:
        for document in documents.values():
            for path in write_all(document, folder):
                say(f"wrote {path}")

    with resumable(carry_on), joined(address):
        return train_tables(order_of(tables, address=address, **order), place, say, write)


def price(
    *tables: str,
    say: Callable[[str], None] | None = None,
    address: str | None = None,
    home: Path | str | None = None,
    **order: Any,
) -> dict[str, Any]:
    """What `reproduce` with these arguments would cost, from steps measured on this machine; trains nothing.

    What was measured is kept in the home, where there is one, so asking again is quick and gives the same.

    Raises:
        ConfigError: anything wrong with what is asked for, or an `address`: a cluster is not measured.
    """
    from tune.paper_tables.price import cost  # loads torch

    if address is not None:
        raise ConfigError(
            f"--address {address}: --dry-run measures steps on the machine that it is called on. Leave --address out, "
            "or call it on a machine of the cluster."
        )
    return cost(order_of(tables, **order), say or (lambda _: None), Measured(Home(home).measured))
