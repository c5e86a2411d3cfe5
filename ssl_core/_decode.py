"""Images from files to uint8 arrays, and a cache of the decoded arrays on disk.

Private to `ssl_core.data`. Like it, this file imports numpy alone: PIL, scikit-learn and torchvision
are loaded by the functions that need them.

N: images, S: side in pixels, C: classes. A part is "train" or "test".
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import shutil
import socket
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ssl_core.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image

PartName = Literal["train", "test"]
Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

MIN_SIDE, MAX_SIDE = 8, 512
EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"})
LAYOUT = "PATH/train/<class>/* and PATH/test/<class>/*"

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "PPM", "TIFF")
_FILES_PER_TASK = 256
# Decoding frees the interpreter's lock, opening a file does not. For files of a few kilobytes (32x32
# JPEGs) opening outweighs decoding, and threads that wait for the lock make it slower, not faster.
_THREADS_FROM_BYTES = 8192
_CACHE_FORMAT = 1
_DIGITS_TEST_SEED = 1797
_DOWNLOAD_TIMEOUT_S = 30.0


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


# ---- image folders


def list_part(folder: Path, part: PartName) -> dict[str, list[str]]:
    """Image file names of each class of folder/part, both sorted; no image is opened.

    A class folder without images is listed with an empty list. Names that start with a dot, files
    that are no images, and folders inside a class folder are left out.

    Raises:
        ConfigError: the folder or the part is missing or unreadable, holds no class folder, or holds
            images outside the class folders.
    """
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "does not exist"
        raise ConfigError(f"dataset folder {folder} {state}. Expected {LAYOUT}: correct the path.")
    top = folder / part
    if not top.is_dir():
        raise ConfigError(
            f"dataset folder {folder} lacks {part}/. Expected {LAYOUT}: put the {part} images in "
            f"{top}/<class>/."
        )
    classes: dict[str, list[str]] = {}
    for name, is_folder in _entries(top):
        if is_folder:
            found = _entries(top / name)
            classes[name] = [file for file, is_dir in found if not is_dir and _is_image(file)]
        elif _is_image(name):
            raise ConfigError(
                f"dataset folder {folder}: image {part}/{name} lies in no class folder. Expected {LAYOUT}: "
                f"move it to {part}/<class>/."
            )
    if not classes:
        raise ConfigError(
            f"dataset folder {folder}: {part}/ is empty. Expected {LAYOUT}: one folder for each class."
        )
    return classes


def _entries(folder: Path) -> list[tuple[str, bool]]:
    """(name, is a folder) of what lies in a folder, sorted by name, names with a leading dot left out."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e.name, e.is_dir()) for e in entries if not e.name.startswith("."))
    except OSError as error:
        raise ConfigError(
            f"dataset folder {folder} cannot be read: {error.strerror or error}. Make it readable."
        ) from error


def _is_image(name: str) -> bool:
    stem, _, extension = name.rpartition(".")
    return stem != "" and f".{extension.lower()}" in EXTENSIONS


def file_identity(folder: Path, files: list[str]) -> list[tuple[str, int, int]]:
    """(relative name, bytes, modification time in ns) of each file: what a cache entry hangs on."""
    identity = []
    for name in files:
        try:
            status = os.stat(os.path.join(folder, name))  # noqa: PTH116, PTH118 (50,000 files: Path doubles it)
        except OSError as error:
            raise _unreadable(folder, name, error) from error
        identity.append((name, status.st_size, status.st_mtime_ns))
    return identity


def decode_files(folder: Path, files: list[str], image_size: int | None) -> Images:
    """Decode files (paths relative to folder, in this order) to (N, S, S, 3) uint8.

    Args:
        folder: the dataset's folder.
        files: relative paths, at least one.
        image_size: resize to this side, bilinear; None: all images must have the first one's side.

    Raises:
        ConfigError: naming the first file, in order, that is unreadable, not square or of another size.
    """
    from PIL import Image

    first = _decode(Image, folder, files[0], image_size, None)
    side = first.shape[0]
    images = np.empty((len(files), side, side, 3), dtype=np.uint8)

    def decode_block(start: int) -> None:
        for index in range(start, min(start + _FILES_PER_TASK, len(files))):
            images[index] = _decode(Image, folder, files[index], image_size, (files[0], side))

    is_small = (folder / files[0]).stat().st_size < _THREADS_FROM_BYTES
    pool = ThreadPoolExecutor(max_workers=1 if is_small else os.cpu_count() or 1)
    try:
        # In order, so that of several bad files it is always the first that is named.
        for _ in pool.map(decode_block, range(0, len(files), _FILES_PER_TASK)):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
    return images


