"""Commands that remove something: delete and clean."""

from __future__ import annotations

import sys
from collections import defaultdict
from typing import Annotated

import typer

from ssl_core.system.errors import ConfigError, counted
from tune import api
from tune.cli.options import HomeOption, JsonOption, NameArgument, home_of
from tune.cli.show import console, print_json, print_table, waiting
from tune.comparison.record import is_comparison
from tune.definition.inputs import parse_size
from tune.errors import Exit


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command("delete")(delete_command)
    app.command("clean")(clean_command)


def delete_command(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")] = False,
    tracking: Annotated[bool, typer.Option("--tracking", help="Also delete its runs in MLflow")] = False,
    home: HomeOption = None,
) -> None:
    """Delete a study, or a comparison with its studies, for good. The record of test images that were read stays."""
    shown = home_of(home).shown
    if not yes:
        is_one = is_comparison(name, home_of(home))
        what = f"comparison {name!r} with its studies" if is_one else f"study {name!r}"
        _ask(what, name, shown, tracking)
    with waiting("MLflow to delete the runs" if tracking else "the files to go"):
        deleted = api.delete(name, tracking=tracking, home=home)
    runs = "" if deleted.runs is None else f", and {counted(deleted.runs, 'run')} in MLflow"
    studies = f" with {counted(len(deleted.studies), 'study', 'studies')}" if deleted.studies else ""
    console().print(f"deleted: {name}{studies} of {shown} ({megabytes(deleted.size)}){runs}")


def _ask(what: str, name: str, shown: str, tracking: bool) -> None:
    """Have the user say yes.

    Raises:
        ConfigError: the user says no, or there is nobody to ask.
    """
    if not sys.stdin.isatty():
        raise ConfigError(f"nobody can be asked here: `delete {name}` needs --yes. Nothing was deleted.")
    runs = " and its runs in MLflow" if tracking else "; its runs in MLflow stay (--tracking)"
    if not typer.confirm(f"Delete the {what} of {shown} for good{runs}?"):
        raise ConfigError("nothing was deleted.")


def megabytes(size: int) -> str:
    """Bytes in words: ``1.5 MB``, ``2.3 GB``."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def clean_command(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go; remove nothing")] = False,
    cache_age: Annotated[
        str, typer.Option(metavar="30d", help="Decoded images that were not read for so long can go")
    ] = "30d",
    cache_size: Annotated[
        str | None,
        typer.Option(
            metavar="20G", help="What decoded images may take; those read longest ago go [any size]"
        ),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove what can go: old decoded images and warm-ups, checkpoints of trials that have ended, logs, leftovers."""
    most = None if cache_size is None else parse_size(cache_size, "--cache-size")
    with waiting("the files to be looked through"):
        found, problems = api.clean(cache_age=cache_age, cache_size=most, dry_run=dry_run, home=home)
    if as_json:
        items = [{"kind": i.kind, "path": str(i.path), "bytes": i.size, "why": i.why} for i in found.items]
        print_json({"items": items, "bytes": found.size, "left_out": found.left_out, "problems": problems})
    else:
        sums: dict[str, list[int]] = defaultdict(list)
        for item in found.items:
            sums[item.kind].append(item.size)
        rows = [[kind, len(sizes), megabytes(sum(sizes))] for kind, sizes in sums.items()]
        if rows:
            print_table(["what", "how many", "size"], rows)
        verb = "would be freed" if dry_run else "freed"
        console().print(f"{verb}: {megabytes(found.size)} of {home_of(home).shown}")
        for name, why in found.left_out.items():
            console().print(f"left alone: {name}: {why}")
    for problem in problems:
        print(f"ssl-tune: {problem}", file=sys.stderr)  # noqa: T201
    sys.exit(Exit.STORAGE if problems else Exit.DONE)
