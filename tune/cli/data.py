"""The command that looks at a data set: data."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from tune import api
from tune.cli.line.completion import complete_dataset
from tune.cli.options import DataRootOption, HomeOption, JsonOption, LabelsOption, SetOption
from tune.cli.show import console, print_json, print_table
from tune.errors import Exit

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssl_core.data.inspecting.inspection import Inspection

_PARTS = ("train", "unlabelled", "valid", "test")
_CLASS_LETTERS, _CLASSES_SHOWN = 24, 40


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command("data")(data_command)


def data_command(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="digits, cifar10, cifar100, svhn, stl10, folder:PATH or table:FILE",
            autocompletion=complete_dataset,
        ),
    ],
    labels: LabelsOption = None,
    settings: SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", metavar="FILE.png", help="Some images as the network sees them, with their views"),
    ] = None,
    data_root: DataRootOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look at a data set before anything runs: what it holds, what is wrong with it, how it would be split.

    Exits with 2 where a search would be refused.
    """
    from tune.definition.inputs import parse_sets

    given = parse_sets(settings or [], "supervised")
    with progress_bar("decoding") as progress:
        found = api.data_summary(
            dataset,
            labels=labels,
            settings=given,
            data_root=data_root,
            sheet=out,
            home=home,
            progress=progress,
        )
    if as_json:
        print_json(found.document())
    else:
        print_summary(found)
        if out is not None:
            console().print(f"contact sheet: {out}")
    sys.exit(Exit.USAGE if found.problems else Exit.DONE)


@contextmanager
def progress_bar(doing: str) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on standard error, where that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(doing, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_summary(found: Inspection) -> None:
    """Print what was found, readable at 80 columns."""
    out = console()
    out.print(f"{found.name}: {len(found.classes)} classes, {found.protocol} protocol")
    _print_classes(found)
    rows = [["images", f"{found.image_size}x{found.image_size} pixels for the network"]]
    rows += [["sizes", ", ".join(f"{n} of {w}x{h}" for w, h, n in found.sizes)]] if found.sizes else []
    rows += [["kinds", ", ".join(f"{n} {kind}" for kind, n in found.kinds.items())]] if found.kinds else []
    rows += [["memory, disk", f"{found.bytes_in_memory / 1e6:.1f} MB, {found.bytes_on_disk / 1e6:.1f} MB"]]
    rows += [
        [f"left out: {reason}", f"{what['count']}, for example {what['example']}"]
        for reason, what in found.left_out.items()
    ]
    if found.damaged["count"]:
        rows.append(["damaged files", str(found.damaged["count"])])
        rows += [["", f"{bad['file']}: {bad['error']}"] for bad in found.damaged["files"]]
    print_table(["what", "found"], rows)
    for title, lines in (("note", found.notes), ("warning", found.warnings), ("refused", found.problems)):
        for line in lines:
            out.print(f"{title}: {line}", soft_wrap=False)


def _print_classes(found: Inspection) -> None:
    """Counts of each class as they are, and as they would be split."""
    parts = [part for part in _PARTS if isinstance(found.counts.get(part), list)]
    drawn = [part for part in ("labelled", "valid", "test") if found.split is not None]
    rows: list[list[Any]] = []
    for place, name in enumerate(found.classes[:_CLASSES_SHOWN]):
        short = name if len(name) <= _CLASS_LETTERS else f"{name[: _CLASS_LETTERS - 1]}…"
        row: list[Any] = [short, *[found.counts[part][place] for part in parts]]
        rows.append(row + [found.split[part][place] for part in drawn if found.split is not None])
    print_table(["class", *[f"in {part}" for part in parts], *[f"drawn {part}" for part in drawn]], rows)
    out = console()
    if len(found.classes) > _CLASSES_SHOWN:
        out.print(f"and {len(found.classes) - _CLASSES_SHOWN} more classes (all with --json)")
    out.print(f"without a label: {found.counts['unlabelled']}")
    if found.split is not None:
        out.print(f"trained on without labels: {found.split['unlabelled']} (the labelled ones among them)")
