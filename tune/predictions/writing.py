"""Predictions written as they come: a table (CSV or Parquet), and copies of the images by class."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ssl_core.system.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

CSV, PARQUET = ".csv", ".parquet"
_DIGITS = "%.6f"


def check_table(path: Path) -> None:
    """Refuse a file that cannot be a table of predictions, before images are predicted for minutes.

    Raises:
        ConfigError: another ending, or no such folder.
    """
    if path.suffix.lower() not in (CSV, PARQUET):
        raise ConfigError(f"-o {path}: name a file that ends in .csv or .parquet.")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"-o {path}: the folder {path.absolute().parent} does not exist. Make it first.")


def csv_text(table: pd.DataFrame, *, header: bool) -> str:
    """A part of the table as comma-separated values."""
    return str(table.to_csv(index=False, header=header, float_format=_DIGITS))


def json_lines(table: pd.DataFrame) -> str:
    """A part of the table as one JSON object a line; what a damaged image lacks is null."""
    return str(table.to_json(orient="records", lines=True, double_precision=6, force_ascii=False))


class TableFile:
    """A table that grows part by part; the file is there once it is whole.

    Files in the table's folder or below are named relative to it, so that ``table:FILE`` reads the table.

    Args:
        path: see `check_table`.
    """

    def __init__(self, path: Path) -> None:
        check_table(path)
        self.path = path
        self._aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._parquet: Any = None
        self._begun = False

    def __enter__(self) -> TableFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._parquet is not None:
            self._parquet.close()
        if kind is None and self._begun:
            self._aside.replace(self.path)
        else:
            self._aside.unlink(missing_ok=True)

    def write(self, table: pd.DataFrame) -> None:
        """Append some rows."""
        table = table.assign(file=[self._relative(file) for file in table["file"]])
        if self.path.suffix.lower() == CSV:
            with self._aside.open("a" if self._begun else "w", encoding="utf-8", newline="") as file:
                file.write(csv_text(table, header=not self._begun))
        else:
            self._write_parquet(table)
        self._begun = True

    def _write_parquet(self, table: pd.DataFrame) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        schema = pa.schema(
            [(name, pa.float64() if name.startswith("confidence") else pa.string()) for name in table.columns]
        )
        if self._parquet is None:
            self._parquet = parquet.ParquetWriter(self._aside, schema)
        self._parquet.write_table(pa.Table.from_pandas(table, schema=schema, preserve_index=False))

    def _relative(self, file: str) -> str:
        place, folder = Path(file).absolute(), self.path.absolute().parent
        if not place.exists():  # an image of a data set that has no files
            return file
        return place.relative_to(folder).as_posix() if place.is_relative_to(folder) else str(place)


class ByClass:
    """Copies of images in a folder for each predicted class.

    Args:
        folder: new, or empty.

    Raises:
        ConfigError: it holds something, or cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"--by-class {folder}: it is there and not an empty folder. Name another one.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"--by-class {folder} cannot be made: {error.strerror}. Name another one."
            ) from None
        self.folder = folder

    def write(self, table: pd.DataFrame) -> None:
        """Copy the images of some rows; those that cannot be read are left out."""
        named = table[table["label"].notna()]
        for file, label in zip(named["file"], named["label"], strict=True):
            place = self.folder / _folder_name(str(label))
            place.mkdir(exist_ok=True)
            shutil.copy2(file, _free(place / Path(file).name))


def _folder_name(label: str) -> str:
    """A class's folder; a model's class may be called anything, and its folder lies in the given one all the same."""
    name = label.replace("/", "_").replace("\0", "_")
    return "_" if name.strip(".") == "" else name


def _free(path: Path) -> Path:
    """This path, or where it is taken (images of one name from two folders) one with a number."""
    number, found = 1, path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return found
