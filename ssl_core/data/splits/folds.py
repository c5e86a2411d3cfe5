"""Further divisions of the images that a split labels and validates on: the folds of `data.fold`.

Few labels give few validation images, and an error on them says little. Each fold divides the same images anew, so that
a configuration can be measured on more of them without another label.
"""

from __future__ import annotations

import numpy as np

from ssl_core.data.part import Indices
from ssl_core.data.splits.balanced import Split, random_order, split_from
from ssl_core.data.splits.drawing import Wanted, held_out_units
from ssl_core.data.splits.units import units_of
from ssl_core.data.types import Dataset
from ssl_core.system.errors import ConfigError


def folded(data: Dataset, split: Split, wanted: Wanted, fold: int) -> Split:
    """The split of a fold: which of a split's labelled and validation images are labelled, drawn anew by class.

    Images that have validated least often in the folds before come first, in a random order of the fold's own. So with
    as many validation as labelled images fold 1 swaps the two, and with a fifth of the images for validation five folds
    are those of a five-fold cross-validation. The draw depends on the split, its seeds and the fold alone.

    The numbers of each class stay. Where images are tied together (copies, groups) they stay as near as these allow.
    The unlabelled images are all others and the labelled ones, less those tied to validation images, as in the split
    itself. Test images are no part of it.

    Args:
        data: the training images.
        split: fold 0.
        wanted: what it was drawn for; its seeds are used.
        fold: from 0; 0 is the split itself.

    Raises:
        ConfigError: the data set brings validation images of its own, or a class cannot be divided.
    """
    if fold == 0:
        return split
    check_folds(data)
    rows, count = data.rows, len(data.labels)
    units = np.arange(count, dtype=np.int64) if rows is None else units_of(rows.hashes, rows.groups)
    pool = np.sort(np.concatenate([split.labelled, split.valid]))
    members = [pool[data.labels[pool] == c] for c in range(data.num_classes)]
    counts = np.bincount(data.labels[split.valid], minlength=data.num_classes).tolist()
    times, taken = np.zeros(count, dtype=np.int64), units[split.valid]
    for each in range(1, fold + 1):
        times[pool] += np.isin(units[pool], taken)
        orders = [_order(m, times, f"split/fold/{_seeds(wanted)}/{each}/{c}") for c, m in enumerate(members)]
        taken = held_out_units(units, orders, counts, lambda c: _torn(data, c))
    with_valid = np.isin(units, taken)
    unlabelled = np.flatnonzero(~with_valid).astype(np.int64)
    return split_from(pool[~with_valid[pool]], pool[with_valid[pool]], unlabelled, data.fingerprint)


def check_folds(data: Dataset) -> None:
    """Refuse folds of images whose validation part the user chose.

    Those images may be of another origin or checked with more care, and whoever set them apart does not expect that a
    model trains on them.

    Raises:
        ConfigError: the data set brings validation images of its own.
    """
    if data.rows is not None and "valid" in data.rows.roles:
        raise ConfigError(
            f"{data.name!r} brings validation images of its own, and folds would train on them. Put them among the "
            "labelled images in train/ (of a table: leave `split` empty), or leave out --folds and data.fold."
        )


def _seeds(wanted: Wanted) -> str:
    return f"{wanted.split_seed}/{wanted.label_seed}"


def _order(members: Indices, times: Indices, stream: str) -> Indices:
    """Images of a class in a random order, those first that have validated least often."""
    order = members[random_order(len(members), stream)]
    return order[np.argsort(times[order], kind="stable")]


def _torn(data: Dataset, c: int) -> str:
    return (
        f"class {data.classes[c]!r} of {data.name!r} cannot be divided anew: its labelled and validation images are "
        "one group that must stay together. Label more images of it, or leave out --folds and data.fold."
    )
