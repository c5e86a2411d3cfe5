"""The command without a verb: its help, and its version."""

from __future__ import annotations

from typing import Annotated

import typer

from ssl_core.system.version import __version__
from tune.revision import git_revision


def version_line() -> str:
    """Version and revision of what runs: ``ssl-tune 0.2.0 (revision 1a2b3c4d5e6f)``."""
    return f"ssl-tune {__version__} (revision {git_revision()})"


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version_line())
        raise typer.Exit


def root(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and end"),
    ] = False,
) -> None:
    """Hyperparameter search for semi-supervised image classification. All state lives in one folder: --home,
    SSL_TUNE_HOME, or ./ssl-tune-home.
    """
