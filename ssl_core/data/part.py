"""A decoded part of a data set: images, labels, what is known of each row, and what follows from the pixels.

N: images, S: side in pixels. A part is "train" or "test".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

PartName = Literal["train", "test"]
Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]

UNLABELLED = -1
_BLOCK_BYTES = 2**22
_LINES = 2**16
"""255 ** 2 times so often is less than 2 ** 32."""


@dataclass(frozen=True, eq=False)
class Rows:
    """What is known of each image that came from a file; every field has N entries.

    Attributes:
        files: paths relative to the data set's folder.
        hashes: (N, 16) uint8, of the pixels as they were before resizing.
        groups: names of what belongs together, "" for an image on its own.
        roles: the part that the data set's layout put each image in: "train", "unlabelled", "valid", "test".
    """

    files: tuple[str, ...]
    hashes: Hashes
    groups: tuple[str, ...]
    roles: tuple[str, ...]

    def select(self, chosen: npt.NDArray[np.int64]) -> Rows:
        """Some of the rows, in the order of `chosen`."""
        return Rows(
            tuple(self.files[i] for i in chosen),
            self.hashes[chosen],
            tuple(self.groups[i] for i in chosen),
            tuple(self.roles[i] for i in chosen),
        )


@dataclass
class Facts:
    """What is told and recorded of a part, beside its rows; stored with it as JSON.

    Attributes:
        notes: sentences for the user.
        skipped: damaged files that were left out, path and sha256.
        membership: the record of the held-out test images; None where there is a test part.
        held_out: of these, the number of images of each class that are there.
        copies_left_out: unlabelled images that are copies of test images, or of their group.
        bits: of grey images with more than 8 bits.
    """

    notes: list[str] = field(default_factory=list)
    skipped: list[list[str]] = field(default_factory=list)
    membership: dict[str, Any] | None = None
    held_out: list[int] = field(default_factory=list)
    copies_left_out: int = 0
    bits: int = 16

    def text(self) -> str:
        """As JSON."""
        return json.dumps(vars(self), sort_keys=True)

    @staticmethod
    def of(text: str) -> Facts:
        """From what `text` gave."""
        return Facts(**json.loads(text))


@dataclass(frozen=True, eq=False)
class Part:
    """One decoded part of a dataset: images (N, S, S, 3) and labels (N,), both read-only.

    `rows` and `facts` (plain data that is stored with the part) are there for images that came from files.
    """

    images: Images
    labels: Labels
    classes: tuple[str, ...]
    fingerprint: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rows: Rows | None = None
    facts: str = "{}"


def make_part(
    images: Images, labels: Labels, classes: tuple[str, ...], rows: Rows | None = None, facts: str = "{}"
) -> Part:
    """A Part with its fingerprint and its statistics per channel, of pixel / 255.

    `images` may be a map of a file: it is read block by block and never held in memory as a whole.
    """
    if not isinstance(images, np.memmap):
        images = np.ascontiguousarray(images, dtype=np.uint8)
    labels = np.ascontiguousarray(labels, dtype=np.int64)
    images.setflags(write=False)
    labels.setflags(write=False)
    with ThreadPoolExecutor(1) as pool:  # both leave the interpreter's lock to each other
        statistics = pool.submit(_statistics, images)
        fingerprint = fingerprint_of(images, labels, classes)
        mean, std = statistics.result()
    return Part(images, labels, classes, fingerprint, mean, std, rows, facts)


def fingerprint_of(images: Images, labels: Labels, classes: tuple[str, ...]) -> str:
    """sha256 (hex) over shape, class names, pixels and labels."""
    digest = hashlib.sha256(json.dumps([images.shape, classes]).encode())
    for block in blocks_of(images):
        digest.update(block.data.cast("B"))
    digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()


def blocks_of(images: Images) -> Iterator[Images]:
    """Consecutive images, a few megabytes at a time."""
    count = max(1, _BLOCK_BYTES // max(1, images[:1].nbytes))
    for start in range(0, len(images), count):
        yield images[start : start + count]


def _statistics(images: Images) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    # Counted in whole numbers, so the result does not depend on the order of a floating-point sum.
    totals, squares_of = np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64)
    for block in blocks_of(images):
        lines = block.reshape(-1, block.shape[2] * 3)
        for start in range(0, len(lines), _LINES):
            part = lines[start : start + _LINES]
            totals += _by_channel(part)
            squares_of += _by_channel(np.multiply(part, part, dtype=np.uint16))
    pixels = images.size // 3
    mean, std = [], []
    for channel in range(3):
        total, squares = int(totals[channel]), int(squares_of[channel])
        mean.append(total / pixels / 255)
        variance = (pixels * squares - total**2) / pixels**2
        # At least one grey level: a constant channel normalises to 0 instead of NaN.
        std.append(max(float(np.sqrt(variance)), 1.0) / 255)
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def _by_channel(lines: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Sums of each channel of lines of pixels, (n, 3 * width), n at most _LINES: (3,)."""
    columns = lines.sum(axis=0, dtype=np.uint32)
    sums: npt.NDArray[np.int64] = columns.reshape(-1, 3).sum(axis=0, dtype=np.int64)
    return sums


def hashes_of_images(images: Images) -> Hashes:
    """(N, 16) uint8: hashes that tell the images of one array, or of several of one size, apart."""
    digests = [hashlib.sha256(np.ascontiguousarray(image).data).digest()[:16] for image in images]
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 16)
