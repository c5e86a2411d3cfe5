"""The benchmarks of what the service costs run, small, on the real service; no time is asserted."""

from __future__ import annotations

import math

import pytest

from benchmarks import overhead, tracking

pytestmark = pytest.mark.long


@pytest.mark.parametrize("bare", [True, False])
def test_overhead_tells_what_a_trial_costs_apart_from_starts_and_deliveries(
    bare: bool, local_ray: None
) -> None:
    row = overhead.measure(bare=bare, trials=12)
    assert row["seconds_a_trial"] == row["seconds"] / 12
    assert all(math.isfinite(row[name]) and row[name] > 0 for name in ("steady", "first", "after"))
    assert row["first"] + row["after"] < row["seconds"] and 2 * row["steady"] < row["seconds"]


def test_tracking_compares_rounds_with_those_without(local_ray: None) -> None:
    words = ["reports", "--trials", "2", "--reports", "3", "--rounds", "1", "--backends", "sqlite"]
    found = tracking.studies(tracking.options_of(words))
    (mine,), (off,) = found["sqlite"]["study"], found["off"]["study"]
    assert found["sqlite"]["study_median_ratio"] == mine / off
    assert found["off"]["study_ratios"] == [1.0]
    assert found["sqlite"]["delivered"][0] > 0
