"""The split of the training images into labelled, validation and unlabelled ones.

All images have labels here, and each class gives equal numbers: the split of the simulated protocol.
`ssl_core.data.splits.drawing` serves everything else. N: images, C: classes.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ssl_core.data.part import Indices
from ssl_core.data.types import DatasetInfo
from ssl_core.system.errors import ConfigError


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
        warn_of_large_validation(valid, labelled)


def warn_of_large_validation(valid: int, labelled: int) -> None:
    """Warn, on behalf of the caller's caller."""
    warnings.warn(
        f"the validation set ({valid} images) is larger than the labelled set ({labelled}): whoever had "
        f"so many labels would train on them, so results chosen with it are unrealistically good.",
        UserWarning,
        stacklevel=3,
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
        valid_order = random_order(len(members), f"split/valid/{split_seed}/{c}")
        label_order = random_order(len(members), f"split/labelled/{label_seed}/{c}")
        taken = valid_order[: valid // num_classes]
        rest = label_order[~np.isin(label_order, taken)]
        valid_parts.append(members[taken])
        labelled_parts.append(members[rest[: labelled // num_classes]])
    labelled_indices = np.sort(np.concatenate(labelled_parts)).astype(np.int64)
    valid_indices = np.sort(np.concatenate(valid_parts)).astype(np.int64)
    unlabelled = np.setdiff1d(np.arange(len(labels), dtype=np.int64), valid_indices)

    return split_from(labelled_indices, valid_indices, unlabelled, fingerprint)


def random_order(count: int, stream: str) -> npt.NDArray[np.int64]:
    """A permutation of 0..count-1, a function of the stream's name alone."""
    seed = int.from_bytes(hashlib.sha256(stream.encode()).digest()[:16], "big")
    # Raw PCG64 output is the same in every numpy version; Generator.permutation makes no such promise.
    raw = np.random.PCG64(seed).random_raw(count)
    return np.argsort(raw, kind="stable").astype(np.int64)


def split_from(labelled: Indices, valid: Indices, unlabelled: Indices, fingerprint: str) -> Split:
    """A Split with its hash; the indices are sorted."""
    digest = hashlib.sha256(fingerprint.encode())
    for part, indices in (("labelled", labelled), ("valid", valid), ("unlabelled", unlabelled)):
        digest.update(f"/{part}:{len(indices)}:".encode())  # lengths, so that arrays cannot run together
        digest.update(indices.astype("<i8").tobytes())
    return Split(labelled, valid, unlabelled, digest.hexdigest()[:16])


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
