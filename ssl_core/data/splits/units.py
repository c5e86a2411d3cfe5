"""Which images belong together: copies of one picture, and images of one group (a patient, a plate, a video)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ssl_core.data.part import Hashes, Indices


def units_of(hashes: Hashes, groups: Sequence[str]) -> Indices:
    """The unit of each of N images, (N,) int64: the lowest index of the images that it must share a part with.

    Two images share a unit if their pixels are equal, if they are of one group, or if a chain of such pairs
    joins them.

    Args:
        hashes: (N, 16) uint8, of the pixels.
        groups: names, "" for an image on its own.
    """
    parents = np.arange(len(hashes), dtype=np.int64)

    def root(i: int) -> int:
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = int(parents[i])
        return i

    for first, other in _pairs(hashes, groups):
        a, b = sorted((root(first), root(other)))
        parents[b] = a
    while True:  # every index points to its root after a few doublings
        higher = parents[parents]
        if np.array_equal(higher, parents):
            return parents
        parents = higher


def _pairs(hashes: Hashes, groups: Sequence[str]) -> list[tuple[int, int]]:
    """(first, other) for every image that repeats the pixels or the group of an earlier one."""
    pairs = []
    if len(hashes):
        keys = np.ascontiguousarray(hashes).view("V16").ravel()
        _, firsts, inverse = np.unique(keys, return_index=True, return_inverse=True)
        earliest = firsts[inverse]
        pairs = [(int(earliest[i]), int(i)) for i in np.flatnonzero(earliest != np.arange(len(hashes)))]
    seen: dict[str, int] = {}
    for index, group in enumerate(groups):
        if group and seen.setdefault(group, index) != index:
            pairs.append((seen[group], index))
    return pairs
