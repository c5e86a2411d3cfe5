"""A look at a data set before anything runs: what it holds, what is wrong with it, how it will be split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core.data import assembly
from ssl_core.data.assembly import Pool
from ssl_core.data.datasets import describe, listing_of, load_test, load_train
from ssl_core.data.decoding.headers import Survey, Unreadable, shape_of
from ssl_core.data.decoding.stream import Decoded, Examined, Progress, examine_files
from ssl_core.data.inspecting.overlaps import MAX_LEAK, Overlaps, overlaps_of
from ssl_core.data.layouts.listing import Listing, left_out_sentence, shown
from ssl_core.data.options import Options
from ssl_core.data.part import UNLABELLED, Facts, Labels, Rows, hashes_of_images
from ssl_core.data.splits.drawing import Wanted, split_for
from ssl_core.data.splits.holdout import Membership
from ssl_core.data.types import Dataset, DatasetInfo
from ssl_core.system.errors import ConfigError, counted

_PARTS = ("train", "unlabelled", "valid", "test")
_SHOWN = 10


@dataclass
class Inspection:
    """What is known of a data set once every file was decoded.

    Attributes:
        name: as given.
        protocol: "real" or "simulated" (`ssl_core.data.types.DatasetInfo.protocol`).
        classes: names, in the order of the labels.
        counts: images of each class, by part; of the unlabelled part one number.
        image_size: side in pixels that the network will see; None: no image could be read.
        sizes: [width, height, images], the most frequent first.
        kinds: format and kind of pixels, with the number of images.
        damaged: {"count", "files": the first ten, each with its error}.
        duplicates: what `Overlaps` counts.
        left_out: for each reason {"count", "example"}.
        bytes_in_memory: of the decoded training images, also on the device.
        bytes_on_disk: of the cache of all parts.
        split: images of each part that would be drawn, by class; None: it cannot be drawn, see `problems`.
        notes: what was decided, one sentence each.
        warnings: what the user should look at.
        problems: what a search would be refused for.
    """

    name: str
    protocol: str
    classes: list[str]
    counts: dict[str, Any]
    image_size: int | None = None
    sizes: list[list[int]] = field(default_factory=list)
    kinds: dict[str, int] = field(default_factory=dict)
    damaged: dict[str, Any] = field(default_factory=lambda: {"count": 0, "files": []})
    duplicates: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, dict[str, Any]] = field(default_factory=dict)
    bytes_in_memory: int = 0
    bytes_on_disk: int = 0
    split: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def glance(name: str, options: Options | None = None) -> list[str]:
    """Warnings that need no image to be decoded: the cheap part of `inspect`.

    Raises:
        ConfigError: as for `describe`.
    """
    info, listing = describe(name, options=options), listing_of(name, options)
    told = _missing_classes(info)
    if listing is not None:
        sentence = left_out_sentence(listing.left_out)
        told += [*listing.notes, *([sentence] if sentence else [])]
    return told


def inspect(
    name: str,
    *,
    root: Path | None = None,
    cache: Path | None = None,
    options: Options | None = None,
    wanted: Wanted | None = None,
    membership: Membership | None = None,
    allow_leak: bool = False,
    progress: Progress | None = None,
) -> Inspection:
    """Look at every file of a data set.

    Nothing is written for folders and tables. Damaged files, classes that are too small and the like are
    reported, not raised.

    Args:
        name, root, cache, options, membership, progress: as for `ssl_core.data.datasets.load_train`.
        wanted: the numbers of the split; None: the data set's defaults.
        allow_leak: whether a test set that is in the training set is accepted.

    Raises:
        ConfigError: as for `describe`.
    """
    options = options or Options()
    info = describe(name, root=root, options=options)
    wanted = wanted or Wanted()
    if wanted.labelled is None:
        wanted = replace(wanted, labelled=info.default_labels)
    found = Inspection(name, info.protocol, list(info.classes), _counts(info))
    found.warnings += _missing_classes(info)
    listing = listing_of(name, options)
    if listing is None:
        _look_at_arrays(found, root, cache, options, wanted)
    else:
        _look_at_files(found, listing, options, wanted, membership, allow_leak, progress)
    return found


def _counts(info: DatasetInfo) -> dict[str, Any]:
    counts: dict[str, Any] = {"train": list(info.train_per_class), "unlabelled": info.unlabelled}
    for part, per_class in (("valid", info.valid_per_class), ("test", info.test_per_class)):
        if per_class is not None:
            counts[part] = list(per_class)
    return counts


def _missing_classes(info: DatasetInfo) -> list[str]:
    told = []
    for part, per_class in (("valid", info.valid_per_class), ("test", info.test_per_class)):
        missing = [name for name, count in zip(info.classes, per_class or (), strict=False) if not count]
        if missing:
            told.append(f"{part} has no image of {shown(missing)}: its error says nothing about such images.")
    return told


def _look_at_arrays(
    found: Inspection, root: Path | None, cache: Path | None, options: Options, wanted: Wanted
) -> None:
    train = load_train(found.name, root=root, cache=cache, options=options)
    test = load_test(found.name, root=root, cache=cache, options=options)
    found.counts["test"] = np.bincount(test.labels, minlength=len(found.classes)).tolist()
    found.image_size = train.image_size
    found.sizes = [[train.image_size, train.image_size, len(train.labels) + len(test.labels)]]
    hashes = np.concatenate([hashes_of_images(train.images), hashes_of_images(test.images)])
    labels = np.concatenate([train.labels, test.labels])
    roles = ["unlabelled" if label == UNLABELLED else "train" for label in train.labels.tolist()]
    roles += ["test"] * len(test.labels)
    names = [f"{role}/{index}" for index, role in enumerate(roles)]
    _tell_overlaps(found, overlaps_of(hashes, roles, labels, names))
    found.bytes_in_memory = train.images.nbytes
    found.bytes_on_disk = train.images.nbytes + test.images.nbytes
    _tell_split(found, train, wanted, found.counts["test"])


def _look_at_files(
    found: Inspection,
    listing: Listing,
    options: Options,
    wanted: Wanted,
    membership: Membership | None,
    allow_leak: bool,
    progress: Progress | None,
) -> None:
    parts = [part for part in _PARTS if part in listing.parts]
    names = [name for part in parts for name in listing.parts[part].names]
    roles = [part for part in parts for _ in listing.parts[part].names]
    groups = [group for part in parts for group in listing.parts[part].groups]
    labels = np.concatenate([listing.parts[part].labels for part in parts])
    examined = examine_files(listing.root, names, progress)
    rows = Rows(tuple(names), examined.hashes, tuple(groups), tuple(roles))
    _tell_files(found, examined.survey, listing)
    _tell_damaged(found, examined, roles, options)
    kept = np.setdiff1d(np.arange(len(names)), list(examined.damaged)).astype(np.int64)
    present = rows.select(kept)
    overlaps = overlaps_of(present.hashes, present.roles, labels[kept], present.files)
    _tell_overlaps(found, overlaps)
    _tell_leak(found, overlaps, present.roles.count("test"), allow_leak)
    is_training = np.asarray([roles[i] != "test" for i in kept], dtype=bool)
    _tell_size(found, listing, examined.survey, names, roles, options)
    pool = Pool(
        Decoded(np.zeros((0, 8, 8, 3), dtype=np.uint8), examined.hashes),
        kept[is_training],
        labels,
        rows,
        Facts(notes=list(listing.notes)),
    )
    test_hashes = examined.hashes[kept[~is_training]] if listing.is_real else None
    try:
        chosen, held = assembly.select(listing, options, pool, test_hashes, membership)
    except ConfigError as error:
        found.problems.append(str(error))
        return
    found.notes += pool.facts.notes
    test_labels = labels[kept[~is_training]] if held is None else labels[held]
    side = found.image_size or 0
    found.bytes_in_memory = len(chosen) * side * side * 3
    found.bytes_on_disk = (len(chosen) + len(test_labels)) * side * side * 3
    data = _without_pixels(found, listing, labels[chosen], rows.select(chosen))
    _tell_split(found, data, wanted, np.bincount(test_labels, minlength=len(found.classes)).tolist())


def _without_pixels(found: Inspection, listing: Listing, labels: Labels, rows: Rows) -> Dataset:
    images = np.zeros((0, found.image_size or 8, found.image_size or 8, 3), dtype=np.uint8)
    zero = (0.0, 0.0, 0.0)
    return Dataset(
        found.name, images, labels, listing.classes, "", zero, zero, True, rows, is_plain=listing.is_plain
    )


def _tell_files(found: Inspection, surveyed: Survey, listing: Listing) -> None:
    found.sizes = [[*size, number] for size, number in surveyed.sizes().most_common(_SHOWN)]
    found.kinds = dict(surveyed.kinds().most_common())
    found.left_out = {
        reason: {"count": len(names), "example": names[0]} for reason, names in listing.left_out.items()
    }


def _tell_damaged(found: Inspection, examined: Examined, roles: Sequence[str], options: Options) -> None:
    damaged: list[Unreadable] = list(dict(sorted(examined.damaged.items())).values())
    if not damaged:
        return
    found.damaged = {
        "count": len(damaged),
        "files": [{"file": bad.file, "error": bad.error} for bad in damaged[:_SHOWN]],
    }
    said = (
        f"{counted(len(damaged), 'file')} cannot be read: {shown([bad.file for bad in damaged], width=80)}."
    )
    sealed = [roles[index] for index in examined.damaged if roles[index] in ("valid", "test")]
    if sealed:
        found.problems.append(f"{said} Damaged validation and test images are never skipped: replace them.")
    elif options.on_damaged == "refuse":
        found.problems.append(f"{said} Replace or remove them, or leave them out with data.on_damaged: skip.")
    else:
        found.warnings.append(f"{said} They are skipped.")


def _tell_overlaps(found: Inspection, overlaps: Overlaps) -> None:
    found.duplicates = {
        "within": overlaps.within,
        "between": [list(one) for one in overlaps.between],
        "in_two_classes": overlaps.in_two_classes,
        "examples": {kind: list(pair) for kind, pair in overlaps.examples.items()},
    }
    found.warnings += overlaps.sentences()


def _tell_leak(found: Inspection, overlaps: Overlaps, test_images: int, allow: bool) -> None:
    # Unlabelled copies of test images leave the training set, so they are no leak.
    leaked = max(
        (n for first, second, n in overlaps.between if second == "test" and first != "unlabelled"), default=0
    )
    if leaked > MAX_LEAK * test_images and not allow:
        found.problems.append(
            f"{leaked} of {counted(test_images, 'test image')} are in the training set too: the test error would "
            f"say little about new images. Remove them from one of the two, or accept it with "
            f"data.allow_leak: true."
        )


def _tell_size(
    found: Inspection,
    listing: Listing,
    surveyed: Survey,
    names: Sequence[str],
    roles: Sequence[str],
    options: Options,
) -> None:
    training = {name for name, role in zip(names, roles, strict=True) if role != "test"}
    headers = {name: header for name, header in surveyed.headers.items() if name in training}
    shape, notes = shape_of(listing.root, replace(surveyed, headers=headers), options)
    found.image_size = shape.side
    found.notes += notes


def _tell_split(found: Inspection, data: Dataset, wanted: Wanted, test: list[int]) -> None:
    """The split that would be drawn, in numbers; or why none can be."""
    if data.is_plain and wanted.labelled is None:
        found.notes.append(
            "every training image has a label: --labels N says how many keep it, and shows the split."
        )
        return
    try:
        drawn = split_for(data, wanted)
    except ConfigError as error:
        found.problems.append(str(error))
        return
    split, classes = drawn.split, len(found.classes)
    found.split = {
        "labelled": np.bincount(data.labels[split.labelled], minlength=classes).tolist(),
        "valid": np.bincount(data.labels[split.valid], minlength=classes).tolist(),
        "test": test,
        "unlabelled": len(split.unlabelled),
    }
    found.notes += drawn.notes
