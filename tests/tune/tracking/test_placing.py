"""A study's run lies below that of its comparison, whichever of the two logs is delivered first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tune.tracked import Home, tracked_home
from tune.delivery.sender import deliver
from tune.tracking.opening import ABOVE, BELOW


@pytest.mark.parametrize("first", ["study", "comparison"])
@pytest.mark.parametrize("ended", [False, True])
def test_either_of_the_two_may_be_delivered_first(
    tmp_path: Path, migrated_store: Path, first: str, ended: bool
) -> None:
    study = tracked_home(tmp_path / "home", migrated_store)
    comparison = Home(study.path, study.store, study="which")
    tracker, above = study.tracker(), comparison.tracker()
    tracker.study_started({}, "study: s\n")
    above.comparison_started({}, "comparison: which\n")
    study.log.set_meta(ABOVE, f"{comparison.log.get_meta('study_id')}:which")
    comparison.log.set_meta(BELOW, json.dumps([f"{study.log.get_meta('study_id')}:s"]))
    if ended:  # what follows the first delivery is the other's alone
        tracker.study_ended("finished", {})
        above.study_ended("finished", {})
    for home in (study, comparison) if first == "study" else (comparison, study):
        assert deliver(home.study, 30) == 0
    runs = study.runs()
    assert runs["s"].data.tags["mlflow.parentRunId"] == runs["which"].info.run_id
    assert "mlflow.parentRunId" not in runs["which"].data.tags
    assert study.log.dead() == comparison.log.dead() == []
