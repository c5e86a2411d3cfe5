"""Datasets as uint8 arrays: what is known of them, their training images, and their test images.

`describe` tells what can be known without decoding an image, so that a command is checked before torch
is loaded: this file imports numpy alone. `load_test` is the only function that gives test images.

N: images, S: side in pixels, C: classes.
"""

from __future__ import annotations

from pathlib import Path

from ssl_core.data.builtin import BUILTIN
from ssl_core.data.decoding.stream import Progress
from ssl_core.data.layouts.listing import Listing
from ssl_core.data.options import Options
from ssl_core.data.part import Facts
from ssl_core.data.source import Source, check_held_out, listed, per_class, resolved, with_size
from ssl_core.data.splits.balanced import Split, check_counts, draw_split
from ssl_core.data.splits.holdout import Membership
from ssl_core.data.types import Dataset, DatasetInfo, TestSet

__all__ = [
    "Dataset",
    "DatasetInfo",
    "Split",
    "TestSet",
    "check_counts",
    "describe",
    "draw_split",
    "listing_of",
    "load_test",
    "load_train",
    "membership_of",
]

_NETWORK = "wrn-28-2"


def describe(
    name: str, *, root: Path | None = None, image_size: int | None = None, options: Options | None = None
) -> DatasetInfo:
    """What is known of a dataset without decoding images or loading torch.

    Args:
        name: "digits", "cifar10", "cifar100", "svhn", "stl10", "folder:PATH" ("~" is expanded) or "table:FILE".
        root: not needed to describe; accepted so that one set of arguments serves all three functions.
        image_size: side in pixels, 8 to 512, to which images are resized; None: their own.
        options: how files are read; its `image_size` is used where the argument is None.

    Raises:
        ConfigError: unknown dataset; image_size out of range; what `list_folder` or `list_table` refuse; a
            class with fewer images than parts that are drawn from it.
    """
    options = with_size(options, image_size)
    kind, path = resolved(name, root)
    if kind in ("folder", "table"):
        listing = listed(kind, path, options)
        train, valid, test = (per_class(listing, part) for part in ("train", "valid", "test"))
        assert train is not None
        if not listing.is_plain:  # else the counts that are asked for say how many are needed
            check_held_out(listing, train)
        unlabelled = len(listing.parts["unlabelled"].names) if listing.is_real else 0
        size, flip = options.image_size, options.flips(True)
        return DatasetInfo(
            name,
            listing.classes,
            train,
            size,
            _NETWORK,
            None,
            flip,
            unlabelled,
            valid,
            test,
            is_plain=listing.is_plain,
        )
    known = BUILTIN[name]
    return DatasetInfo(
        name,
        known.classes,
        known.train_per_class,
        options.image_size or known.side,
        known.network,
        known.labels,
        options.flips(known.flip),
        known.unlabelled,
        is_plain=not known.unlabelled,
    )


def listing_of(name: str, options: Options | None = None) -> Listing | None:
    """The files of a data set; None where its images come as arrays. No image is opened.

    Raises:
        ConfigError: as for `describe`.
    """
    kind, path = resolved(name, None)
    return listed(kind, path, options or Options()) if kind in ("folder", "table") else None


def load_train(
    name: str,
    *,
    root: Path | None = None,
    image_size: int | None = None,
    cache: Path | None = None,
    options: Options | None = None,
    membership: Membership | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """The training images; no test image file is opened, unless there are images without a label.

    Images without a label are compared with the test images, so that no copy of one is trained on. Where a
    folder has no test part, a share of its images is held out and is not among the training images.

    Args:
        name: as for `describe`.
        root: where downloaded data lies; None: $SSL_TUNE_DATA, else ./ssl-tune-data.
        image_size: side in pixels, 8 to 512, to which images are resized (bilinear); None: their own
            (digits: 16), or where they differ a default.
        cache: folder for decoded arrays, shared by the processes of a machine; None: decode into memory.
        options: how files are read; its `image_size` is used where the argument is None.
        membership: the record of test images that earlier studies held out of this data set.
        progress: told how far decoding is.

    Raises:
        ConfigError: as for `describe`; images that cannot be read (counted, ten of them named), unless they
            are left out; a download that failed.
    """
    part, is_plain = Source(name, root, image_size, cache, options, membership, progress).train()
    default = BUILTIN[name].flip if name in BUILTIN else True
    return Dataset(
        name=name,
        images=part.images,
        labels=part.labels,
        classes=part.classes,
        fingerprint=part.fingerprint,
        mean=part.mean,
        std=part.std,
        flip=(options or Options()).flips(default),
        rows=part.rows,
        facts=Facts.of(part.facts),
        is_plain=is_plain,
    )


def membership_of(data: Dataset) -> Membership | None:
    """The record of the test images that were held out of a data set; None where it brings its own."""
    return None if data.facts.membership is None else Membership.of(data.facts.membership)


def load_test(
    name: str,
    *,
    root: Path | None = None,
    image_size: int | None = None,
    cache: Path | None = None,
    options: Options | None = None,
    membership: Membership | None = None,
    progress: Progress | None = None,
) -> TestSet:
    """The test images. For final models only: no search, stopping rule or selection may call this.

    Args:
        name, root, image_size, cache, options, membership, progress: as for `load_train`. Without
            `image_size` test images get the training images' size.

    Raises:
        ConfigError: as for `load_train`; a class that is in the test part alone.
    """
    part = Source(name, root, image_size, cache, options, membership, progress).test()
    return TestSet(part.images, part.labels, part.rows)
