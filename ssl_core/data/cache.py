"""The cache of decoded parts on disk: decoded once, mapped by all processes of a machine.

Private to `ssl_core.data`. CACHE/<key>/ holds {train,test}_{images,labels}.npy and meta.json, and for images
that came from files {train,test}_rows.npz. CACHE/.<key>.partial/ is what an interrupted decoding has left.

N: images, S: side in pixels. A part is "train" or "test".
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ssl_core.data.part import Part, PartName, Rows, fingerprint_of
from ssl_core.system.errors import ConfigError
from ssl_core.system.files import write_atomically

_CACHE_FORMAT = 1
_MACHINES = 16
_NO_FACTS = "{}"


Build = Callable[[Path | None], Part]
"""Decodes a part. Given a folder, it puts the images into a file there and maps them, and goes on with what an
interrupted call has left in it."""


def cached(cache: Path, key: str, part: PartName, build: Build) -> Part:
    """The part stored under key, its images memory-mapped; built and stored if missing or damaged.

    Processes of one machine wait for each other, so a part is decoded once. What cannot be stored
    (no space, no permission) is warned about and returned from memory.
    """
    entry = cache / key
    found = read_entry(entry, part)
    if found is not None:
        return found
    is_new = not cache.exists()
    with contextlib.suppress(OSError):  # _store reports it
        cache.mkdir(parents=True, exist_ok=True)
    try:
        with locked(cache / f".{key}.lock") as alone:
            found = read_entry(entry, part)
            if found is not None:  # another process stored it while this one waited
                return found
            if alone:
                for stale in cache.glob(f".{key}-*"):  # left by a process that was killed
                    shutil.rmtree(stale, ignore_errors=True)
            return _built(cache, key, part, build, alone)
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # only goes if nothing was stored
                cache.rmdir()


def alias(cache: Path, key: str, target: str) -> None:
    """Let what is stored under `target` be found under `key` as well; where links cannot be made, it is not."""
    with contextlib.suppress(OSError):
        if (cache / target).is_dir() and not (cache / key).exists():
            (cache / key).unlink(missing_ok=True)  # leads to an entry that was removed
            (cache / key).symlink_to(target)


def _built(cache: Path, key: str, part: PartName, build: Build, alone: bool) -> Part:
    """Build and store a part. An interruption leaves what was decoded, wrong data leaves nothing."""
    partial = cache / f".{key}.partial"
    try:
        if not alone:  # without a lock two processes could decode into one file
            partial = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=cache))
        partial.mkdir(exist_ok=True)
        built = build(partial)
    except ConfigError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    except OSError as error:  # no permission, or no space for the decoded images
        shutil.rmtree(partial, ignore_errors=True)
        _warn(cache, error)
        return build(None)
    try:
        _store(cache, key, part, built)
    except OSError as error:
        _warn(cache, error)
        return built
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # a map of a file in it stays valid
    return read_entry(cache / key, part) or built


def _warn(cache: Path, error: OSError) -> None:
    warnings.warn(
        f"decoded images cannot be cached in {cache}: {error}. Every process keeps its own copy.",
        stacklevel=4,
    )


def read_entry(entry: Path, part: PartName) -> Part | None:
    """The stored part, or None if it is missing or damaged in any way.

    The images are read in full and compared with their fingerprint, since one flipped bit would change every
    result; once on each machine, as long as the file is not written again.
    """
    try:
        meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
        if meta["format"] != _CACHE_FORMAT:
            return None
        images = np.load(entry / f"{part}_images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(entry / f"{part}_labels.npy", allow_pickle=False)
        labels.setflags(write=False)
        classes = tuple(meta["classes"])
        rows = _read_rows(entry / f"{part}_rows.npz") if meta.get("rows") else None
        facts = str(meta.get("facts", _NO_FACTS))
        mark = _mark(entry, part, meta, labels.tobytes(), rows)
        if meta.get("checked", {}).get(_machine()) != mark:
            if fingerprint_of(images, labels, classes) != meta["fingerprint"]:
                return None
            if meta.get("rows_digest", "") != _digest_of(rows):
                return None
            _remember(entry, meta, mark)
        red, green, blue = meta["mean"]
        std_red, std_green, std_blue = meta["std"]
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile):
        return None
    mean, std = (red, green, blue), (std_red, std_green, std_blue)
    return Part(images, labels, classes, meta["fingerprint"], mean, std, rows, facts)


def _machine() -> str:
    """This machine since it was last started."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return platform.node()


def _mark(entry: Path, part: PartName, meta: dict[str, Any], labels: bytes, rows: Rows | None) -> str:
    """What changes when the images' file is written again, or anything else of the entry is."""
    status = (entry / f"{part}_images.npy").stat()
    facts = [meta[name] for name in ("classes", "fingerprint", "mean", "std")]
    digest = hashlib.sha256(json.dumps(facts).encode())
    digest.update(labels)
    digest.update(_digest_of(rows).encode())
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {digest.hexdigest()}"


