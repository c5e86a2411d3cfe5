"""The command that makes the report's tables again."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssl_core.system.errors import ConfigError
from tune.cli.options import DataRootOption, EpochsOption, HomeOption, JsonOption, SetOption, home_of
from tune.cli.show import console, print_json, print_table

if TYPE_CHECKING:
    from tune.paper_tables.reproduce import Order
    from tune.store.home import Home


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command("reproduce")(reproduce_command)


def reproduce_command(
    tables: Annotated[list[str], typer.Argument(metavar="TABLE...", help="table1, table2, table3")],
    cell: Annotated[
        list[str] | None, typer.Option("--cell", help="cifar10@4000 or cifar10@4000,tau=0.6 [all cells]")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option("--data", help="Where images are, such as cifar10=folder:PATH")
    ] = None,
    network: Annotated[str | None, typer.Option("--network", help="wrn-DEPTH-WIDTH [wrn-28-2]")] = None,
    epochs: EpochsOption = None,
    seeds: Annotated[int, typer.Option(help="Trainings of each cell")] = 3,
    settings: SetOption = None,
    configs: Annotated[
        Path | None, typer.Option(help="Folder of `export --all`: these instead of the report's settings")
    ] = None,
    search: Annotated[
        bool, typer.Option("--search", help="Tune each column first, and its baseline")
    ] = False,
    trials: Annotated[int, typer.Option(help="Configurations of such a search")] = 16,
    concurrent: Annotated[int | None, typer.Option(help="Runs side by side [what the machine holds]")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would cost; trains nothing")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the tables [HOME/tables]")
    ] = None,
    data_root: DataRootOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the report's tables again: Markdown, LaTeX, CSV and PNG, beside the report's and published values."""
    from tune.paper_tables.entries import Budget, parse_places
    from tune.paper_tables.reproduce import Order

    if search and configs is not None:
        raise ConfigError("--search and --configs exclude each other: take one.")
    place = home_of(home).folder_for("reproduce")
    order = Order(
        tables=tuple(dict.fromkeys(tables)),
        cells=tuple(cell or ()),
        budget=Budget(
            network=network,
            epochs=epochs,
            settings=tuple(settings or ()),
            places=parse_places(data or ()),
            data_root=data_root,
        ),
        seeds=seeds,
        configs=configs,
        search=trials if search else None,
        concurrent=concurrent,
    )
    if dry_run:
        _print_cost(order, as_json)
    else:
        _reproduce(order, place, output or place.path / "tables", as_json)


def _reproduce(order: Order, home: Home, folder: Path, as_json: bool) -> None:
    """Train what the tables need, write each table when it is whole, and print them."""
    from tune.paper_tables.rendering import write_all
    from tune.paper_tables.reproduce import reproduce
    from tune.signals import resumable

    def write(documents: dict[str, Any]) -> None:
        for document in documents.values():
            for path in write_all(document, folder):
                _say(f"wrote {path}")

    with resumable(shlex.join(["ssl-tune", *sys.argv[1:]])):
        documents = reproduce(order, home, _say, write)
    if as_json:
        print_json(documents)
        return
    for document in documents.values():
        _print_document(document)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)  # noqa: T201


def _print_document(document: dict[str, Any]) -> None:
    from tune.paper_tables.rendering import COLUMNS, cells, notes

    shown = [c for c in COLUMNS if c != "setting"]
    rows = [
        [text for column, text in zip(COLUMNS, cells(row), strict=True) if column != "setting"]
        for row in document["rows"]
    ]
    print_table(shown, rows, title=f"{document['title']} ({document['table']})")
    for note in notes(document):
        console().print(f"- {note}")


def _print_cost(order: Order, as_json: bool) -> None:
    from tune.paper_tables.price import cost

    document = cost(order)
    if as_json:
        print_json(document)
        return
    rows = [
        [
            r["table"],
            r["cell"],
            r["method"],
            r["network"],
            r["steps"],
            r["seconds_per_step"],
            r["seeds"],
            r["hours"],
        ]
        for r in document["rows"]
    ]
    columns = ["table", "cell", "method", "network", "steps", "seconds a step", "runs", "device-hours"]
    print_table(columns, rows, title="what it would cost")
    for sentence in document["sentences"]:
        console().print(sentence)
