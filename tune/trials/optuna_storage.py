"""Where a study's trials lie: Optuna's tables in the study's folder, or in the database of ``--storage``."""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from ssl_core.system.errors import ConfigError
from tune.errors import Exit, ServiceError, has_password, without_passwords
from tune.store.integrity import connect_to_read, damaged, is_damage
from tune.store.layout import sqlite_url

if TYPE_CHECKING:
    from tune.definition.spec import StudySpec
    from tune.store.study_folder import StudyFolder

CONNECT_SECONDS = 10
PASSWORD, PASSWORD_FILE = "SSL_TUNE_STORAGE_PASSWORD", "SSL_TUNE_STORAGE_PASSWORD_FILE"
"""Variables of the environment: the password of a database of ``--storage``, or the file that holds it."""
# A parameter of this name makes a driver of PostgreSQL or MySQL give up on a host that does not answer.
_TIMEOUT_PARAMETER = {
    "psycopg2": "connect_timeout",
    "psycopg": "connect_timeout",
    "pymysql": "connect_timeout",
}
_TIMEOUT_PARAMETER |= {"mysqldb": "connect_timeout"}


def check_storage_url(text: str) -> None:
    """Raise ConfigError unless this is a database URL, its driver is installed and it has no password."""
    if has_password(text):
        raise ConfigError(
            f"--storage {without_passwords(text)} holds a password, and it is kept with the study and shown. Leave it "
            f"out, and put it into ~/.pgpass or the file of PGPASSFILE (PostgreSQL), into {PASSWORD}, or into a file "
            f"that {PASSWORD_FILE} names (any database)."
        )
    url = _parsed(text)
    try:
        url.get_dialect().import_dbapi()
    except NoSuchModuleError:
        raise ConfigError(
            f"--storage {shown(text)}: SQLAlchemy has no database {url.drivername!r}. Write a URL such as "
            "sqlite:////data/optuna.db or postgresql+psycopg2://user@host/database."
        ) from None
    except ImportError as error:
        raise ConfigError(
            f"--storage {shown(text)}: its driver is not installed ({error}). Install it with pip, or name another "
            "driver in the URL."
        ) from None


def shown(text: str) -> str:
    """A database URL as it may be printed: without its password."""
    return without_passwords(_parsed(text).render_as_string(hide_password=True))


def _parsed(text: str) -> URL:
    try:
        return make_url(text)
    except ArgumentError:
        raise ConfigError(
            f"--storage {without_passwords(text)!r} is no database URL. Write one such as sqlite:////data/optuna.db or "
            "postgresql+psycopg2://user@host/database."
        ) from None


def open_storage(folder: StudyFolder, url: str | None = None, *, shared: bool | None = None) -> RDBStorage:
    """Optuna's storage of a study; waits for another process's write rather than fail.

    Args:
        folder: the study's folder.
        url: the database of ``--storage``; None: the study's own file.
        shared: how that file is to be written: True where other machines read it meanwhile (they cannot share
            the memory that SQLite's write-ahead log takes), False where none does; None: as it is.

    Raises:
        DamagedError: the study's own file is damaged.
        ServiceError: a database that does not answer.
    """
    where = url or sqlite_url(folder.optuna_db)
    with answering(folder, url):
        return RDBStorage(where, engine_kwargs=_engine_options(where, shared if url is None else None))


def open_to_read(folder: StudyFolder, url: str | None = None) -> RDBStorage | None:
    """Optuna's storage of a study for reading alone: nothing is written, and nothing has to be writable.

    Args:
        folder: the study's folder.
        url: the database of ``--storage``; None: the study's own file.

    Returns:
        None where there is no storage yet, or its driver has not made its tables yet.

    Raises:
        DamagedError: the study's own file is damaged.
        ServiceError: a database that does not answer.
    """
    where = url or sqlite_url(folder.optuna_db)
    options = _engine_options(where, None)
    path = folder.optuna_db if url is None else _sqlite_file(where)
    if path is not None:
        if not path.exists():
            if url is None:
                return None
            raise ServiceError(f"storage: {shown(where)} cannot be used: there is no {path}.", Exit.STORAGE)
        if not _has_tables(folder, url, path):
            return None
        options = {"creator": functools.partial(connect_to_read, path)}
    with answering(folder, url):
        return RDBStorage(
            where, engine_kwargs=options, skip_table_creation=True, skip_compatibility_check=path is None
        )


