"""The folder that holds all state: ``mlflow.db``, ``mlartifacts/``, ``cache/`` and ``studies/<name>/``.

Or a place in an object store, which this machine has a working copy of: see `tune.store.remote_study`.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import tempfile
from pathlib import Path
from urllib.parse import unquote

from ssl_core.system.errors import ConfigError
from tune.store.layout import ARTIFACTS, CACHE, MLFLOW_DB, READINGS_FILE, STORE_FILE, STUDIES, STUDY_FILE
from tune.store.object_store import ObjectStore
from tune.store.remote_study import RemoteStudy, check_store_writable, remote_of

IN_HOME = f"home:{MLFLOW_DB}"
"""The tracking URI of a study that is tracked in its home's own database, as the study keeps it."""
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}")


class Home:
    """Paths below one home folder.

    Args:
        path: the folder, or the URL of a place in an object store; None: the environment's SSL_TUNE_HOME, else
            ./ssl-tune-home.

    Raises:
        ConfigError: a URL that cannot be one, or one for whose kind of store no library is installed.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        chosen = str(path or os.environ.get("SSL_TUNE_HOME") or "ssl-tune-home")
        self.url: str | None = None
        if "://" not in chosen:
            self.path = Path(chosen).expanduser().resolve()
            return
        self.url = ObjectStore(chosen).url
        self.path = _working_copies() / hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / STORE_FILE).write_text(self.url)

    @property
    def shown(self) -> str:
        """As ``--home`` names it."""
        return self.url or str(self.path)

    @property
    def studies(self) -> Path:
        return self.path / STUDIES

    @property
    def cache(self) -> Path:
        """Decoded images, shared by all processes of the machine through memory maps."""
        return self.path / CACHE

    @property
    def test_readings(self) -> Path:
        """Every reading of a test set, one JSON line each."""
        return self.path / READINGS_FILE

    @property
    def default_tracking_uri(self) -> str:
        return sqlite_url(self.path / MLFLOW_DB)

    @property
    def artifacts(self) -> Path:
        return self.path / ARTIFACTS

    def folder_for(self, verb: str) -> Home:
        """This home, for a command whose files an object store is no place for.

        Raises:
            ConfigError: it is one.
        """
        if self.url is not None:
            raise ConfigError(
                f"{verb} keeps its files in a folder: name one with --home instead of {self.url}."
            )
        return self

    def shared(self) -> Path | ObjectStore:
        """What all machines of a cluster have to see: the folder of studies, or the object store."""
        if self.url is None:
            self.studies.mkdir(parents=True, exist_ok=True)
            return self.studies
        return ObjectStore(self.url)

    def remote(self, name: str) -> RemoteStudy | None:
        """A study's place in the object store; None where the home is a folder."""
        return remote_of(self.studies / name)

    def study_names(self) -> list[str]:
        """Names of the studies here, oldest first."""
        if self.url is not None:
            names = [name for name in self._shared_names() if self.has_study(name)]
        elif self.studies.is_dir():
            names = [p.name for p in self.studies.iterdir() if (p / STUDY_FILE).is_file()]
        else:
            names = []
        return sorted(names, key=lambda name: (self.studies / name / STUDY_FILE).stat().st_mtime)

    def _shared_names(self) -> list[str]:
        """Names below `studies` in the object store."""
        assert self.url is not None
        return ObjectStore(self.url).names(STUDIES)

    def has_study(self, name: str) -> bool:
        """Whether there is a study of this name; in an object store, its working copy is then brought up to date."""
        folder, remote = self.study_folder(name), self.remote(name)
        if remote is not None and not remote.fetch():
            return False
        return (folder / STUDY_FILE).is_file()

    def study_folder(self, name: str) -> Path:
        """The folder of a study of this name, whether it exists or not.

        Raises:
            ConfigError: if the name is not a plain one.
        """
        check_name(name)
        return self.studies / name

    def existing_study_folder(self, name: str) -> Path:
        """The folder of a study that exists.

        Raises:
            ConfigError: if there is none of this name; lists those that exist.
        """
        folder = self.study_folder(name)
        if self.has_study(name):
            return folder
        names = self.study_names()
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        listed = f"Studies there: {', '.join(names)}." if names else "There is no study there yet."
        raise ConfigError(f"no study {name!r} in {self.shown}.{hint} {listed}")

    def free_name(self, wanted: str) -> str:
        """`wanted`, or `wanted-2`, `wanted-3`, ... where that is taken."""
        name, number = wanted, 1
        while self.has_study(name) if self.url is not None else (self.studies / name).exists():
            number += 1
            name = f"{wanted}-{number}"
        return name

    def check_writable(self) -> None:
        """Raise ConfigError unless files can be made here; leaves nothing behind."""
        if self.url is not None:
            check_store_writable(ObjectStore(self.url))
        check_writable(self.path, "the home folder", "Name another with --home or SSL_TUNE_HOME.")


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file as SQLAlchemy reads it: what has a meaning in a URL is quoted."""
    return "sqlite:///" + str(path).replace("%", "%25").replace("?", "%3F")


def sqlite_file(url: str) -> Path | None:
    """The file that a SQLite URL names, as SQLAlchemy reads it; None where it names none."""
    kind, _, rest = url.partition("://")
    path = unquote(rest.partition("?")[0].removeprefix("/"))
    return Path(path) if kind.partition("+")[0] == "sqlite" and path not in ("", ":memory:") else None


def kept_uri(uri: str, home: Path) -> str:
    """A tracking URI as a study keeps it: the home's own database without the home's path, which may be moved."""
    return IN_HOME if uri == sqlite_url(home / MLFLOW_DB) else uri


def uri_here(kept: str, home: Path, study: str) -> str:
    """The tracking URI that a study kept, as it is now that its home is here.

    An earlier version kept the whole path: it is taken for this home's where the study is not there any more.
    """
    here = sqlite_url(home / MLFLOW_DB)
    if kept == IN_HOME:
        return here
    file = sqlite_file(kept)
    if file is None or file.name != MLFLOW_DB or not file.is_absolute() or not (home / MLFLOW_DB).exists():
        return kept
    return kept if (file.parent / STUDIES / study / STUDY_FILE).exists() or file.exists() else here


def _working_copies() -> Path:
    """Where the working copies of homes in object stores lie: SSL_TUNE_WORK, else the user's cache folder."""
    chosen = os.environ.get("SSL_TUNE_WORK")
    if chosen:
        return Path(chosen).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().resolve() / "ssl-tune" / "homes"


def check_writable(path: Path, what: str, remedy: str) -> None:
    """Raise ConfigError unless a folder, existing or to be made, can be written; leaves nothing behind.

    Args:
        path: the folder.
        what: what it is, for the message.
        remedy: what to do, likewise.
    """
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    problem = None
    if not existing.is_dir():
        problem = f"{existing} is a file, not a folder"
    else:
        try:  # permissions alone do not tell, least of all root
            tempfile.TemporaryDirectory(prefix=".ssl-tune-", dir=existing).cleanup()
        except OSError as error:
            problem = f"{existing} cannot be written ({error.strerror})"
    if problem:
        raise ConfigError(f"{what} {path} cannot be used: {problem}. {remedy}")


def check_name(name: str) -> None:
    """Raise ConfigError unless a study's name is a plain one."""
    if not _PLAIN_NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be a study's name: take letters, digits and . _ @ + - (at most 100, the first a "
            "letter or digit; no folders)."
        )
