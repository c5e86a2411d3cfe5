"""The command that starts MLflow's pages on a home: ui."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from ssl_core.system.errors import ConfigError
from tune import api
from tune.cli.line.completion import complete_study
from tune.cli.options import HomeOption, home_of
from tune.cli.serving.ports import check_port, free_port
from tune.cli.show import console, typed
from tune.delivery.database import follow

USUAL_PORT = 5000
SHOWN = 3
"""How many studies have their links printed, the newest first, where none is named."""
WORDS = {"trials": "its trials", "best": "the best five side by side", "confirmed": "what was confirmed"}


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command("ui")(ui_command)


def ui_command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="A study whose links are printed [the newest]",
            autocompletion=complete_study,
        ),
    ] = None,
    home: HomeOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on")] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(help=f"Port to listen on [{USUAL_PORT}, or the next that is free]", min=1, max=65535),
    ] = None,
) -> None:
    """Start the MLflow UI on this home, and print links to its studies; stop it with Ctrl-C."""
    place = home_of(home).folder_for("ui")
    database = place.path / "mlflow.db"
    if name is not None:
        place.existing_study_folder(name)
    if not database.exists():
        raise ConfigError(
            f"{database} does not exist yet: no study of this home was tracked there. Run one first."
        )
    if port is None:
        port = free_port(host, USUAL_PORT)
    else:
        check_port(host, port)
    follow(database, place.artifacts)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", place.default_tracking_uri]
    command += ["--artifacts-destination", place.artifacts.as_uri(), "--host", host, "--port", str(port)]
    command += ["--workers", "1"]  # one reader on SQLite; four would take minutes to start on a small machine
    base = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    out = console()
    # MLflow opens on pages for language models unless it is told that these are training runs.
    out.print(
        f"MLflow: {base}/#/experiments?workflowType=machine_learning (in some seconds; Ctrl-C stops it)"
    )
    _print_links(name, home, base)
    sys.stdout.flush()
    os.execv(sys.executable, command)  # in this process's place, so that signals reach the server


def _print_links(name: str | None, home: str | None, base: str) -> None:
    """Links to the trials, the best and the confirmed models of the study, or of the newest studies."""
    found = api.mlflow_links(base, name, newest=SHOWN, home=home)
    out = console()
    for study, links in found.items():
        out.print(f"{study}:")
        for what, link in links.items():
            out.print(f"    {WORDS[what]}: {link}")
        if not links:
            out.print(f"    not in this MLflow yet; deliver it with: {typed('sync', study, home)}")
