"""Pictures that are there more than once: within a part, in two parts, in two classes; test images that are training
images, looked for before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from ssl_core.data.assembly import damaged_message
from ssl_core.data.datasets import listing_of
from ssl_core.data.decoding.stream import Progress
from ssl_core.data.inspecting.examined import hashes_of_files
from ssl_core.data.options import Options
from ssl_core.data.part import UNLABELLED, Hashes, Labels, Rows, hashes_of_images
from ssl_core.data.types import Dataset, TestSet
from ssl_core.system.errors import ConfigError, counted

MAX_LEAK = 0.05
"""Share of test images that may be training images; above it the test error says nothing about new images."""


@dataclass(frozen=True)
class Overlaps:
    """Copies among N images; a copy has the same pixels.

    Attributes:
        within: images that repeat an earlier one of their part, by part.
        between: (earlier part, later part, images of the later one that are in the earlier one as well).
        in_two_classes: pictures with more than one label.
        examples: the names of one pair of each kind, by kind.
    """

    within: dict[str, int]
    between: list[tuple[str, str, int]]
    in_two_classes: int
    examples: dict[str, tuple[str, str]]

    def sentences(self) -> list[str]:
        """What a user should know, one sentence for each kind."""
        told = []
        for part, number in self.within.items():
            told.append(f"{counted(number, 'image')} of {part} repeat others{self._example(part)}.")
        for first, second, number in self.between:
            example = self._example(f"{first} and {second}")
            told.append(f"{counted(number, 'image')} of {second} {_are(number)} in {first} too{example}.")
        if self.in_two_classes:
            pictures = counted(self.in_two_classes, "picture")
            told.append(
                f"{pictures} {_are(self.in_two_classes)} in two classes{self._example('two classes')}."
            )
        return told

    def _example(self, kind: str) -> str:
        return ", for example {} and {}".format(*self.examples[kind]) if kind in self.examples else ""


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def overlaps_of(hashes: Hashes, parts: Sequence[str], labels: Labels, names: Sequence[str]) -> Overlaps:
    """Count the copies.

    Args:
        hashes: (N, 16) uint8, of the pixels.
        parts: the part of each image.
        labels: (N,) int64; -1 for an image without a label.
        names: of the images, for examples.
    """
    _, pictures = np.unique(np.ascontiguousarray(hashes).view("V16").ravel(), return_inverse=True)
    order = list(dict.fromkeys(parts))
    of_part = np.asarray([order.index(part) for part in parts], dtype=np.int64)
    firsts: list[dict[int, int]] = []  # for each part, the first image of each picture
    within: dict[str, int] = {}
    examples: dict[str, tuple[str, str]] = {}
    for number, part in enumerate(order):
        first: dict[int, int] = {}
        for index in np.flatnonzero(of_part == number).tolist():
            earlier = first.setdefault(int(pictures[index]), index)
            if earlier != index:
                within[part] = within.get(part, 0) + 1
                examples.setdefault(part, (names[earlier], names[index]))
        firsts.append(first)
    between = []
    for a, b in combinations(range(len(order)), 2):
        members = np.flatnonzero(of_part == b)
        common = [int(i) for i in members if int(pictures[i]) in firsts[a]]
        if common:
            between.append((order[a], order[b], len(common)))
            pair = (names[firsts[a][int(pictures[common[0]])]], names[common[0]])
            examples[f"{order[a]} and {order[b]}"] = pair
    return Overlaps(within, between, _in_two_classes(pictures, labels, names, examples), examples)


def _in_two_classes(
    pictures: Labels, labels: Labels, names: Sequence[str], examples: dict[str, tuple[str, str]]
) -> int:
    first: dict[int, int] = {}
    torn: set[int] = set()
    for index in np.flatnonzero(labels != UNLABELLED).tolist():
        picture = int(pictures[index])
        earlier = first.setdefault(picture, index)
        if labels[earlier] != labels[index]:
            torn.add(picture)
            examples.setdefault("two classes", (names[earlier], names[index]))
    return len(torn)


def check_leak(data: Dataset, test: TestSet, *, allow: bool = False) -> str | None:
    """A sentence about test images that are training images, if there are any.

    Args:
        data: the training images.
        test: the test images. Their pixels are compared, nothing is computed with them.
        allow: whether a test set that is in the training set is accepted (`data.allow_leak`).

    Raises:
        ConfigError: more than MAX_LEAK of the test images are training images, and that is not allowed.
    """
    trained = {one.tobytes() for one in _hashes(data)}
    leaked = [i for i, one in enumerate(_hashes(test)) if one.tobytes() in trained]
    if not leaked:
        return None
    total = len(test.labels)
    example = f", for example {test.rows.files[leaked[0]]}" if test.rows is not None else ""
    said = (
        f"{len(leaked)} of {counted(total, 'test image')} of {data.name!r} {_are(len(leaked))} in the training set "
        f"too{example}"
    )
    if len(leaked) > MAX_LEAK * total and not allow:
        raise ConfigError(
            f"{said}: the test error would say little about new images. Remove them from one of the two, or "
            f"accept it with data.allow_leak: true."
        )
    return f"{said}: the test error is lower than on new images."


def check_test_images(
    data: Dataset,
    options: Options,
    *,
    allow_leak: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """Find damaged test images, and a test set that is in the training set, before they cost a search.

    Test images that are held out of train/ were decoded with it, and their copies share their part; data sets
    that come as arrays are what they are. So only the files of a test part are looked at.

    Args:
        data: the training images, as `load_train` gives them.
        options: how its files are read.
        allow_leak: whether a test set that is in the training set is accepted (`data.allow_leak`).
        cache: folder of decoded images, which keeps the hashes of files that did not change; None: all are read.
        progress: told how far it is.

    Returns:
        What the user should know, one sentence each.

    Raises:
        ConfigError: a test image that cannot be decoded, or more than MAX_LEAK of them in the training set.
    """
    listing = listing_of(data.name, options)
    if listing is None or data.rows is None or "test" not in listing.parts:
        return []
    files = listing.parts["test"]
    hashes, damaged = hashes_of_files(listing, "test", cache, progress)
    if damaged:
        raise ConfigError(damaged_message(listing.what, damaged, len(files.names), True, False))
    rows = Rows(files.names, hashes, files.groups, ("test",) * len(files.names))
    nothing = np.zeros((0, data.image_size, data.image_size, 3), dtype=np.uint8)
    told = check_leak(data, TestSet(nothing, files.labels, rows), allow=allow_leak)
    return [] if told is None else [told]


def _hashes(images: Dataset | TestSet) -> Hashes:
    return images.rows.hashes if images.rows is not None else hashes_of_images(images.images)
