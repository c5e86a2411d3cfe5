"""Finished runs as rows of a committed CSV file; an interrupted experiment continues with the rest."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

Row = TypeVar("Row")
_TYPES = {"int": int, "float": float, "str": str}


def read_rows(table: Path, kind: type[Row]) -> list[Row]:
    """The runs that are done; `kind` is a dataclass of int, float and str, whose fields are the columns."""
    if not table.exists():
        return []
    types = {f.name: _TYPES[str(f.type)] for f in fields(kind)}  # type: ignore[arg-type]
    with table.open(newline="") as file:
        return [kind(**{k: types[k](v) for k, v in row.items()}) for row in csv.DictReader(file)]


def append(table: Path, row: Any) -> None:
    """Add a finished run, a dataclass, to its file."""
    new = not table.exists()
    with table.open("a", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(row)], lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(asdict(row))


def spread(values: Sequence[float], *, sign: bool = False) -> str:
    """Mean ± standard deviation, as text."""
    if not values:
        return ""
    mean = f"{statistics.fmean(values):{'+' if sign else ''}.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean
