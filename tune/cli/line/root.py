"""The command without a verb: its help, and its version."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from tune.revision import git_revision


def version_line() -> str:
    """Version and revision of what is installed: ``ssl-tune 0.1.0 (revision 1a2b3c4d5e6f)``."""
    try:
        number = version("ssl-tune")
    except PackageNotFoundError:  # run from a checkout that was not installed
        number = "not installed"
    return f"ssl-tune {number} (revision {git_revision()})"


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
