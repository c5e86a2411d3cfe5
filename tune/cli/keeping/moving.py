"""Commands that move a study to another machine: pack and unpack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tune import api
from tune.cli.keeping.removing import megabytes
from tune.cli.options import HomeOption, NameArgument, home_of
from tune.cli.show import console, typed, waiting
from tune.tracking.uri import shown


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command("pack")(pack_command)
    app.command("unpack")(unpack_command)


def pack_command(
    name: NameArgument,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The file to write")],
    home: HomeOption = None,
) -> None:
    """Write a study with its event log, checkpoints and models into one file, for another machine."""
    with waiting(f"the files of {name} to be written to {output}"):
        packed = api.pack(name, output, home=home)
    console().print(
        f"{packed.path}: {name}, {packed.state}, {packed.files} files, {megabytes(packed.size)}. There:"
    )
    console().print(typed("unpack", str(packed.path.name), None))


def unpack_command(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="What `pack` wrote")], home: HomeOption = None
) -> None:
    """Bring a packed study into a home. A pack may come from anybody: no code of it is run."""
    with waiting(f"{path} to be unpacked"):
        unpacked = api.unpack(path, home=home)
    study, out = unpacked.study, console()
    state = study.folder.state()
    out.print(
        f"{study.name}: {state}, packed {unpacked.packed}, now in {home_of(home).shown}; tracked in "
        f"{shown(study.spec.tracking_uri)}"
    )
    if unpacked.missing is not None:
        out.print(
            f"its images are expected in {unpacked.missing}, which is not here: it can be read, but not carried on"
        )
    if state == "interrupted":
        out.print(f"carry on with: {typed('resume', study.name, home)}")
    else:
        out.print(f"look at it with: {typed('status', study.name, home)}")
    out.print(f"deliver it to MLflow with: {typed('sync', study.name, home)}")
