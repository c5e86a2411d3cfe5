"""Commands that show what was found: a study's page, and the figures of a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ssl_core.system.errors import ConfigError, counted
from tune import api
from tune.cli.line.completion import complete_study
from tune.cli.options import HomeOption, JsonOption, NameArgument
from tune.cli.serving.live_page import watch
from tune.cli.show import console, print_json, typed, waiting
from tune.errors import Exit


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command("report")(report_command)
    app.command("figures")(figures_command)


def report_command(
    name: NameArgument,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file [report.html in the study's folder]")
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Serve the page instead, and refresh it while the study runs")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a study as one HTML page that opens without a network, and attach it to the study's run in MLflow."""
    if live:
        if output is not None or as_json:
            raise ConfigError("--live serves the page and writes no file: leave -o and --json out.")
        watch(name, home)
        return
    with waiting("the figures, and for MLflow to take the page"):
        document = api.report(name, output, home=home)
    pending = document["pending"]
    if as_json:
        print_json(document)
    else:
        console().print(f"{document['path']}: the page of study {name}, {document['bytes'] / 1e6:.1f} MB")
        if pending is None:
            console().print(
                "the page is not in MLflow: a driver runs the study, or its home cannot be written from here. Ask "
                "again once it has ended, or where it can."
            )
        elif pending:
            console().print(
                f"MLflow lacks {counted(pending, 'event')}; deliver them with: {typed('sync', name, home)}"
            )
    if pending:
        sys.exit(Exit.TRACKING_PENDING)


def figures_command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FOLDER", help="A study, or a folder of `train`", autocompletion=complete_study
        ),
    ],
    trial: Annotated[str | None, typer.Option(help="A trial of the study [the best]")] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Folder of the figures [figures, beside the run]"),
    ] = None,
    home: HomeOption = None,
) -> None:
    """Draw a run: its validation error and losses, its pseudo-labels, and its method's own picture."""
    with waiting("the figures"):
        drawn = api.pictures(name, output, trial=trial, home=home)
    for path in drawn:
        console().print(str(path))
