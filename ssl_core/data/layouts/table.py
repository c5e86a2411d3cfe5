"""Tables of images: CSV, TSV or Parquet with the columns file, label and optionally split and group.

Private to `ssl_core.data`. pandas is loaded by the functions that read a table.
"""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core.data.layouts.listing import UNLABELLED_NAMES, Files, Listing, shown
from ssl_core.data.part import UNLABELLED
from ssl_core.system.errors import ConfigError, unknown

COLUMNS = "file, label (empty: no label), and optionally split (train, valid, test, unlabelled) and group"
_SPLITS = {
    "": "",
    "train": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "test": "test",
    **dict.fromkeys(UNLABELLED_NAMES, "unlabelled"),
}
_METADATA = "metadata.csv"


@dataclass(frozen=True)
class _Row:
    """One line: `number` counts lines of the file from 1, the header included."""

    number: int
    file: str
    label: str
    split: str
    group: str


def list_table(path: Path) -> Listing:
    """The files that a table names; no image is opened.

    Args:
        path: the table, absolute; its images lie in its folder or below.

    Raises:
        ConfigError: the table is missing or unreadable or lacks a column, names a file that does not exist
            or lies outside its folder, gives a file two labels or two parts, or has fewer than two classes
            or a class that training lacks.
    """
    if not path.is_file():
        state = "is not a file" if path.exists() else "does not exist"
        raise ConfigError(f"table {path} {state}. Give it as table:FILE, a CSV, TSV or Parquet file.")
    what = f"table {path}"
    columns = _columns(path, what)
    for name in ("file", "label"):
        if name not in columns:
            raise unknown("column", name, columns, where=f"{what} lacks a column. Expected {COLUMNS}")
    return _listing(path.parent, what, _rows(columns, "file"))


def list_metadata(folder: Path) -> Listing | None:
    """The files that a folder's metadata.csv names, in `folder` or in folder/{train,valid,test}; None where
    there is none with the columns file_name and label.

    Raises:
        ConfigError: as for `list_table`.
    """
    rows: list[_Row] = []
    what = ""
    for part in ("", "train", "valid", "validation", "test"):
        path = folder / part / _METADATA
        if not path.is_file():
            continue
        columns = _columns(path, f"table {path}")
        if not {"file_name", "label"} <= set(columns):
            continue
        what = what or f"table {path}"
        for row in _rows(columns, "file_name"):
            file = posixpath.join(part, row.file)
            first = file.replace("\\", "/").split("/")[0]
            split = row.split or _SPLITS.get(part or first, "")
            rows.append(_Row(row.number, file, row.label, split, row.group))
        if not part:
            break
    return _listing(folder, what, rows) if rows else None


def _columns(path: Path, what: str) -> dict[str, list[str]]:
    """The table's columns as text, by their names in lower case; an empty cell is ""."""
    import pandas as pd

    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            frame = pd.read_parquet(path)
        else:
            frame = pd.read_csv(
                path, sep=_separator(path), dtype=str, keep_default_na=False, encoding="utf-8-sig"
            )
    except (OSError, ValueError, ImportError) as error:  # pandas' parser errors are ValueErrors
        raise ConfigError(
            f"{what} cannot be read: {error}. Expected a CSV, TSV or Parquet file in UTF-8 with the columns "
            f"{COLUMNS}."
        ) from error
    return {str(name).strip().lower(): [_text(cell) for cell in frame[name]] for name in frame.columns}


def _separator(path: Path) -> str:
    """The character between the columns: a tab, or what stands in the first line."""
    if path.suffix.lower() in (".tsv", ".tab"):
        return "\t"
    with path.open("rb") as file:
        first = file.readline(65_536)
    return max((",", ";", "\t"), key=lambda mark: first.count(mark.encode()))


def _text(cell: Any) -> str:
    if cell is None or cell != cell:  # None, NaN, and pandas' missing values
        return ""
    if isinstance(cell, float) and cell.is_integer():  # numbers with gaps between them are read as floats
        return str(int(cell))
    return unicodedata.normalize("NFC", str(cell).strip())


