"""The command that makes the report's tables again."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tune import api
from tune.cli.options import (
    AddressOption,
    DataRootOption,
    EpochsOption,
    HomeOption,
    JsonOption,
    SetOption,
    TrustOption,
    WarmupCacheOption,
)
from tune.cli.show import console, print_json, print_table

TablesArgument = Annotated[
    list[str],
    typer.Argument(metavar="TABLE...", help="table1, table2, table3, or a method such as freematch"),
]


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command("reproduce")(reproduce_command)


def reproduce_command(
    tables: TablesArgument,
    cell: Annotated[
        list[str] | None, typer.Option("--cell", help="cifar10@4000 or cifar10@4000,tau=0.6 [all cells]")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option("--data", help="Where images are, such as cifar10=folder:PATH")
    ] = None,
    network: Annotated[str | None, typer.Option("--network", help="wrn-DEPTH-WIDTH [wrn-28-2]")] = None,
    epochs: EpochsOption = None,
    seeds: Annotated[int, typer.Option(help="Trainings of each cell")] = api.DEFAULT_SEEDS,
    settings: SetOption = None,
    configs: Annotated[
        Path | None,
        typer.Option(help="Folder of `export --all`: its configurations instead of the report's settings"),
    ] = None,
    search: Annotated[bool, typer.Option("--search", help="Tune each column and its baseline first")] = False,
    trials: Annotated[int, typer.Option(help="Configurations of such a search")] = api.DEFAULT_TRIALS,
    concurrent: Annotated[int | None, typer.Option(help="Runs side by side [what the machine holds]")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it costs; trains nothing")] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the tables [HOME/tables]")
    ] = None,
    data_root: DataRootOption = None,
    warmup_cache: WarmupCacheOption = None,
    trust_method: TrustOption = False,
    home: HomeOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the tables of the report (docs/report.md), or of a method's paper, again, beside published values."""
    order: dict[str, Any] = {
        "cells": cell or (),
        "data": data or (),
        "network": network,
        "epochs": epochs,
        "seeds": seeds,
        "settings": settings or (),
        "configs": configs,
        "search": search,
        "trials": trials,
        "concurrent": concurrent,
        "data_root": data_root,
        "warmup_cache": warmup_cache,
        "trust_method": trust_method,
    }
    if dry_run:
        _print_cost(api.price(*tables, say=_say, address=address, home=home, **order), as_json)
        return
    words = shlex.join(["ssl-tune", *sys.argv[1:]])
    documents = api.reproduce(
        *tables, output=output, home=home, say=_say, carry_on=words, address=address, **order
    )
    if as_json:
        print_json(documents)
        return
    for document in documents.values():
        _print_document(document)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)  # noqa: T201


def _print_document(document: dict[str, Any]) -> None:
    from tune.paper_tables.rendering import COLUMNS, cells, notes  # loads pandas

    shown = [c for c in COLUMNS if c != "setting"]
    rows = [
        [text for column, text in zip(COLUMNS, cells(row), strict=True) if column != "setting"]
        for row in document["rows"]
    ]
    print_table(shown, rows, title=f"{document['title']} ({document['table']})")
    for note in notes(document):
        console().print(f"- {note}")


def _print_cost(document: dict[str, Any], as_json: bool) -> None:
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
