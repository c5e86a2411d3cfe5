"""Where MLflow is: what a tracking URI may be, the file of one that is a sqlite database, and what is not shown.

A login is written nowhere: not to the study's files, not to logs, not to MLflow. So a URI that carries a password
is refused; it comes from MLflow's own environment variables or from a file.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from ssl_core.system.errors import ConfigError
from tune.errors import HIDDEN, has_password, without_passwords
from tune.store.layout import sqlite_file, sqlite_url

_DATABASES = ("postgresql", "mysql", "mssql")
_SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_SHORTEST_SECRET = 4  # what is shorter would be found in the middle of any word


def check_tracking_uri(uri: str) -> None:
    """Refuse, as a ConfigError that says what to do, a tracking URI that cannot be one."""
    accepted = (
        "Accepted: sqlite:///FILE, postgresql://..., mysql://..., mssql://..., http(s)://HOST, databricks"
    )
    scheme, found, rest = uri.partition("://")
    if has_password(uri):
        raise ConfigError(
            "the tracking URI holds a password, and it is kept with the study and shown. Leave it out, and put the "
            "login into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD_FILE (a server), or the password into "
            "~/.pgpass or the file of PGPASSFILE (PostgreSQL)."
        )
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


def shown(text: str) -> str:
    """A text that may hold a URI, or what a server said, as it may be shown: passwords and tokens are hidden."""
    text = without_passwords(text)
    for secret in (os.environ.get(name, "") for name in _SECRETS):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, HIDDEN)
    return text


def sqlite_path(uri: str) -> Path | None:
    """The file of a sqlite URI; None where it names none."""
    return sqlite_file(uri)


def take_login() -> None:
    """MLflow's password from the file that MLFLOW_TRACKING_PASSWORD_FILE names, into this process alone.

    So it is in no environment that workers inherit, and in no command line.

    Raises:
        ConfigError: if the file cannot be read.
    """
    name = os.environ.get("MLFLOW_TRACKING_PASSWORD_FILE")
    if not name or os.environ.get("MLFLOW_TRACKING_PASSWORD"):
        return
    try:
        os.environ["MLFLOW_TRACKING_PASSWORD"] = Path(name).read_text().strip()
    except OSError as error:
        raise ConfigError(
            f"MLFLOW_TRACKING_PASSWORD_FILE = {name}: cannot be read: {error.strerror}."
        ) from None


def absolute_uri(uri: str) -> str:
    """A relative sqlite file made absolute: the sender and a later `sync` may run in another folder."""
    path = sqlite_path(uri) if uri.startswith("sqlite") else None
    if path is None or path.is_absolute():
        return uri
    return sqlite_url(path.absolute())
