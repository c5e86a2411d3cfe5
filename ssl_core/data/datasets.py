"""Datasets as uint8 arrays, and the split into labelled, validation and unlabelled images.

`describe` tells what can be known without decoding an image, so that a command is checked before torch
is loaded: this file imports numpy alone. `load_test` is the only function that reads test images.

N: images, S: side in pixels, C: classes.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ssl_core.data import cache as _cache
from ssl_core.data import folder as _decode
from ssl_core.system.errors import ConfigError, unknown

# Training images of each digit: scikit-learn's 1797 without the fifth kept for testing. Written down so
# that `describe` need not load scikit-learn; a test compares them with the images.
_DIGITS_PER_CLASS = (142, 146, 142, 146, 145, 146, 145, 143, 139, 144)
_DIGITS_SIDE = 16
_CIFAR_SIDE = 32
_CIFAR10_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100_CLASSES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel
    can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur
    dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion
    lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree
    pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea
    seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank
    telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman
    worm"""
_KNOWN = ("digits", "cifar10", "cifar100", "folder:PATH")
_FOLDER = "folder:"


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a dataset without decoding its images.

    Attributes:
        name: as given.
        classes: class names, in the order of the labels.
        train_per_class: training images of each class.
        image_size: side in pixels after resizing; None where a folder has to be decoded to know.
        default_network: the network used unless another is asked for.
        default_labels: labelled images used unless told otherwise; None: must be told.
        flip: whether a mirrored image keeps its label.
    """

    name: str
    classes: tuple[str, ...]
    train_per_class: tuple[int, ...]
    image_size: int | None
    default_network: str
    default_labels: int | None
    flip: bool

    @property
    def num_classes(self) -> int:
        return len(self.classes)


@dataclass(frozen=True, eq=False)
class Dataset:
    """The training images.

    Attributes:
        name: as given.
        images: (N, S, S, 3) uint8, read-only; a `np.memmap` where it comes from the cache.
        labels: (N,) int64, read-only.
        classes: class names, in the order of the labels.
        fingerprint: sha256 (hex) over shape, pixels, labels and class names.
        mean: of each channel over all training pixels, of pixel / 255.
        std: likewise; at least 1/255, so that a constant channel can be divided by it.
        flip: whether a mirrored image keeps its label.
    """

    name: str
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    fingerprint: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    flip: bool

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def image_size(self) -> int:
        return int(self.images.shape[1])


@dataclass(frozen=True, eq=False)
class TestSet:
    """The test images: (N, S, S, 3) uint8, and their labels: (N,) int64; both read-only."""

    __test__: ClassVar[bool] = False  # its name makes pytest take it for tests

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Sorted int64 indices into `Dataset.images`.

    Attributes:
        labelled: exactly as many of each class.
        valid: exactly as many of each class; in neither of the other two.
        unlabelled: every training image except the validation ones; the labelled ones included.
        hash: first 16 hex digits of the sha256 over the dataset's fingerprint and the three arrays.
    """

    labelled: npt.NDArray[np.int64]
    valid: npt.NDArray[np.int64]
    unlabelled: npt.NDArray[np.int64]
    hash: str


