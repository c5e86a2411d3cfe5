"""Where MLflow is: what a tracking URI may be, and the file of one that is a sqlite database."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from ssl_core.errors import ConfigError

_DATABASES = ("postgresql", "mysql", "mssql")


def check_tracking_uri(uri: str) -> None:
    """Refuse, as a ConfigError that says what to do, a tracking URI that cannot be one."""
    accepted = (
        "Accepted: sqlite:///FILE, postgresql://..., mysql://..., mssql://..., http(s)://HOST, databricks"
    )
    scheme, found, rest = uri.partition("://")
    dialect = scheme.partition("+")[0]
    if uri == "databricks" or (found and scheme == "databricks"):
        return
    if found and scheme in ("http", "https"):
        parts = urlsplit(uri)
        try:
            port_fits = parts.port is None or 0 < parts.port < 65536
        except ValueError:
            port_fits = False
        if not parts.hostname or not port_fits:
            raise ConfigError(f"tracking URI {uri!r} has no host, or no port that can be one. {accepted}.")
    elif found and dialect == "sqlite":
        if sqlite_path(uri) is None:
            raise ConfigError(
                f"tracking URI {uri!r} names no file, and what is only in memory is lost: "
                "write sqlite:///mlflow.db, or sqlite:////absolute/path/mlflow.db."
            )
    elif found and dialect in _DATABASES:
        if not rest.strip("/"):
            raise ConfigError(f"tracking URI {uri!r} names no database. {accepted}.")
    elif uri.startswith("file:") or not found:
        raise ConfigError(
            f"tracking URI {uri!r} is a folder of files, which MLflow no longer writes: "
            f"use a database, for example sqlite:///mlflow.db. {accepted}."
        )
    else:
        raise ConfigError(f"tracking URI {uri!r} is of a kind that MLflow does not know. {accepted}.")


def sqlite_path(uri: str) -> Path | None:
    """The file of a sqlite URI; None where it names none."""
    path = urlsplit(uri).path.removeprefix("/")
    return Path(path) if path and path != ":memory:" else None


def absolute_uri(uri: str) -> str:
    """A relative sqlite file made absolute: the sender and a later `sync` may run in another folder."""
    path = sqlite_path(uri) if uri.startswith("sqlite") else None
    if path is None or path.is_absolute():
        return uri
    return f"{uri.partition('://')[0]}:///{path.absolute()}"
