"""Data sets that come as arrays: scikit-learn's digits, and CIFAR, SVHN and STL-10 through torchvision.

Private to `ssl_core.data`. Like `datasets`, this file imports numpy alone: PIL, scikit-learn and torchvision are
loaded by the functions that need them.

N: images, S: side in pixels. A part is "train" or "test".
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import socket
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap

from ssl_core.data.cache import locked
from ssl_core.data.decoding.picture import Shape, resized
from ssl_core.data.part import UNLABELLED, Facts, Hashes, Images, Labels, Part, PartName, Rows, make_part
from ssl_core.data.splits.balanced import random_order
from ssl_core.system.errors import ConfigError

if TYPE_CHECKING:
    from ssl_core.data.decoding.stream import Progress

_DIGITS_TEST_SEED = 1797
_DOWNLOAD_TIMEOUT_S = 30.0
_BLOCK = 1024


@dataclass(frozen=True)
class Builtin:
    """What is known of a data set that comes as arrays.

    Attributes:
        classes: names, in the order of the labels.
        train_per_class: labelled training images of each class.
        side: of the images, in pixels.
        network: the network used unless another is asked for.
        labels: labelled images used unless told otherwise; None: all.
        flip: whether a mirrored image keeps its label.
        unlabelled: training images without a label.
        reader: the name of torchvision's class; None: scikit-learn's digits.
    """

    classes: tuple[str, ...]
    train_per_class: tuple[int, ...]
    side: int
    network: str
    labels: int | None
    flip: bool
    unlabelled: int = 0
    reader: str | None = None


_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_STL10 = "airplane bird car cat deer dog horse monkey ship truck"
_CIFAR100 = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel
    can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur
    dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion
    lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree
    pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea
    seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank
    telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman
    worm"""
_DIGITS = tuple("0123456789")
# Training images of each digit: scikit-learn's 1797 without the fifth kept for testing. Written down so
# that `describe` need not load scikit-learn; a test compares them with the images.
_DIGITS_PER_CLASS = (142, 146, 142, 146, 145, 146, 145, 143, 139, 144)
# Netzer et al. (2011), train_32x32.mat.
_SVHN_PER_CLASS = (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659)

BUILTIN = {
    "digits": Builtin(_DIGITS, _DIGITS_PER_CLASS, 16, "wrn-10-1", 100, flip=False),
    "cifar10": Builtin(
        tuple(_CIFAR10.split()), (5000,) * 10, 32, "wrn-28-2", 4000, flip=True, reader="CIFAR10"
    ),
    "cifar100": Builtin(
        tuple(_CIFAR100.split()), (500,) * 100, 32, "wrn-28-2", 10_000, flip=True, reader="CIFAR100"
    ),
    "svhn": Builtin(_DIGITS, _SVHN_PER_CLASS, 32, "wrn-28-2", 1000, flip=False, reader="SVHN"),
    "stl10": Builtin(
        tuple(_STL10.split()),
        (500,) * 10,
        96,
        "wrn-28-2",
        None,
        flip=True,
        unlabelled=100_000,
        reader="STL10",
    ),
}


def read(
    name: str, root: Path, part: PartName, side: int, place: Path | None, progress: Progress | None = None
) -> Part:
    """One part of a data set of BUILTIN.

    Args:
        name: of the data set.
        root: where its files lie, or are downloaded to.
        part: "train" (with the images without a label, where there are some) or "test".
        side: that images are resized to, in pixels.
        place: folder for the images of a large data set, which are then a map of a file there.
        progress: told how many images are made.

    Raises:
        ConfigError: the files are not there and cannot be downloaded or written.
    """
    if name == "digits":
        return make_part(*read_digits(part, side), _DIGITS)
    if name == "stl10":
        return _read_stl10(root, part, side, place, progress)
    return make_part(*read_torchvision(name, root, part, side))


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
    shape = Shape(side)
    images = np.stack([resized(Image.fromarray(grey[i]).convert("RGB"), shape) for i in chosen])
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


def read_torchvision(
    name: str, root: Path, part: PartName, side: int
) -> tuple[Images, Labels, tuple[str, ...]]:
    """CIFAR-10, CIFAR-100 or SVHN through torchvision, downloaded to `root` at first use.

    Raises:
        ConfigError: the files are not there and cannot be downloaded or written.
    """
    if name == "svhn":
        loaded = _loaded(name, root, lambda base: base(root, split=part, download=True))
        images, targets = loaded.data.transpose(0, 2, 3, 1), loaded.labels
        classes = BUILTIN[name].classes
    else:
        # torchvision checks the bytes of both parts whichever is asked for; the other one stays closed here.
        other = "test_list" if part == "train" else "train_list"

        def load(base: Any) -> Any:
            return type(base.__name__, (base,), {other: []})(root, train=part == "train", download=True)

        loaded = _loaded(name, root, load)
        images, targets, classes = loaded.data, loaded.targets, tuple(loaded.classes)
    labels = np.asarray(targets, dtype=np.int64)
    return _sized(np.asarray(images, dtype=np.uint8), side), labels, classes


