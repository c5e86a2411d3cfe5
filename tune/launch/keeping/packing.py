"""A study as one file that can be taken to another machine: a compressed tar file with a manifest.

The first member is ``manifest.json``: the format, the study, and every file's size and sha256. The others are the
study's files: its specification, trials, event log, checkpoints, what was confirmed, models.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import sqlite3
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_core.system.errors import ConfigError
from ssl_core.system.faults import fault
from ssl_core.system.version import __version__
from tune.findings.study import Study
from tune.images.held_out import held_out_before
from tune.store.home import Home
from tune.store.layout import (
    FETCH_LOCK,
    KNOWN,
    LIMIT_FILE,
    LOCK_FILE,
    RAY_FOLDER,
    SENDER_LOCK,
    SENDER_LOG,
    STOP,
)

FORMAT = 1
MANIFEST = "manifest.json"
_OWN_FILES = {
    KNOWN,
    LIMIT_FILE,
    LOCK_FILE,
    SENDER_LOCK,
    SENDER_LOG,
    STOP,
    FETCH_LOCK,
}  # of this machine alone
_OWN_ENDS = (".tmp", ".damaged", "-wal", "-shm", "-journal", ".lock")


@dataclass(frozen=True)
class Packed:
    """A study that was packed.

    Attributes:
        study: its name.
        path: the file.
        size: its bytes.
        files: how many files it holds.
        state: how the study stood.
    """

    study: str
    path: Path
    size: int
    files: int
    state: str


def pack(name: str, output: Path, home: Home) -> Packed:
    """Write a study into one file. The study stays where it is.

    Args:
        name: the study.
        output: the file.
        home: the home.

    Raises:
        ConfigError: no such study, its trials lie in the database of --storage, or a file that cannot be written.
        ServiceError: a driver runs it.
    """
    study = Study(home.existing_study_folder(name))
    if study.spec.storage is not None:
        raise ConfigError(
            f"the study {name!r} keeps its trials in the database of --storage, which a file cannot hold: `resume` it "
            "from any machine that reaches the database and has its home."
        )
    _check_place(output)
    folder = study.folder
    folder.lock()  # nothing changes while it is read
    try:
        study.check_whole()
        with tempfile.TemporaryDirectory(prefix="ssl-tune-") as aside:
            files = _files(folder.path, Path(aside))
            manifest = _manifest(study, files, home)
            _write(output, manifest, files)
    except OSError as error:
        raise ConfigError(f"-o {output}: cannot be written: {error.strerror or error}.") from None
    finally:
        folder.unlock()
    return Packed(name, output, output.stat().st_size, len(files), folder.state())


def _check_place(output: Path) -> None:
    if output.is_dir():
        raise ConfigError(f"-o {output} is a folder: name a file in it, such as {output / 'study.tar.gz'}.")
    if not output.absolute().parent.is_dir():
        raise ConfigError(
            f"-o {output}: the folder {output.absolute().parent} does not exist. Make it first."
        )


def _files(folder: Path, aside: Path) -> dict[str, Path]:
    """The study's files by their names in it; of databases a consistent copy."""
    found: dict[str, Path] = {}
    for place, folders, names in os.walk(folder):
        here = Path(place)
        folders[:] = [
            n for n in folders if not n.startswith(".") and not (here == folder and n == RAY_FOLDER)
        ]
        for name in names:
            path = here / name
            if name in _OWN_FILES or name.startswith(".") or name.endswith(_OWN_ENDS) or path.is_symlink():
                continue
            inside = path.relative_to(folder).as_posix()
            if name.endswith(".db"):
                copy = aside / f"{len(found)}.db"
                _copy_database(path, copy)
                path = copy
            found[inside] = path
    return dict(sorted(found.items()))


def _copy_database(source: Path, target: Path) -> None:
    uri = f"{source.absolute().as_uri()}?mode=ro"
    with (
        contextlib.closing(sqlite3.connect(uri, uri=True, timeout=30)) as live,
        contextlib.closing(sqlite3.connect(target)) as copy,
    ):
        live.backup(copy)


def _manifest(study: Study, files: dict[str, Path], home: Home) -> dict[str, Any]:
    held_out = held_out_before(home, study.spec.config["dataset"])
    return {
        "format": FORMAT,
        "ssl_tune": __version__,
        "study": study.name,
        "packed": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "dataset": study.spec.config["dataset"],
        "held_out": None if held_out is None else held_out.document(),
        "files": {
            name: {"bytes": path.stat().st_size, "sha256": digest(path)} for name, path in files.items()
        },
    }


def digest(path: Path) -> str:
    """sha256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(output: Path, manifest: dict[str, Any], files: dict[str, Path]) -> None:
    """Write the pack under another name, and rename it once it is on the disk."""
    half = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        with half.open("wb") as raw:
            with (
                gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1, mtime=0) as zipped,
                tarfile.open(fileobj=zipped, mode="w") as archive,
            ):
                text = json.dumps(manifest, indent=1).encode()
                archive.addfile(_member(MANIFEST, len(text)), io.BytesIO(text))
                for name, path in files.items():
                    with path.open("rb") as file:
                        archive.addfile(_member(name, manifest["files"][name]["bytes"]), file)
                    fault("pack:file")
            raw.flush()
            os.fsync(raw.fileno())
        half.replace(output)
    finally:
        half.unlink(missing_ok=True)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member
