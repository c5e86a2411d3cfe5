"""What belongs together, against a slow search."""

from __future__ import annotations

import numpy as np
import pytest

from ssl_core.data.splits.units import units_of


def slow_units(pictures: list[int], groups: list[str]) -> list[int]:
    """Spread the lowest index over equal pictures and groups until nothing changes."""
    units = list(range(len(pictures)))
    while True:
        before = list(units)
        for i in range(len(units)):
            for j in range(len(units)):
                if pictures[i] == pictures[j] or (groups[i] and groups[i] == groups[j]):
                    units[i] = units[j] = min(units[i], units[j])
        if units == before:
            return units


def hashes(pictures: list[int]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    found = np.zeros((len(pictures), 16), dtype=np.uint8)
    found[:, 15] = pictures  # they differ in the last byte alone
    return found


@pytest.mark.parametrize("seed", range(20))
def test_units_are_those_of_a_slow_search(seed: int) -> None:
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 30))
    pictures = random.integers(0, 40, count).tolist()
    groups = [["", "", "p", "q", "r", "s"][k] for k in random.integers(0, 6, count)]
    assert units_of(hashes(pictures), groups).tolist() == slow_units(pictures, groups)


def test_a_chain_is_one_unit() -> None:
    # Copies join two patients, and a long chain of groups is followed to its end.
    pictures = [k // 2 for k in range(1, 101)]
    groups = [f"g{k // 2}" for k in range(100)]
    assert set(units_of(hashes(pictures), groups).tolist()) == {0}


def test_nothing_is_tied_by_an_empty_group() -> None:
    assert units_of(hashes([1, 2, 3]), ["", "", ""]).tolist() == [0, 1, 2]
    assert units_of(hashes([]), []).tolist() == []
