"""The folder that holds all state: ``mlflow.db``, ``mlartifacts/``, ``cache/`` and ``studies/<name>/``.

Or a place in an object store, which this machine has a working copy of: see `tune.store.remote_study`.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import tempfile
from pathlib import Path

from ssl_core.system.errors import ConfigError
from ssl_core.system.files import write_atomically
from tune.store.integrity import damaged, half_made
from tune.store.layout import (
    ARTIFACTS,
    CACHE,
    LOCK_FILE,
    MEASURED_FILE,
    MLFLOW_DB,
    READINGS_FILE,
    STORE_FILE,
    STUDIES,
    STUDY_FILE,
    WARMUPS,
    check_name,
    is_plain_name,
    sqlite_url,
)
from tune.store.object_store import ObjectStore
from tune.store.remote_study import RemoteStudy, check_store_writable, remote_of


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
        marker = self.path / STORE_FILE
        if not marker.exists() or marker.read_text() != self.url:
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(marker, self.url.encode())

    @property
    def shown(self) -> str:
        """As ``--home`` names it."""
        return self.url or str(self.path)

    @property
    def studies(self) -> Path:
        """The folder of all studies."""
        return self.path / STUDIES

    @property
    def cache(self) -> Path:
        """Decoded images, shared by all processes of the machine through memory maps."""
        return self.path / CACHE

    @property
    def measured(self) -> Path | None:
        """The file of what was measured on this machine; None where there is no home yet: a plan makes none."""
        return self.cache / MEASURED_FILE if self.path.is_dir() else None

    @property
    def warmups(self) -> Path:
        """Warm-ups that trainings share."""
        return self.cache / WARMUPS

    @property
    def test_readings(self) -> Path:
        """Every reading of a test set, one JSON line each."""
        return self.path / READINGS_FILE

    @property
    def default_tracking_uri(self) -> str:
        """MLflow's SQLite database in the home."""
        return sqlite_url(self.path / MLFLOW_DB)

    @property
    def artifacts(self) -> Path:
        """The folder of MLflow's artifacts, for the SQLite database."""
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
        """Names of the studies here, oldest first; also of one that has lost its specification."""
        if self.url is not None:
            names = [name for name in self._shared_names() if is_plain_name(name) and self.has_study(name)]
        elif self.studies.is_dir():
            names = [p.name for p in self.studies.iterdir() if is_plain_name(p.name) and _is_study(p)]
        else:
            names = []
        return sorted(names, key=lambda name: _made(self.studies / name))

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
            DamagedError: there is one that has lost its specification.
        """
        folder = self.study_folder(name)
        if self.has_study(name):
            return folder
        if self.url is None and _is_study(folder):
            raise damaged(folder / STUDY_FILE, "it is missing")
        if self.url is None and folder.is_dir() and (folder / LOCK_FILE).exists():
            raise ConfigError(
                f"the study {name!r} was being made when its driver ended, and nothing of it was run. Make it with "
                f"`ssl-tune search --name {name}` and the options that it had."
            )
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


def _is_study(folder: Path) -> bool:
    """Whether a folder holds a study, with or without its specification."""
    try:
        return (folder / STUDY_FILE).is_file() or (folder.is_dir() and not half_made(folder))
    except PermissionError:  # another user's: whoever asks for it is told
        return True


def _made(folder: Path) -> float:
    """When a study was made, as far as its files tell."""
    for path in (folder / STUDY_FILE, folder):
        try:
            return path.stat().st_mtime
        except OSError:
            continue
    return 0.0


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
