"""What commands print of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssl_core.system.errors import counted
from tune.cli.show import console, print_table, typed
from tune.comparison.table import COLUMNS, table_of


def print_comparison(status: Mapping[str, Any], home: str | None) -> None:
    """A comparison's table and verdict, and what to do next.

    Args:
        status: as `tune.comparison.table.status_of` gives it.
        home: as it was typed.
    """
    confirmation = status["confirmation"]
    seeds = (
        "not confirmed yet"
        if confirmation is None
        else f"{counted(len(confirmation['seeds']), 'fresh seed')}"
    )
    title = f"comparison {status['comparison']}: {status['dataset']}, {status['labels']} labels, {seeds}"
    print_table(COLUMNS, table_of(status), title)
    out = console()
    for left in status["race"] or []:
        out.print(left["said"])
    for sentence in [] if confirmation is None else confirmation["verdict"]:
        out.print(sentence)
    if confirmation is None and status["state"] == "finished":
        resume = typed("resume", status["comparison"], home)
        out.print(f"errors of a search flatter its best trial. Confirm them with: {resume} --confirm-seeds 5")


def print_next(status: Mapping[str, Any], home: str | None) -> None:
    """The commands that come next after a comparison that is confirmed."""
    confirmation = status["confirmation"]
    if confirmation is None or confirmation["winner"] is None:
        return
    winner = next(row["study"] for row in status["methods"] if row["method"] == confirmation["winner"])
    out = console()
    out.print(f"take the winner's model:        {typed('export', winner, home)} --model my-model")
    out.print(f"all of it on one page:          {typed('report', status['comparison'], home)}")
    out.print(f"compare the runs in MLflow:     {typed('ui', None, home)}")