def _rows(columns: dict[str, list[str]], file_column: str) -> list[_Row]:
    files = columns[file_column]
    empty = [""] * len(files)
    others = (columns.get(name, empty) for name in ("label", "split", "group"))
    return [_Row(number, *cells) for number, cells in enumerate(zip(files, *others, strict=True), start=2)]


def _listing(root: Path, what: str, rows: Sequence[_Row]) -> Listing:
    placed = _placed(root, what, rows)
    known = sorted({row.label for row in placed if row.split == "train"})
    _check_classes(what, known, placed)
    parts = {}
    for part in ("train", "unlabelled", "valid", "test"):
        members = [row for row in placed if row.split == part]
        if part == "unlabelled":
            members.sort(key=lambda row: row.file)
            labels = [UNLABELLED] * len(members)
        else:
            members.sort(key=lambda row: (row.label, row.file))
            labels = [known.index(row.label) for row in members]
        if members:
            parts[part] = Files(
                tuple(row.file for row in members),
                np.asarray(labels, dtype=np.int64),
                tuple(row.group for row in members),
            )
    return Listing(root, what, tuple(known), parts)


def _placed(root: Path, what: str, rows: Sequence[_Row]) -> list[_Row]:
    """The rows with their final paths and parts, each file once."""
    seen: dict[str, _Row] = {}
    missing: list[str] = []
    for row in rows:
        file = _inside(root, what, row)
        placed = _Row(row.number, file, row.label, _split(what, row), row.group)
        before = seen.setdefault(file, placed)
        if (before.label, before.split, before.group) != (placed.label, placed.split, placed.group):
            raise ConfigError(
                f"{what}: {file} stands in line {before.number} with {_cells(before)} and in line "
                f"{placed.number} with {_cells(placed)}. Keep one of the two lines."
            )
        if before is placed and not os.path.isfile(os.path.join(root, file)):  # noqa: PTH113, PTH118
            missing.append(f"{file} (line {row.number})")
    if missing:
        raise ConfigError(
            f"{what}: {len(missing)} of {len(seen)} files do not exist in {root}: {shown(missing, width=120)}. "
            f"Correct the paths, which are relative to the table, or remove the lines."
        )
    return list(seen.values())


def _cells(row: _Row) -> str:
    group = f", group {row.group!r}" if row.group else ""
    return f"label {row.label!r} for {row.split}{group}"


def _inside(root: Path, what: str, row: _Row) -> str:
    """The row's path relative to the root, with "/"."""
    if not row.file:
        raise ConfigError(f"{what}: line {row.number} has no file. Name one, or remove the line.")
    path = row.file.replace("\\", "/")
    if posixpath.isabs(path):
        path = os.path.relpath(path, root)
    path = posixpath.normpath(path)
    if path.startswith("../") or path == "..":
        raise ConfigError(
            f"{what}: line {row.number} names {row.file!r}, which is outside the table's folder {root}. Put "
            f"the table beside the images or above them."
        )
    return path


def _split(what: str, row: _Row) -> str:
    if row.split.lower() not in _SPLITS:
        raise unknown("split", row.split, sorted(_SPLITS.keys() - {""}), where=f"{what}: line {row.number}")
    split = _SPLITS[row.split.lower()]
    if split in ("valid", "test") and not row.label:
        raise ConfigError(
            f"{what}: line {row.number}: {row.file} is for {split} but has no label. Give it one, or another "
            f"split."
        )
    if not row.label:
        return "unlabelled"
    return split or "train"


def _check_classes(what: str, known: list[str], rows: list[_Row]) -> None:
    if not known:
        raise ConfigError(
            f"{what} has no labelled training image. Fill the column label for a few of each class."
        )
    for row in rows:
        if row.split in ("valid", "test") and row.label not in known:
            raise ConfigError(
                f"{what}: label {row.label!r} (line {row.number}) is used in {row.split} but not in train, "
                f"which has {shown(known)}. Correct it, or add training images of {row.label!r}."
            )
    if len(known) < 2:
        raise ConfigError(f"{what} has one class, {known[0]!r}; at least 2 are needed.")