def describe(name: str, *, root: Path | None = None, image_size: int | None = None) -> DatasetInfo:
    """What is known of a dataset without decoding images or loading torch.

    Args:
        name: "digits", "cifar10", "cifar100" or "folder:PATH" ("~" is expanded).
        root: not needed to describe; accepted so that one set of arguments serves all three functions.
        image_size: side in pixels, 8 to 512, to which images are resized; None: their own.

    Raises:
        ConfigError: unknown dataset; image_size out of range; a folder that is missing, lacks train/ or
            test/, has fewer than two classes, a class without training images, a class in test/ alone,
            no test image, or images outside the class folders.
    """
    kind, path = _resolve(name, root)
    _check_image_size(image_size)
    if kind == "folder":
        train = _decode.list_train(path)
        _decode.list_test(path, tuple(train))
        per_class = tuple(len(files) for files in train.values())
        return DatasetInfo(name, tuple(train), per_class, image_size, "wrn-28-2", None, flip=True)
    if kind == "digits":
        classes = tuple(str(digit) for digit in range(10))
        return DatasetInfo(
            name, classes, _DIGITS_PER_CLASS, image_size or _DIGITS_SIDE, "wrn-10-1", 100, flip=False
        )
    names, default_labels = (_CIFAR10_CLASSES, 4000) if kind == "cifar10" else (_CIFAR100_CLASSES, 10_000)
    classes = tuple(names.split())
    per_class = (50_000 // len(classes),) * len(classes)
    return DatasetInfo(
        name, classes, per_class, image_size or _CIFAR_SIDE, "wrn-28-2", default_labels, flip=True
    )


def load_train(
    name: str, *, root: Path | None = None, image_size: int | None = None, cache: Path | None = None
) -> Dataset:
    """The training images; no test image file is opened.

    Args:
        name: as for `describe`.
        root: where downloaded data lies; None: $SSL_TUNE_DATA, else ./ssl-tune-data.
        image_size: side in pixels, 8 to 512, to which images are resized (bilinear); None: their own
            (digits: 16).
        cache: folder for decoded arrays, shared by the processes of a machine; None: decode into memory.

    Raises:
        ConfigError: as for `describe`, for what lies in train/; an image that is unreadable, not square
            or of another size than the others (named); a download that failed.
    """
    part = _load(name, "train", root, image_size, cache)
    return Dataset(
        name=name,
        images=part.images,
        labels=part.labels,
        classes=part.classes,
        fingerprint=part.fingerprint,
        mean=part.mean,
        std=part.std,
        flip=name != "digits",
    )


def load_test(
    name: str, *, root: Path | None = None, image_size: int | None = None, cache: Path | None = None
) -> TestSet:
    """The test images. For final models only: no search, stopping rule or selection may call this.

    Args:
        name, root, image_size, cache: as for `load_train`. Without `image_size` a folder's test images
            must be of one size among themselves; whether it is the training images' the caller sees.

    Raises:
        ConfigError: as for `load_train`, for what lies in test/; a class that is in test/ alone.
    """
    part = _load(name, "test", root, image_size, cache)
    return TestSet(part.images, part.labels)


def check_counts(info: DatasetInfo, *, labelled: int, valid: int) -> None:
    """Refuse label counts that cannot be drawn, and warn of a validation set larger than the labelled one.

    Args:
        info: the dataset.
        labelled: labelled images, over all classes.
        valid: validation images, over all classes.

    Raises:
        ConfigError: a count that is not positive, is no multiple of the number of classes, or for which
            the dataset or one of its classes has too few images.
    """
    _check_counts(repr(info.name), info.classes, info.train_per_class, labelled=labelled, valid=valid)
    if valid > labelled:
        warnings.warn(
            f"the validation set ({valid} images) is larger than the labelled set ({labelled}): whoever had "
            f"so many labels would train on them, so results chosen with it are unrealistically good.",
            UserWarning,
            stacklevel=2,
        )


def draw_split(
    labels: npt.NDArray[np.int64],
    num_classes: int,
    *,
    labelled: int,
    valid: int,
    split_seed: int,
    label_seed: int,
    fingerprint: str,
) -> Split:
    """Draw labelled, validation and unlabelled images, balanced per class.

    The validation images depend on `split_seed` alone and stay where they are when `label_seed` changes.
    With the same seeds a smaller set, labelled or validation, is part of every larger one as long as the
    other one's size stays.

    Args:
        labels: (N,) class of each training image, 0 to num_classes - 1.
        num_classes: C.
        labelled: labelled images, a positive multiple of C.
        valid: validation images, a positive multiple of C.
        split_seed: of the validation images.
        label_seed: of the labelled images.
        fingerprint: the dataset's, for the split's hash.

    Raises:
        ConfigError: as for `check_counts`.
    """
    per_class = np.bincount(labels, minlength=num_classes)
    assert len(per_class) == num_classes, f"labels up to {labels.max()} for {num_classes} classes"
    names = [str(c) for c in range(num_classes)]
    _check_counts("the dataset", names, per_class.tolist(), labelled=labelled, valid=valid)

    labelled_parts, valid_parts = [], []
    for c in range(num_classes):
        members = np.flatnonzero(labels == c)
        valid_order = _decode.random_order(len(members), f"split/valid/{split_seed}/{c}")
        label_order = _decode.random_order(len(members), f"split/labelled/{label_seed}/{c}")
        taken = valid_order[: valid // num_classes]
        rest = label_order[~np.isin(label_order, taken)]
        valid_parts.append(members[taken])
        labelled_parts.append(members[rest[: labelled // num_classes]])
    labelled_indices = np.sort(np.concatenate(labelled_parts)).astype(np.int64)
    valid_indices = np.sort(np.concatenate(valid_parts)).astype(np.int64)
    unlabelled = np.setdiff1d(np.arange(len(labels), dtype=np.int64), valid_indices)

    digest = hashlib.sha256(fingerprint.encode())
    for part, indices in (
        ("labelled", labelled_indices),
        ("valid", valid_indices),
        ("unlabelled", unlabelled),
    ):
        digest.update(f"/{part}:{len(indices)}:".encode())  # lengths, so that arrays cannot run together
        digest.update(indices.astype("<i8").tobytes())
    return Split(labelled_indices, valid_indices, unlabelled, digest.hexdigest()[:16])


def _resolve(name: str, root: Path | None) -> tuple[str, Path]:
    """The kind of dataset, and the absolute path of its files (for digits, which has none: the root)."""
    if name.startswith(_FOLDER):
        path = name.removeprefix(_FOLDER)
        if not path:
            raise ConfigError(f"dataset {name!r} names no folder. Give it as folder:PATH.")
        return "folder", _absolute(Path(path))
    if name not in _KNOWN[:-1]:
        raise unknown("dataset", name, _KNOWN)
    return name, _absolute(root or Path(os.environ.get("SSL_TUNE_DATA") or "ssl-tune-data"))


def _absolute(path: Path) -> Path:
    try:
        return path.expanduser().resolve()
    except (OSError, RuntimeError) as error:  # no such user after "~", or a loop of links
        raise ConfigError(f"path {str(path)!r} cannot be resolved: {error}. Correct the path.") from error


def _check_image_size(image_size: int | None) -> None:
    if image_size is not None and not _decode.MIN_SIDE <= image_size <= _decode.MAX_SIDE:
        raise ConfigError(
            f"data.image_size is {image_size}. Accepted: {_decode.MIN_SIDE} to {_decode.MAX_SIDE} pixels."
        )


def _load(
    name: str, part: _cache.PartName, root: Path | None, image_size: int | None, cache: Path | None
) -> _cache.Part:
    kind, path = _resolve(name, root)
    _check_image_size(image_size)
    files: list[str] = []
    labels: list[int] = []
    classes: tuple[str, ...] = ()
    identity: list[tuple[str, int, int]] = []
    side: int | None = image_size
    if kind == "folder":
        train = _decode.list_train(path)
        classes = tuple(train)
        listing = train if part == "train" else _decode.list_test(path, classes)
        for label, class_name in enumerate(classes):
            found = listing.get(class_name, [])
            files += [f"{part}/{class_name}/{file}" for file in found]
            labels += [label] * len(found)
        if cache is not None:
            identity = _decode.file_identity(path, files)
    else:
        side = image_size or (_DIGITS_SIDE if kind == "digits" else _CIFAR_SIDE)

    def build() -> _cache.Part:
        if kind == "folder":
            images = _decode.decode_files(path, files, image_size)
            return _cache.make_part(images, np.asarray(labels, dtype=np.int64), classes)
        assert side is not None
        if kind == "digits":
            return _cache.make_part(*_decode.read_digits(part, side), tuple(str(d) for d in range(10)))
        return _cache.make_part(*_decode.read_cifar(kind, path, part, side))

    if cache is None:
        return build()
    where = "" if kind == "digits" else str(path)
    key = hashlib.sha256(json.dumps([kind, where, side, part, classes, identity]).encode()).hexdigest()[:16]
    return _cache.cached(_absolute(cache), key, part, build)


def _check_counts(
    dataset: str, classes: Sequence[str], per_class: Sequence[int], *, labelled: int, valid: int
) -> None:
    num_classes, total = len(classes), sum(per_class)
    smallest = min(per_class)
    for what, count in (("labelled", labelled), ("validation", valid)):
        if count <= 0 or count % num_classes:
            problem = "is not positive" if count <= 0 else f"is not a multiple of the {num_classes} classes"
            lower = count // num_classes * num_classes if count > 0 else 0
            near = " or ".join(str(n) for n in (lower, lower + num_classes) if n > 0)
            raise ConfigError(
                f"number of {what} images {count} {problem}. Accepted for {dataset}: positive multiples of "
                f"{num_classes}, for example {near}."
            )
    if labelled + valid > total:
        raise ConfigError(
            f"{labelled} labelled and {valid} validation images are {labelled + valid}, but {dataset} has "
            f"{total} training images. Lower one of the two."
        )
    need_labelled, need_valid = labelled // num_classes, valid // num_classes
    needed = need_labelled + need_valid
    if smallest < needed:
        name = classes[per_class.index(smallest)]
        raise ConfigError(
            f"class {name!r} of {dataset} has {smallest} training images, but {needed} of each class are "
            f"needed ({need_labelled} labelled and {need_valid} validation). Lower labelled and validation "
            f"images to {smallest * num_classes} together, or add images of {name!r}."
        )