def _remember(entry: Path, meta: dict[str, Any], mark: str) -> None:
    """Note that the images were compared with their fingerprint on this machine."""
    checked = {**meta.get("checked", {}), _machine(): mark}
    checked = dict(list(checked.items())[-_MACHINES:])
    with contextlib.suppress(OSError):  # a cache that others may only read
        write_atomically(entry / "meta.json", json.dumps({**meta, "checked": checked}, indent=1).encode())


def _digest_of(rows: Rows | None) -> str:
    if rows is None:
        return ""
    digest = hashlib.sha256(rows.hashes.tobytes())
    for names in (rows.files, rows.groups, rows.roles):
        digest.update(_joined(names).tobytes())
    return digest.hexdigest()


def _joined(names: tuple[str, ...]) -> npt.NDArray[np.uint8]:
    # A file's name may hold any byte but 0.
    return np.frombuffer("\0".join(names).encode("utf-8", "surrogateescape"), dtype=np.uint8)


def _read_rows(path: Path) -> Rows:
    with np.load(path, allow_pickle=False) as stored:
        hashes = stored["hashes"]
        names = [stored[name].tobytes().decode("utf-8", "surrogateescape") for name in _ROW_NAMES]
    columns = [tuple(text.split("\0")) if len(hashes) else () for text in names]
    if any(len(column) != len(hashes) for column in columns):
        raise ValueError("rows of different lengths")
    return Rows(columns[0], hashes, columns[1], columns[2])


_ROW_NAMES = ("files", "groups", "roles")


def _store(cache: Path, key: str, part: PartName, built: Part) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=cache))
    try:
        temporary.chmod(0o755)  # mkdtemp's 0700 would lock out other users of a shared cache
        _store_images(temporary / f"{part}_images.npy", built)
        with (temporary / f"{part}_labels.npy").open("wb") as file:
            np.save(file, built.labels, allow_pickle=False)
            _sync(file)
        if built.rows is not None:
            rows = built.rows
            with (temporary / f"{part}_rows.npz").open("wb") as file:
                np.savez(
                    file,
                    hashes=rows.hashes,
                    files=_joined(rows.files),
                    groups=_joined(rows.groups),
                    roles=_joined(rows.roles),
                )
                _sync(file)
        meta: dict[str, Any] = {
            "format": _CACHE_FORMAT,
            "classes": built.classes,
            "fingerprint": built.fingerprint,
            "mean": built.mean,
            "std": built.std,
        }
        if built.rows is not None:
            meta |= {"rows": True, "rows_digest": _digest_of(built.rows), "facts": built.facts}
        mark = _mark(temporary, part, meta, built.labels.tobytes(), built.rows)
        meta["checked"] = {_machine(): mark}  # the fingerprint was computed of these very images
        with (temporary / "meta.json").open("wb") as file:
            file.write(json.dumps(meta, indent=1).encode())
            _sync(file)
        _sync_folder(temporary)
        _publish(temporary, cache / key, part)
        _sync_folder(cache)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _store_images(path: Path, built: Part) -> None:
    """Images that were decoded into a file of the cache are moved, others written."""
    source = built.images.filename if isinstance(built.images, np.memmap) else None
    if source is not None and Path(source).is_relative_to(path.parent.parent):
        Path(source).rename(path)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return
    with path.open("wb") as file:
        np.save(file, built.images, allow_pickle=False)
        _sync(file)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _publish(temporary: Path, entry: Path, part: PartName) -> None:
    """Rename temporary to entry. An entry in the way stays if it is sound and goes if it is damaged."""
    if entry.is_symlink():  # what it leads to is damaged
        entry.unlink(missing_ok=True)
    for _ in range(8):
        try:
            temporary.rename(entry)
            return
        except OSError:
            if not entry.exists():
                raise
        # Where file locks do not work another process may have stored the same part meanwhile.
        if read_entry(entry, part) is not None:
            return
        aside = temporary.with_name(f"{temporary.name}.damaged")
        with contextlib.suppress(FileNotFoundError):
            entry.rename(aside)
        if aside.is_dir():
            shutil.rmtree(aside)
        else:
            aside.unlink(missing_ok=True)
    raise OSError(f"{entry} is being replaced by other processes again and again")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold the lock file `path`, removed at the end. Yields False, without a lock, where none can be had."""
    descriptor = _acquire(path)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            path.unlink(missing_ok=True)
            os.close(descriptor)


def _acquire(path: Path) -> int | None:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:  # a read-only folder
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            path.unlink(missing_ok=True)
            os.close(descriptor)
            return None
        # The holder before us removed the file: whoever comes now locks a new one, so must we.
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)
