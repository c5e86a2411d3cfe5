"""A decoded part of a dataset, and the cache of decoded parts on disk: decoded once, mapped by all.

Private to `ssl_core.data.datasets`. CACHE/<key>/ holds {train,test}_{images,labels}.npy and meta.json.

N: images, S: side in pixels. A part is "train" or "test".
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

PartName = Literal["train", "test"]
Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

_CACHE_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Part:
    """One decoded part of a dataset: images (N, S, S, 3) and labels (N,), both read-only."""

    images: Images
    labels: Labels
    classes: tuple[str, ...]
    fingerprint: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def make_part(images: Images, labels: Labels, classes: tuple[str, ...]) -> Part:
    """A Part with its fingerprint and its statistics per channel, of pixel / 255."""
    images = np.ascontiguousarray(images, dtype=np.uint8)
    labels = np.ascontiguousarray(labels, dtype=np.int64)
    images.setflags(write=False)
    labels.setflags(write=False)
    mean, std = _statistics(images)
    return Part(images, labels, classes, _fingerprint(images, labels, classes), mean, std)


def _fingerprint(images: Images, labels: Labels, classes: tuple[str, ...]) -> str:
    digest = hashlib.sha256(json.dumps([images.shape, classes]).encode())
    digest.update(images.data.cast("B"))
    digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()


def _statistics(images: Images) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    # Counted in whole numbers, so the result does not depend on the order of a floating-point sum.
    counts = np.zeros((3, 256), dtype=np.int64)
    for start in range(0, len(images), 4096):
        block = images[start : start + 4096]
        for channel in range(3):
            counts[channel] += np.bincount(block[..., channel].ravel(), minlength=256)
    values = np.arange(256, dtype=np.int64)
    pixels = int(counts[0].sum())
    mean, std = [], []
    for channel in range(3):
        total = int((counts[channel] * values).sum())
        squares = int((counts[channel] * values**2).sum())
        mean.append(total / pixels / 255)
        variance = (pixels * squares - total**2) / pixels**2
        # At least one grey level: a constant channel normalises to 0 instead of NaN.
        std.append(max(float(np.sqrt(variance)), 1.0) / 255)
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def cached(cache: Path, key: str, part: PartName, build: Callable[[], Part]) -> Part:
    """The part stored under key, its images memory-mapped; built and stored if missing or damaged.

    Processes of one machine wait for each other, so a part is decoded once. What cannot be stored
    (no space, no permission) is warned about and returned from memory.
    """
    entry = cache / key
    found = _read_entry(entry, part)
    if found is not None:
        return found
    is_new = not cache.exists()
    with contextlib.suppress(OSError):  # _store reports it
        cache.mkdir(parents=True, exist_ok=True)
    try:
        with locked(cache / f".{key}.lock") as alone:
            found = _read_entry(entry, part)
            if found is not None:  # another process stored it while this one waited
                return found
            if alone:
                for stale in cache.glob(f".{key}-*"):  # left by a process that was killed
                    shutil.rmtree(stale, ignore_errors=True)
            built = build()
            try:
                _store(cache, key, part, built)
            except OSError as error:
                warnings.warn(
                    f"decoded images cannot be cached in {cache}: {error}. Every process keeps its own copy.",
                    stacklevel=2,
                )
                return built
        return _read_entry(entry, part) or built
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # only goes if nothing was stored
                cache.rmdir()


def _read_entry(entry: Path, part: PartName) -> Part | None:
    """The stored part, or None if it is missing or damaged in any way."""
    try:
        meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
        if meta["format"] != _CACHE_FORMAT:
            return None
        images = np.load(entry / f"{part}_images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(entry / f"{part}_labels.npy", allow_pickle=False)
        labels.setflags(write=False)
        classes = tuple(meta["classes"])
        # Read in full, which training does anyway: one flipped bit would change every result.
        if _fingerprint(images, labels, classes) != meta["fingerprint"]:
            return None
        red, green, blue = meta["mean"]
        std_red, std_green, std_blue = meta["std"]
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Part(
        images, labels, classes, meta["fingerprint"], (red, green, blue), (std_red, std_green, std_blue)
    )


def _store(cache: Path, key: str, part: PartName, built: Part) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=cache))
    try:
        temporary.chmod(0o755)  # mkdtemp's 0700 would lock out other users of a shared cache
        for name, array in (("images", built.images), ("labels", built.labels)):
            with (temporary / f"{part}_{name}.npy").open("wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
        meta = {
            "format": _CACHE_FORMAT,
            "classes": built.classes,
            "fingerprint": built.fingerprint,
            "mean": built.mean,
            "std": built.std,
        }
        with (temporary / "meta.json").open("w", encoding="utf-8") as text:
            json.dump(meta, text, indent=1)
            text.flush()
            os.fsync(text.fileno())
        _sync_folder(temporary)
        _publish(temporary, cache / key, part)
        _sync_folder(cache)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _publish(temporary: Path, entry: Path, part: PartName) -> None:
    """Rename temporary to entry. An entry in the way stays if it is sound and goes if it is damaged."""
    for _ in range(8):
        try:
            temporary.rename(entry)
            return
        except OSError:
            if not entry.exists():
                raise
        # Where file locks do not work another process may have stored the same part meanwhile.
        if _read_entry(entry, part) is not None:
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
