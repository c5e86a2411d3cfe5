"""What a data set is, as values: before its images are decoded, its training images, its test images.

N: images, S: side in pixels, C: classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from ssl_core.data.part import UNLABELLED, Facts, Rows

Protocol = Literal["real", "simulated"]


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a dataset without decoding its images.

    Attributes:
        name: as given.
        classes: class names, in the order of the labels.
        train_per_class: labelled images of train/ of each class; where there is no test part, the images that
            will be held out of them are included.
        image_size: side in pixels after resizing; None where a folder has to be decoded to know.
        default_network: the network used unless another is asked for.
        default_labels: labelled images used unless told otherwise; None: must be told, or where there are
            images without a label, all.
        flip: whether a mirrored image keeps its label.
        unlabelled: training images without a label.
        valid_per_class: validation images of the data set's own of each class; None: it has none.
        test_per_class: test images of each class; None: it has none, and a share is held out.
        is_plain: see `Dataset.is_plain`.
    """

    name: str
    classes: tuple[str, ...]
    train_per_class: tuple[int, ...]
    image_size: int | None
    default_network: str
    default_labels: int | None
    flip: bool
    unlabelled: int = 0
    valid_per_class: tuple[int, ...] | None = None
    test_per_class: tuple[int, ...] | None = None
    is_plain: bool = True

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    @property
    def protocol(self) -> Protocol:
        """Real: there are images without a label. Simulated: labels beyond the wanted number are hidden."""
        return "real" if self.unlabelled else "simulated"


@dataclass(frozen=True, eq=False)
class Dataset:
    """The training images.

    Attributes:
        name: as given.
        images: (N, S, S, 3) uint8, read-only; a `np.memmap` where it comes from the cache.
        labels: (N,) int64, read-only; -1 for an image without a label.
        classes: class names, in the order of the labels.
        fingerprint: sha256 (hex) over shape, pixels, labels and class names.
        mean: of each channel over all training pixels, of pixel / 255.
        std: likewise; at least 1/255, so that a constant channel can be divided by it.
        flip: whether a mirrored image keeps its label.
        rows: file, hash, group and part of each image; None where the images come as arrays.
        facts: what was said and recorded when the files were read.
        is_plain: whether `draw_split` is its split: every image has a label, none a group, and the data set
            brings test images but no validation images of its own.
    """

    name: str
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    fingerprint: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    flip: bool
    rows: Rows | None = None
    facts: Facts = field(default_factory=Facts)
    is_plain: bool = True

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    @property
    def image_size(self) -> int:
        """The side of the square images, in pixels."""
        return int(self.images.shape[1])

    @property
    def protocol(self) -> Protocol:
        """See `DatasetInfo.protocol`."""
        return "real" if (self.labels == UNLABELLED).any() else "simulated"


@dataclass(frozen=True, eq=False)
class TestSet:
    """The test images: (N, S, S, 3) uint8, and their labels: (N,) int64; both read-only.

    `rows`: file, hash and group of each; None where the images come as arrays.
    """

    __test__: ClassVar[bool] = False  # its name makes pytest take it for tests

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    rows: Rows | None = None
