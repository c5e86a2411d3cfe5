"""What is looked at of test images before anything is trained: whether each can be decoded, and is no training image.

Their pixels are not kept, no network sees them, and nothing but these two facts comes out.
"""

from __future__ import annotations

import numpy as np

from ssl_core.data.assembly import damaged_message
from ssl_core.data.datasets import listing_of
from ssl_core.data.decoding.stream import Progress, examine_files
from ssl_core.data.inspecting.overlaps import check_leak
from ssl_core.data.options import Options
from ssl_core.data.part import Rows
from ssl_core.data.types import Dataset, TestSet
from ssl_core.system.errors import ConfigError


def check_test_images(
    data: Dataset, options: Options, *, allow_leak: bool = False, progress: Progress | None = None
) -> list[str]:
    """Find damaged test images, and a test set that is in the training set, before they cost a search.

    Test images that are held out of train/ were decoded with it, and their copies share their part; data sets
    that come as arrays are what they are. So only the files of a test part are looked at.

    Args:
        data: the training images, as `load_train` gives them.
        options: how its files are read.
        allow_leak: whether a test set that is in the training set is accepted (`data.allow_leak`).
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
    examined = examine_files(listing.root, files.names, progress)
    if examined.damaged:
        damaged = [bad for _, bad in sorted(examined.damaged.items())]
        raise ConfigError(damaged_message(listing.what, damaged, len(files.names), True, False))
    rows = Rows(files.names, examined.hashes, files.groups, ("test",) * len(files.names))
    nothing = np.zeros((0, data.image_size, data.image_size, 3), dtype=np.uint8)
    told = check_leak(data, TestSet(nothing, files.labels, rows), allow=allow_leak)
    return [] if told is None else [told]
