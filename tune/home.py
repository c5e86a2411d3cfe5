"""The folder that holds all state: ``mlflow.db``, ``mlartifacts/``, ``cache/`` and ``studies/<name>/``."""

from __future__ import annotations

import difflib
import os
import re
import tempfile
from pathlib import Path

from ssl_core.errors import ConfigError

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}")


class Home:
    """Paths below one home folder.

    Args:
        path: the folder; None: the environment's SSL_TUNE_HOME, else ./ssl-tune-home.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        chosen = path or os.environ.get("SSL_TUNE_HOME") or "ssl-tune-home"
        self.path = Path(chosen).expanduser().resolve()

    @property
    def studies(self) -> Path:
        return self.path / "studies"

    @property
    def cache(self) -> Path:
        """Decoded images, shared by all processes of the machine through memory maps."""
        return self.path / "cache"

    @property
    def test_readings(self) -> Path:
        """Every reading of a test set, one JSON line each."""
        return self.path / "test-readings.jsonl"

    @property
    def default_tracking_uri(self) -> str:
        return f"sqlite:///{self.path / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        return self.path / "mlartifacts"

    def study_names(self) -> list[str]:
        """Names of the studies here, oldest first."""
        if not self.studies.is_dir():
            return []
        folders = [p for p in self.studies.iterdir() if (p / "study.yaml").is_file()]
        return [p.name for p in sorted(folders, key=lambda p: (p / "study.yaml").stat().st_mtime)]

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
        if (folder / "study.yaml").is_file():
            return folder
        names = self.study_names()
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        listed = f"Studies there: {', '.join(names)}." if names else "There is no study there yet."
        raise ConfigError(f"no study {name!r} in {self.path}.{hint} {listed}")

    def free_name(self, wanted: str) -> str:
        """`wanted`, or `wanted-2`, `wanted-3`, ... where that is taken."""
        name, number = wanted, 1
        while (self.studies / name).exists():
            number += 1
            name = f"{wanted}-{number}"
        return name

    def check_writable(self) -> None:
        """Raise ConfigError unless files can be made here; leaves nothing behind."""
        check_writable(self.path, "the home folder", "Name another with --home or SSL_TUNE_HOME.")


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
