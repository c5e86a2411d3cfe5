"""A packed study brought into a home. A pack may come from anybody: nothing in it is trusted.

Names stay inside of the study's folder, links and devices are refused, sizes and digests are those of the manifest, and
no code of it is run. The files are written beside the studies and renamed once all are whole: a process that is killed
meanwhile leaves no study.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ssl_core.system.errors import ConfigError, counted
from ssl_core.system.faults import fault
from tune.definition.inputs import place_of
from tune.errors import ServiceError
from tune.findings.study import Study
from tune.images.held_out import keep_held_out, membership_of_document
from tune.launch.keeping.packing import FORMAT, MANIFEST
from tune.store.home import Home
from tune.store.integrity import check_database
from tune.store.layout import EVENTS_DB, LOCK_FILE, OPTUNA_DB, STOP, STUDY_FILE, check_name, stays_inside

UNPACKING = ".unpack-"
"""How the names of folders begin in which a study is unpacked."""
MOST_OF_MANIFEST = 50_000_000
"""Bytes; a study of 100,000 trials has some 20 million."""
BLOCK = 1 << 20
_REFUSED = {LOCK_FILE, STOP}


@dataclass(frozen=True)
class Unpacked:
    """A study that was unpacked.

    Attributes:
        study: it, in its new home.
        files: how many files it has.
        packed: when it was packed.
        missing: the folder or file of its images, where that is not on this machine; None where it is.
    """

    study: Study
    files: int
    packed: str
    missing: Path | None


def unpack(path: Path, home: Home) -> Unpacked:
    """Bring a packed study into a home.

    Args:
        path: what `tune.launch.keeping.packing.pack` wrote.
        home: a folder; it has no study of this name.

    Raises:
        ConfigError: a file that is no pack, is damaged, comes from a later version or holds what no pack does; a study
            of this name is there already; a home that cannot be written.
    """
    home.check_writable()
    with _opened(path) as archive:
        members = iter(archive)
        manifest = _manifest(archive, next(members, None), path)
        name = str(manifest["study"])
        target = home.study_folder(name)
        if target.exists():
            raise ConfigError(
                f"{home.shown} has a study {name!r} already. Unpack into another --home, or delete that one first."
            )
        home.studies.mkdir(parents=True, exist_ok=True)
        _check_space(home, manifest, path)
        with tempfile.TemporaryDirectory(prefix=UNPACKING, dir=home.studies) as aside:
            staged = Path(aside) / name
            staged.mkdir()
            _extract(archive, members, manifest["files"], staged, path)
            study = _checked(staged, path)
            fault("unpack:before")
            try:
                staged.rename(target)
            except OSError as error:
                raise ConfigError(f"{target} cannot be made: {error.strerror}.") from None
    fault("unpack:renamed")
    keep_held_out(home, study.spec.config["dataset"], membership_of_document(manifest["held_out"]))
    unpacked = Study(target)
    return Unpacked(unpacked, len(manifest["files"]), str(manifest["packed"]), _missing(unpacked))


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    """The archive; whatever is wrong with its bytes is told in one line."""
    try:
        with gzip.open(path, "rb") as zipped, tarfile.open(fileobj=zipped, mode="r|") as archive:
            yield archive
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist.") from None
    except (gzip.BadGzipFile, tarfile.TarError, EOFError, zlib.error) as error:
        raise ConfigError(
            f"{path} is no study that `ssl-tune pack` wrote, or it is damaged ({error}). Pack or copy it again."
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}.") from None


def _refused(path: Path, why: str) -> ConfigError:
    return ConfigError(f"{path} is not unpacked: {why}. Nothing was changed.")


def _manifest(archive: tarfile.TarFile, first: tarfile.TarInfo | None, path: Path) -> dict[str, Any]:
    """What the pack says of itself, checked."""
    if first is None or first.name != MANIFEST or not first.isreg() or first.size > MOST_OF_MANIFEST:
        raise _refused(path, f"it does not begin with {MANIFEST}, so `ssl-tune pack` has not written it")
    file = archive.extractfile(first)
    assert file is not None
    try:
        document = json.loads(file.read())
    except (ValueError, RecursionError):
        raise _refused(path, f"its {MANIFEST} is no JSON") from None
    if not isinstance(document, dict) or not isinstance(document.get("format"), int):
        raise _refused(path, f"its {MANIFEST} names no format")
    if document["format"] > FORMAT:
        raise _refused(
            path,
            f"it was written by a later version of ssl-tune ({document.get('ssl_tune')}, format {document['format']}; "
            f"this one knows {FORMAT}). Install that version",
        )
    files, held_out = document.get("files"), document.get("held_out")
    whole = (
        isinstance(document.get("study"), str)
        and isinstance(files, dict)
        and (held_out is None or isinstance(held_out, dict))
        and all(_is_entry(entry) for entry in files.values())
    )
    if not whole or not isinstance(files, dict):
        raise _refused(path, f"its {MANIFEST} lacks the study's name or its files")
    check_name(document["study"])
    for name in files:
        if not _may_be_written(name):
            raise _refused(
                path, f"the name {name!r} leaves the study's folder, or is none of a study's files"
            )
    if STUDY_FILE not in files:
        raise _refused(path, f"it holds no {STUDY_FILE}")
    return document | {"packed": str(document.get("packed")), "held_out": held_out}


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("bytes"), int)
        and entry["bytes"] >= 0
        and isinstance(entry.get("sha256"), str)
    )


def _may_be_written(name: str) -> bool:
    parts = name.split("/")
    return stays_inside(name) and not any(part.startswith(".") for part in parts) and name not in _REFUSED


def _check_space(home: Home, manifest: dict[str, Any], path: Path) -> None:
    needed = sum(entry["bytes"] for entry in manifest["files"].values())
    free = shutil.disk_usage(home.studies).free
    if needed > free:
        raise _refused(
            path,
            f"it takes {needed / 1e9:.1f} GB, and {home.studies} has {free / 1e9:.1f} GB left. Free some space",
        )


def _extract(
    archive: tarfile.TarFile,
    members: Iterator[tarfile.TarInfo],
    files: dict[str, dict[str, Any]],
    folder: Path,
    path: Path,
) -> None:
    """Write all files of the manifest, and refuse anything else."""
    left = dict(files)
    for member in members:
        if not member.isreg():
            raise _refused(path, f"{member.name!r} is a link, a device or a folder: a pack holds files alone")
        entry = left.pop(member.name, None)
        if entry is None:
            raise _refused(path, f"{member.name!r} is not in its {MANIFEST}, or is there twice")
        if member.size != entry["bytes"]:
            raise _refused(path, f"{member.name!r} is not as long as its {MANIFEST} says")
        target = folder / member.name
        target.parent.mkdir(parents=True, exist_ok=True)
        source = archive.extractfile(member)
        assert source is not None
        if _copied(source, target) != entry["sha256"]:
            raise _refused(path, f"{member.name!r} is damaged: its digest differs")
        fault("unpack:file")
    if left:
        raise _refused(path, f"it lacks {counted(len(left), 'file')}, the first {min(left)!r}")


def _copied(source: IO[bytes], target: Path) -> str:
    """Write a file to the disk; its sha256."""
    summed = hashlib.sha256()
    with target.open("xb") as file:
        while block := source.read(BLOCK):
            summed.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return summed.hexdigest()


def _checked(staged: Path, path: Path) -> Study:
    """The staged study, if this version can read it."""
    try:
        study = Study(staged)
        for name in (OPTUNA_DB, EVENTS_DB):
            check_database(staged / name)
        if study.spec.storage is not None:
            raise _refused(path, "its specification names a database of --storage, which no pack has")
        study.records()
        study.status()
    except ServiceError as error:
        said = str(error).replace(f"{staged}/", "").replace(str(staged), staged.name)
        raise _refused(path, f"this version cannot read the study in it: {said.rstrip('.')}") from None
    return study


def _missing(study: Study) -> Path | None:
    """Where the study's images are expected, if nothing is there."""
    place = place_of(study.spec.config["dataset"])
    return place if place is not None and not place.exists() else None
