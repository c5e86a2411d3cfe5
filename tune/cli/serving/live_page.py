"""The command that shows a study's page while it runs: watch."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from tune import api
from tune.cli.options import HomeOption, NameArgument
from tune.cli.serving.ports import check_port, free_port
from tune.cli.show import console, typed

USUAL_PORT = 8501
LOOK_SECONDS = 1.0

PortOption = Annotated[
    int | None,
    typer.Option(
        "--port", help=f"Port to listen on [{USUAL_PORT}, or the next that is free]", min=1, max=65535
    ),
]


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command("watch")(watch_command)


def watch_command(
    name: NameArgument,
    home: HomeOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on")] = "127.0.0.1",
    port: PortOption = None,
) -> None:
    """Show a study's page in the browser while it runs; stop with Ctrl-C. The study does not notice."""
    watch(name, home, host, port)


def watch(name: str, home: str | None, host: str = "127.0.0.1", port: int | None = None) -> None:
    """Serve the page until Ctrl-C, and say once when the study has ended."""
    study = api.load_study(name, home=home)
    if port is None:
        port = free_port(host, USUAL_PORT)
    else:
        check_port(host, port)
    with api.live_page(study, host=host, port=port) as address:
        console().print(f"{name}: {address} (Ctrl-C ends the page, not the study)")
        sys.stdout.flush()
        ended = False
        try:
            while True:
                if not ended and (state := study.folder.state()) != "running":
                    ended = True
                    console().print(
                        f"the study {name!r} is {state}; its page in a file: {typed('report', name, home)}"
                    )
                    sys.stdout.flush()
                time.sleep(LOOK_SECONDS)
        except KeyboardInterrupt:
            pass
