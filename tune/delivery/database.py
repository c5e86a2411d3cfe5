"""The SQLite file that MLflow writes to: made, told apart, and mended where its home was moved.

MLflow notes in it where artifacts lie, as absolute paths.
"""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tune.delivery.refusals import AwayError
from tune.store.layout import ARTIFACTS, sqlite_url
from tune.tracking.uri import sqlite_path

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


def file_identity(uri: str) -> tuple[int, int] | None:
    """Which file a sqlite URI names at this moment; None where there is none."""
    database = sqlite_path(uri) if uri.startswith("sqlite") else None
    try:
        found = None if database is None else database.stat()
    except FileNotFoundError:
        return None
    return None if found is None else (found.st_dev, found.st_ino)


@contextmanager
def prepared_database(uri: str) -> Iterator[None]:
    """For a sqlite store: its tables are there, and studies that start at once do not make them at once.

    The tables are made (5-10 s of migrations) in another file, which is then renamed: a sender that is
    killed meanwhile leaves no half-migrated database.
    """
    if not uri.startswith("sqlite"):
        yield
        return
    database = sqlite_path(uri)
    if database is None:
        raise AwayError(f"tracking URI {uri!r} names no file", slow=True)
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(f"{database.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not database.exists():
            from mlflow.tracking import MlflowClient  # loads MLflow

            fresh = database.with_name(f"{database.name}.new")
            for leftover in (fresh, fresh.with_name(f"{fresh.name}-journal")):
                leftover.unlink(missing_ok=True)
            MlflowClient(tracking_uri=sqlite_url(fresh)).search_experiments(max_results=1)
            remove_misread(sqlite_url(fresh))
            fresh.rename(database)
        yield
