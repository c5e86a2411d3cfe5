"""Hashes of image files that were examined once, kept in the cache: the next command need not decode them again.

CACHE/<key>/hashes.npy, where the key says which files they are, how large, and when they were written. N: files.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np

from ssl_core.data.decoding.headers import Unreadable
from ssl_core.data.decoding.stream import Progress, examine_files
from ssl_core.data.layouts.listing import Listing
from ssl_core.data.part import Hashes
from ssl_core.data.source import DECODING, identity_of, key_of
from ssl_core.system.files import write_atomically

FILE = "hashes.npy"
_DIGEST_BYTES = 16


def hashes_of_files(
    listing: Listing, part: str, cache: Path | None, progress: Progress | None = None
) -> tuple[Hashes, list[Unreadable]]:
    """Hashes of the pixels of a part's files, and the files that cannot be decoded, in the order of the files.

    What is damaged is not kept: it is looked at again, and may have been replaced.

    Args:
        listing: the data set's files.
        part: which of its parts.
        cache: folder of decoded images; None: nothing is kept.
        progress: told how far it is; not called where the hashes are known.

    Returns:
        (N, 16) uint8, rows of damaged files zero; and these files.

    Raises:
        ConfigError: a file is gone.
    """
    if cache is None:
        return _examined(listing, part, progress)
    entry = cache / key_of(["hashes", str(listing.root), part, DECODING, identity_of(listing, part)])
    found = _read(entry / FILE, len(listing.parts[part].names))
    if found is not None:
        return found, []
    hashes, damaged = _examined(listing, part, progress)
    if not damaged:
        with contextlib.suppress(OSError):  # it costs time the next time, nothing else
            entry.mkdir(parents=True, exist_ok=True)
            data = io.BytesIO()
            np.save(data, hashes, allow_pickle=False)
            write_atomically(entry / FILE, data.getvalue())
    return hashes, damaged


def _examined(listing: Listing, part: str, progress: Progress | None) -> tuple[Hashes, list[Unreadable]]:
    examined = examine_files(listing.root, listing.parts[part].names, progress)
    return examined.hashes, [bad for _, bad in sorted(examined.damaged.items())]


def _read(path: Path, count: int) -> Hashes | None:
    """The stored hashes; None where they are missing, or are not that many."""
    try:
        hashes: Hashes = np.load(path, allow_pickle=False)
    except (OSError, EOFError, ValueError):
        return None
    is_whole = hashes.shape == (count, _DIGEST_BYTES) and hashes.dtype == np.uint8
    return hashes if is_whole else None