def _loaded(name: str, root: Path, load: Callable[[Any], Any]) -> Any:
    """What torchvision's class of a data set gives, one process at a time."""
    import torchvision.datasets as torchvision_datasets

    base: Any = getattr(torchvision_datasets, str(BUILTIN[name].reader))
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_S)  # torchvision sets none: a silent network would hang
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / f".{name}.lock"):
            return load(base)
    except (OSError, EOFError, RuntimeError, http.client.HTTPException, tarfile.TarError) as error:
        url, what, place = _source(name, base, root)
        raise ConfigError(
            f"dataset {name!r} is not in {root} and could not be downloaded from {url}: {error}. "
            f"Put {what} there by hand, as {place}, or say with "
            f"--data-root or SSL_TUNE_DATA where it lies; or use an image folder: --dataset folder:PATH."
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


def _source(name: str, base: Any, root: Path) -> tuple[str, str, str]:
    """Address, what is to be fetched, and where it belongs."""
    if name == "svhn":
        files = [base.split_list[part] for part in ("train", "test")]
        places = " and ".join(str(root / file) for _, file, _ in files)
        return str(files[0][0]).rpartition("/")[0], " and ".join(file for _, file, _ in files), places
    return base.url, f"the unpacked {base.filename}", str(root / base.base_folder)


def _sized(images: Images, side: int) -> Images:
    from PIL import Image

    if images.shape[1] == side:
        return images
    shape = Shape(side)
    return np.stack([resized(Image.fromarray(image), shape) for image in images])


def _read_stl10(root: Path, part: PartName, side: int, place: Path | None, progress: Progress | None) -> Part:
    """STL-10, with its 100,000 images without a label in the training part, but for copies of test images.

    The files are mapped and made block by block: as arrays they would take 2.8 GB.
    """
    splits = ("train", "unlabeled", "test") if part == "train" else ("test",)
    loaded = dict(zip(splits, _map_stl10(root, splits), strict=True))
    hashes = {split: _hashes(one.data) for split, one in loaded.items()}
    facts, chosen = Facts(), {split: np.arange(len(one.data)) for split, one in loaded.items()}
    if part == "train":
        sealed = {one.tobytes() for one in hashes.pop("test")}
        is_copy = np.asarray([one.tobytes() in sealed for one in hashes["unlabeled"]], dtype=bool)
        chosen["unlabeled"] = np.flatnonzero(~is_copy)
        facts.copies_left_out = int(is_copy.sum())
    total = sum(len(chosen[split]) for split in hashes)
    shape = (total, side, side, 3)
    images: Any = np.empty(shape, dtype=np.uint8)
    if place is not None:
        images = open_memmap(place / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
    labels = np.full(total, UNLABELLED, dtype=np.int64)
    roles: list[str] = []
    for split in hashes:
        for start in range(0, len(chosen[split]), _BLOCK):
            indices, first = chosen[split][start : start + _BLOCK], len(roles)
            block = np.ascontiguousarray(loaded[split].data[indices].transpose(0, 2, 3, 1))
            images[first : first + len(block)] = _sized(block, side)
            if split != "unlabeled":
                labels[first : first + len(block)] = loaded[split].labels[indices]
            roles += ["unlabelled" if split == "unlabeled" else split] * len(block)
            if progress is not None:
                progress(len(roles), total)
    files = tuple(f"{split}/{index}" for split in hashes for index in chosen[split])
    known = np.concatenate([hashes[split][chosen[split]] for split in hashes])
    rows = Rows(files, known, ("",) * total, tuple(roles))
    return make_part(images, labels, BUILTIN["stl10"].classes, rows, facts.text())


def _map_stl10(root: Path, splits: Sequence[str]) -> list[Any]:
    """torchvision's data sets, with maps of the files in place of arrays: data (N, 3, 96, 96), labels (N,)."""

    def map_file(_: Any, data_file: str, labels_file: str | None = None) -> tuple[Any, Any]:
        path = root / "stl10_binary" / data_file
        # Columns before rows, so that the last two axes are swapped.
        data = np.memmap(path, dtype=np.uint8, mode="r").reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2)
        if labels_file is None:
            return data, None
        return data, np.fromfile(path.parent / labels_file, dtype=np.uint8) - 1

    def load(base: Any) -> list[Any]:
        mapped = type(base.__name__, (base,), {"_STL10__loadfile": map_file})
        return [mapped(root, split=split, download=True) for split in splits]

    found: list[Any] = _loaded("stl10", root, load)
    return found


def _hashes(source: Any) -> Hashes:
    """(N, 16) uint8, of images (N, 3, 96, 96)."""
    digests = [hashlib.sha256(np.ascontiguousarray(image).data).digest()[:16] for image in source]
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 16)