def _sqlite_file(where: str) -> Path | None:
    """The file of an SQLite URL; None of another database, or one in memory."""
    url = _parsed(where)
    name = url.database if url.get_backend_name() == "sqlite" else None
    return Path(name) if name and name != ":memory:" and not name.startswith("file:") else None


def _has_tables(folder: StudyFolder, url: str | None, path: Path) -> bool:
    """Whether Optuna has made all of its tables: the version is what it writes last."""
    try:
        with contextlib.closing(connect_to_read(path)) as database:
            (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if not tables:
                return False
            return bool(database.execute("SELECT count(*) FROM alembic_version").fetchone()[0])
    except sqlite3.DatabaseError as error:
        if str(error) == "no such table: alembic_version":
            return False
        if url is None and is_damage(error):
            raise damaged(path, str(error)) from None
        raise ServiceError(f"storage: {path} cannot be used: {error}.", Exit.STORAGE) from None


def _engine_options(text: str, shared: bool | None) -> dict[str, Any]:
    url = _parsed(text)
    if url.get_backend_name() == "sqlite":
        kind = {None: _Connection, False: _LoggedConnection, True: _SharedConnection}[shared]
        return {"connect_args": {"timeout": 60, "factory": kind}}
    name = _TIMEOUT_PARAMETER.get(url.get_driver_name())
    arguments: dict[str, Any] = {} if name is None or name in url.query else {name: CONNECT_SECONDS}
    if not has_password(text) and (password := _password()) is not None:
        arguments["password"] = password  # into this process's connection alone
    # A server may drop connections that idle during a long epoch: they are tried before use.
    return {"connect_args": arguments, "pool_pre_ping": True}


def _password() -> str | None:
    """The password of a database of ``--storage``, from the environment or a file that it names.

    Raises:
        ConfigError: the file cannot be read.
    """
    name = os.environ.get(PASSWORD_FILE)
    if os.environ.get(PASSWORD) or not name:
        return os.environ.get(PASSWORD) or None
    try:
        return Path(name).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{PASSWORD_FILE} = {name}: cannot be read: {error}.") from None


class _Connection(sqlite3.Connection):
    """What is committed survives the death of any process; only a power cut may cost the last writes."""

    journal: str | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.journal is not None:
            self.execute(f"PRAGMA journal_mode = {self.journal}")
        self.execute("PRAGMA synchronous = NORMAL")


class _LoggedConnection(_Connection):
    journal = "WAL"


class _SharedConnection(_Connection):
    journal = "DELETE"


@contextmanager
def answering(folder: StudyFolder, url: str | None) -> Iterator[None]:
    """Turn what a database raises that does not answer, or is damaged, into a message.

    Args:
        folder: the study's folder.
        url: the database of ``--storage``; None: the study's own file.

    Raises:
        DamagedError: the study's own file is damaged.
        ServiceError: with the exit code for storage.
    """
    try:
        yield
    except (DBAPIError, optuna.exceptions.StorageInternalError) as error:
        cause = error.__cause__ or error
        origin = getattr(cause, "orig", None) or cause
        if url is None and is_damage(origin):
            raise damaged(folder.optuna_db, str(origin)) from None
        reason = str(origin).strip().splitlines()
        where = str(folder.optuna_db) if url is None else shown(url)
        said = without_passwords(reason[0]) if reason else type(cause).__name__
        raise ServiceError(
            f"storage: {where} cannot be used: {said}. Check that "
            "it is there, whole and lets this user in. The study's reports and checkpoints are in its folder.",
            Exit.STORAGE,
        ) from error


def studies_in(storage: RDBStorage) -> list[str]:
    """Names of the studies that a storage holds."""
    return [study.study_name for study in storage.get_all_studies()]


def check_name_is_free(spec: StudySpec, folder: StudyFolder) -> None:
    """Refuse a study whose name the database of ``--storage`` has already: two would silently become one.

    Raises:
        ConfigError: it has.
        ServiceError: it does not answer.
    """
    if spec.storage is None:
        return
    storage = open_storage(folder, spec.storage)
    with answering(folder, spec.storage):
        taken = spec.name in studies_in(storage)
    storage.engine.dispose()
    if taken:
        raise ConfigError(
            f"--storage {shown(spec.storage)} holds a study {spec.name!r} already. Choose another --name, or carry "
            f"that one on from its own home with `ssl-tune resume {spec.name}`."
        )
