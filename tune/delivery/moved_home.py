"""MLflow's database in a home that was moved: it notes where artifacts lie as absolute paths."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tune.store.layout import ARTIFACTS

_PLACES = (("experiments", "artifact_location"), ("runs", "artifact_uri"))


def follow(database: Path, artifacts: Path) -> None:
    """Name the artifacts where they are now, if the folder that MLflow noted for them is not there any more.

    Args:
        database: MLflow's SQLite file.
        artifacts: the home's folder of artifacts.
    """
    new = artifacts.as_uri()
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        locations = {str(row[0]) for row in connection.execute("SELECT artifact_location FROM experiments")}
        for old in sorted(filter(_is_gone, locations - {new})):
            for table, column in _PLACES:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    [new, len(old) + 1, old, len(old) + 1, f"{old}/"],
                )


def _is_gone(location: str) -> bool:
    """Whether this was a home's folder of artifacts, and is none now."""
    parts = urlsplit(location)
    path = Path(unquote(parts.path))
    return parts.scheme == "file" and path.name == ARTIFACTS and not path.exists()


def remove_misread(uri: str) -> None:
    """Remove the empty folders that MLflow makes beside a SQLite file whose path is quoted in its URL.

    MLflow 3 makes the folder of the path as the URL has it, without taking the quoting away
    (`mlflow.store.db.utils._make_parent_dirs_if_sqlite`).
    """
    misread = Path(uri.partition("://")[2].partition("?")[0].removeprefix("/")).parent
    while "%25" in str(misread) or "%3F" in str(misread):
        with suppress(OSError):  # not there, or not empty
            misread.rmdir()
        misread = misread.parent
