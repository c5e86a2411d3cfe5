"""The command that labels images with a model: predict."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssl_core.system.errors import ConfigError
from tune import api
from tune.cli.data import progress_bar
from tune.cli.line.completion import complete_study
from tune.cli.options import DataRootOption, HomeOption
from tune.cli.show import console
from tune.errors import Exit

if TYPE_CHECKING:
    import pandas as pd

_LABELS_SHOWN = 12


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command("predict")(predict_command)


UnlabelledOption = Annotated[
    str | None,
    typer.Option(
        metavar="STUDY",
        help="In place of IMAGES: the study's images that have no label",
        autocompletion=complete_study,
    ),
]


def predict_command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The model's folder")],
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="[IMAGES]...", help="Image files, or folders of them")
    ] = None,
    top: Annotated[int, typer.Option(metavar="K", help="How many of the most likely classes")] = 1,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The table, .csv or .parquet [standard output, as CSV]"),
    ] = None,
    by_class: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also copy the images, into a folder for each class"),
    ] = None,
    unlabelled_of: UnlabelledOption = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="A picture of the images that the model is least certain of [with --unlabelled-of: beside -o]",
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images of one pass [as in the training's evaluation]")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line, in place of CSV [without -o]")
    ] = False,
    data_root: DataRootOption = None,
    home: HomeOption = None,
) -> None:
    """Label images with a model: file, label, confidence. One that is damaged is a row with its error (then exit 4)."""
    if as_json and output is not None:
        raise ConfigError(f"--json is for standard output; -o {output} is a table. Give one of them.")
    printer = _Printer(as_json=as_json)
    with progress_bar("predicting") as progress:
        found = api.predict(
            model,
            images or None,
            top=top,
            output=output,
            by_class=by_class,
            unlabelled_of=unlabelled_of,
            sheet=sheet,
            batch_size=batch_size,
            device=device,
            data_root=data_root,
            home=home,
            progress=progress,
            each=printer.write if output is None else _nothing,
        )
    _say_what_was_found(found, output, by_class)
    sys.exit(Exit.SOME_TRIALS_FAILED if found.damaged else Exit.DONE)


class _Printer:
    """Prints a table to standard output as it comes."""

    def __init__(self, *, as_json: bool) -> None:
        self._begun = False
        self._as_json = as_json

    def write(self, table: pd.DataFrame) -> None:
        from tune.predictions.writing import csv_text, json_lines

        sys.stdout.write(json_lines(table) if self._as_json else csv_text(table, header=not self._begun))
        self._begun = True


def _nothing(_: pd.DataFrame) -> None:
    """What is done with rows that are in a file."""


def _say_what_was_found(found: api.Predicted, output: Path | None, by_class: Path | None) -> None:
    """What came out, on standard error where the table goes to standard output."""
    out = console(to_error=output is None)
    for note in found.notes:
        out.print(f"note: {note}")
    common = found.labels.most_common(_LABELS_SHOWN)
    counts = ", ".join(f"{count} {label}" for label, count in common)
    more = len(found.labels) - len(common)
    counts += f" and {more} more classes" if more > 0 else ""
    out.print(f"{found.images} images: {counts or 'none could be read'}")
    for file, error in found.errors.items():
        out.print(f"cannot be read: {file}: {error}")
    if found.damaged > len(found.errors):
        out.print(f"and {found.damaged - len(found.errors)} more that cannot be read (column error)")
    if output is not None:
        out.print(f"table: {output}")
    if by_class is not None:
        out.print(f"copies by class: {by_class}")
    if found.sheet is not None:
        out.print(f"the least certain ones: {found.sheet}")
