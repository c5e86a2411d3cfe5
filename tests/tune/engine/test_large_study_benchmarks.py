"""The benchmarks of large studies measure what they say."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks import asks, commits
from benchmarks.bounded_view import ALL, searches
from benchmarks.record_curves import read_curves
from benchmarks.scale import Simulation
from benchmarks.stock_search import Recorded
from tests.tune.helpers import make_spec
from tune.store.home import Home
from tune.trials import sampling


def test_three_ways_to_ask_have_the_same_points(home: Home) -> None:
    spec = make_spec(home, startup_trials=3)
    trials = asks.trials_of(spec, 80)
    points = [asks.measure(spec, trials, way)[1] for way in asks.WAYS]
    assert len(points) == 3 and points[0] == points[1] == points[2]
    assert len({tuple(point.values()) for point in points[0]}) == asks.ASKS


def test_a_bound_changes_a_search_that_is_longer_and_no_other() -> None:
    before = sampling.BEST, sampling.NEWEST
    recorded = Recorded(read_curves())
    found = [searches(recorded, bound, 1, [540])[0] for bound in ((ALL, ALL), (100, 2000), (1, 1))]
    assert found[0] == found[1] != found[2]
    assert before == (sampling.BEST, sampling.NEWEST) == (100, 2000)


def test_commits_of_a_study_are_measured_both_ways(home: Home, tmp_path: Path) -> None:
    Simulation(home, trials=6, workers=2, epochs=4).run(60)
    copy = tmp_path / "copy"
    shutil.copytree(home.path, copy)
    whole = commits.measure(home.path, whole=True)
    parts = commits.measure(copy, whole=False)  # small: one object as well
    assert whole["trials"] == parts["trials"] == 6 + commits.COMMITS + 1
    assert abs(whole["kilobytes"] - parts["kilobytes"]) < 5 and whole["kilobytes"] > 1
