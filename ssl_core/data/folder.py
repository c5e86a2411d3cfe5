"""Images from files to uint8 arrays.

Private to `ssl_core.data.datasets`. Like it, this file imports numpy alone: PIL, scikit-learn and torchvision
are loaded by the functions that need them.

N: images, S: side in pixels, C: classes. A part is "train" or "test".
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import os
import socket
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ssl_core.data.cache import Images, Labels, PartName, locked
from ssl_core.system.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image

MIN_SIDE, MAX_SIDE = 8, 512
EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"})
LAYOUT = "PATH/train/<class>/* and PATH/test/<class>/*"

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "PPM", "TIFF")
_FILES_PER_TASK = 256
# Decoding frees the interpreter's lock, opening a file does not. For files of a few kilobytes (32x32
# JPEGs) opening outweighs decoding, and threads that wait for the lock make it slower, not faster.
_THREADS_FROM_BYTES = 8192
_DIGITS_TEST_SEED = 1797
_DOWNLOAD_TIMEOUT_S = 30.0


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


def list_train(folder: Path) -> dict[str, list[str]]:
    """`list_part` of train/, which must hold at least two classes with images."""
    train = list_part(folder, "train")
    for name, files in train.items():
        if not files:
            accepted = " ".join(sorted(EXTENSIONS))
            raise ConfigError(
                f"dataset folder {folder}: class {name!r} has no image in train/{name}/ (folders inside it "
                f"are not read). Accepted: {accepted}. Add images or remove the folder."
            )
    if len(train) < 2:
        raise ConfigError(
            f"dataset folder {folder}: train/ has one class, {next(iter(train))!r}; at least 2 are needed. "
            f"Expected {LAYOUT}."
        )
    return train


def list_test(folder: Path, classes: Sequence[str]) -> dict[str, list[str]]:
    """`list_part` of test/, which must hold an image, and no class but those of train/."""
    test = list_part(folder, "test")
    for name in test:
        if name not in classes:
            raise ConfigError(
                f"dataset folder {folder}: class {name!r} is in test/ but not in train/, which has "
                f"{', '.join(classes)}. Add train/{name}/ or remove test/{name}/."
            )
    if not any(test.values()):
        raise ConfigError(f"dataset folder {folder}: test/ has no image. Expected {LAYOUT}.")
    return test


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

    pixels, labels = _digits_table()
    grey = np.rint(pixels * (255 / 16)).astype(np.uint8)
    is_test = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        members = np.flatnonzero(labels == digit)
        order = random_order(len(members), f"digits/test/{_DIGITS_TEST_SEED}/{digit}")
        is_test[members[order[: round(len(members) / 5)]]] = True
    chosen = np.flatnonzero(is_test if part == "test" else ~is_test)
    images = np.stack([resized(Image.fromarray(grey[i]).convert("RGB"), side) for i in chosen])
    return images, labels[chosen]


def _digits_table() -> tuple[npt.NDArray[np.float64], Labels]:
    """Pixels (1797, 8, 8) from 0 to 16, and labels, as ``sklearn.datasets.load_digits`` has them.

    Read from scikit-learn's own file: loading scikit-learn, which loads scipy and pandas, takes seconds.
    """
    package = importlib.util.find_spec("sklearn")
    folders = package.submodule_search_locations if package is not None else None
    file = Path(next(iter(folders or ["."])), "datasets", "data", "digits.csv.gz")
    if file.is_file():
        table = np.loadtxt(file, delimiter=",")
    else:  # a version that keeps it elsewhere
        from sklearn.datasets import load_digits

        bunch = load_digits()
        table = np.column_stack([bunch.data, bunch.target])
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)


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