def _decode(
    pil: Any, folder: Path, name: str, image_size: int | None, reference: tuple[str, int] | None
) -> Images:
    """One image as (S, S, 3). `reference`: the file and side that all must match without `image_size`."""
    try:
        with pil.open(os.path.join(folder, name), formats=_FORMATS) as image:  # noqa: PTH118
            image.load()
            picture = _to_rgb(pil, image)
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, zlib.error and more
        raise _unreadable(folder, name, error) from error
    width, height = picture.size
    if width != height:
        raise ConfigError(
            f"dataset folder {folder}: image {name} is {width}x{height}. Accepted: square images; "
            f"crop or pad it to a square."
        )
    if image_size is not None:
        return resized(picture, image_size)
    if reference is not None and width != reference[1]:
        side = reference[1]
        raise ConfigError(
            f"dataset folder {folder}: image {name} is {width}x{width}, but {reference[0]} is {side}x{side}. "
            f"All images must have one size: set data.image_size (say {side}) to resize them."
        )
    if not MIN_SIDE <= width <= MAX_SIDE:
        raise ConfigError(
            f"dataset folder {folder}: image {name} is {width}x{width}. Accepted sides: {MIN_SIDE} to "
            f"{MAX_SIDE} pixels; set data.image_size to resize all images."
        )
    return np.asarray(picture, dtype=np.uint8)


def _to_rgb(pil: Any, image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # convert() has clipped 16 bits at 255 in some Pillow versions: keep the upper 8 bits ourselves.
        image = pil.fromarray((np.asarray(image, dtype=np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode!r} have no fixed range; save it with 8 or 16 bits")
    return image.convert("RGB")


def resized(picture: Image.Image, side: int) -> Images:
    """A picture as (side, side, 3) uint8, resized with PIL's bilinear filter where it has another size."""
    from PIL import Image

    if picture.size != (side, side):
        picture = picture.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(picture, dtype=np.uint8)


def _unreadable(folder: Path, name: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"dataset folder {folder}: image {name} cannot be read: {error}. Replace or remove the file."
    )


# ---- datasets that need no folder


def read_digits(part: PartName, side: int) -> tuple[Images, Labels]:
    """scikit-learn's 1797 handwritten digits: a fixed fifth of each class is the test part."""
    from PIL import Image
    from sklearn.datasets import load_digits  # loads pandas as well: only here

    bunch = load_digits()
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    is_test = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        members = np.flatnonzero(labels == digit)
        order = random_order(len(members), f"digits/test/{_DIGITS_TEST_SEED}/{digit}")
        is_test[members[order[: round(len(members) / 5)]]] = True
    chosen = np.flatnonzero(is_test if part == "test" else ~is_test)
    images = np.stack([resized(Image.fromarray(grey[i]).convert("RGB"), side) for i in chosen])
    return images, labels[chosen]


def random_order(count: int, stream: str) -> npt.NDArray[np.int64]:
    """A permutation of 0..count-1, a function of the stream's name alone."""
    seed = int.from_bytes(hashlib.sha256(stream.encode()).digest()[:16], "big")
    # Raw PCG64 output is the same in every numpy version; Generator.permutation makes no such promise.
    raw = np.random.PCG64(seed).random_raw(count)
    return np.argsort(raw, kind="stable").astype(np.int64)


def read_cifar(name: str, root: Path, part: PartName, side: int) -> tuple[Images, Labels, tuple[str, ...]]:
    """CIFAR-10 or CIFAR-100 through torchvision, downloaded to `root` at first use.

    Raises:
        ConfigError: the files are not there and cannot be downloaded or written.
    """
    import torchvision.datasets as torchvision_datasets
    from PIL import Image

    base: Any = getattr(torchvision_datasets, {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}[name])
    # torchvision checks the bytes of both parts whichever is asked for; the other one stays closed here.
    other = "test_list" if part == "train" else "train_list"
    loader: Any = type(base.__name__, (base,), {other: []})
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_S)  # torchvision sets none: a silent network would hang
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / f".{name}.lock"):
            loaded = loader(root, train=part == "train", download=True)
    except (OSError, EOFError, RuntimeError, http.client.HTTPException, tarfile.TarError) as error:
        raise ConfigError(
            f"dataset {name!r} is not in {root} and could not be downloaded from {base.url}: {error}. "
            f"Put the unpacked {base.filename} there by hand, as {root / base.base_folder}, or say with "
            f"--data-root or SSL_TUNE_DATA where it lies; or use an image folder: --dataset folder:PATH."
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)
    images = np.asarray(loaded.data, dtype=np.uint8)
    if images.shape[1] != side:
        images = np.stack([resized(Image.fromarray(image), side) for image in images])
    return images, np.asarray(loaded.targets, dtype=np.int64), tuple(loaded.classes)


# ---- the cache: CACHE/<key>/{train,test}_{images,labels}.npy and meta.json


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
