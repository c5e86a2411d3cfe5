"""A home that commit 389a1cb made is read, resumed, confirmed, reported and exported, after it was moved elsewhere.

`tests/tune/store/data/make_home.py` made it, and wrote down what that commit made of the interrupted studies.
"""

from __future__ import annotations

import json
import math
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from search_spaces import load_yaml
from ssl_core import __version__
from ssl_core.training import checkpoint
from tests.tune.helpers import Done, mlflow_runs, mlflow_steps, rewrite_paths
from tests.tune.store.data.make_home import NAME, TIMES, running_with_checkpoints
from tune.findings.study import Study, load_study
from tune.store.home import Home

Command = Callable[..., Done]
DATA = Path(__file__).parent / "data"
BEFORE: dict[str, Any] = json.loads((DATA / f"{NAME}.json").read_text())


ABSENT_AT_TIMES = ("ssl/pseudo_label_accuracy", "train/loss_unsupervised")
"""Beginnings of metrics that an epoch lacks where nothing was accepted."""
SINCE = ("val/error_balanced", "val/error_and_loss", "val/ece", "val/overconfidence", "time/seconds_saved")
"""Metrics that later versions measure in addition."""


@pytest.fixture(scope="module")
def moved(migrated_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The stored home at another place, with its absolute paths rewritten; MLflow's database is to be filled anew."""
    place = tmp_path_factory.mktemp("moved") / "there"
    with tarfile.open(DATA / f"{NAME}.tar.xz") as archive:
        archive.extractall(place, filter="data")
    rewrite_paths(place / "home", {BEFORE["place"]: str(place)})
    for folder in (place / "home" / "studies").glob("*/trials/*"):
        state = checkpoint.load_newest(folder)
        if state is not None:  # it refuses to go on with images of another path
            state["config"]["dataset"] = state["config"]["dataset"].replace(BEFORE["place"], str(place))
            checkpoint.save(folder, state["history"][-1]["epoch"], state)
    (place / "home" / "mlflow.db").write_bytes(migrated_store.read_bytes())
    return Home(place / "home")


@pytest.fixture(autouse=True)
def _at_home(moved: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_TUNE_HOME", str(moved.path))


def trials_of(study: Study) -> list[dict[str, Any]]:
    """Every trial as `make_home.trials` has it, less what was not measured then."""
    rows = [record.row() | {"params": record.params, "curves": []} for record in study.records()]
    for row in rows:
        del row["val_error_balanced"], row["val_error_and_loss"]
    for point in study.curves().to_dict("records"):
        measured = {name: value for name, value in point.items() if name not in (*TIMES, *SINCE, "trial")}
        curve = {name: value for name, value in measured.items() if value == value}
        rows[int(point["trial"])]["curves"].append(curve)
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def check_continued(
    found: list[dict[str, Any]], stored: list[dict[str, Any]], expected: list[dict[str, Any]]
) -> None:
    """What was there is there to the bit, and the rest has the form that the code of before gave it.

    Version 0.2.0 draws other crops, flips and strong views: what it trains has other bits than 0.1.0 would have made.
    """
    assert len(found) == len(expected)
    for mine, kept in zip(found, stored, strict=False):  # later trials were not there yet
        assert mine["params"] == kept["params"]
        assert mine["curves"][: len(kept["curves"])] == kept["curves"]
    for mine, theirs in zip(found, expected, strict=True):
        assert (
            mine["state"] in ("completed", "stopped_early")
            and mine["params"].keys() == theirs["params"].keys()
        )
        for point, recorded in zip(mine["curves"], theirs["curves"], strict=False):
            other = point.keys() ^ recorded.keys()
            assert all(name.startswith(ABSENT_AT_TIMES) for name in other) and math.isfinite(
                point["val/loss"]
            )


@pytest.mark.parametrize("name", ["finished", "confirmed", "killed", "own"])
def test_every_study_is_read_as_it_was_written(moved: Home, ssl_tune: Command, name: str) -> None:
    study = load_study(name)
    stored = BEFORE["stored"][name]
    assert trials_of(study) == stored  # what is stored does not depend on this machine
    status = ssl_tune("status", name, "--json").document
    waits = name in ("killed", "own")
    assert status["state"] == ("interrupted" if waits else "finished")
    assert status["dataset"] == f"folder:{moved.path.parent / 'images'}"
    listed = ssl_tune("trials", name, "--json").document
    assert [(row["trial"], row["state"]) for row in listed] == [
        (row["trial"], row["state"]) for row in stored
    ]
    assert ("running" in {row["state"] for row in listed}) == waits
    assert (f"ssl-tune resume {name}" in ssl_tune("status", name).out) == waits


def kept_histories(study: Study) -> Mapping[str, list[dict[str, Any]]]:
    """The epochs in each trial's newest checkpoint, with the seconds that they took."""
    found = {path.name: checkpoint.load_newest(path) for path in study.folder.trials.glob("*")}
    return {trial: state["history"] for trial, state in found.items() if state is not None}


@pytest.mark.parametrize(("name", "running"), [("killed", 2), ("own", 1)])
def test_an_interrupted_study_goes_on_and_says_that_another_version_began_it(
    moved: Home, local_ray: None, ssl_tune: Command, name: str, running: int
) -> None:
    study = load_study(name)
    assert running_with_checkpoints(study.folder.path) == running
    before = kept_histories(study)
    trust = ["--trust-method"] if name == "own" else []  # a method file that came from elsewhere
    done = ssl_tune("resume", name, *trust)
    assert done.code == 0, done
    after = load_study(name)
    assert after.status()["state"] == "finished" and after.status()["tracking"]["pending"] == 0
    assert f"{name} was begun with ssl-tune 0.1.0, and goes on with {__version__}" in done.err + done.out
    check_continued(trials_of(after), BEFORE["stored"][name], BEFORE["resumed"][name])
    # No epoch that had a checkpoint was trained again: even its seconds are the same.
    seconds = {
        (row["trial"], row["epoch"]): row["time/epoch_seconds"] for row in after.curves().to_dict("records")
    }
    assert len(before) == running
    for trial, history in before.items():
        for epoch in history:
            assert seconds[trial, epoch["epoch"]] == epoch["metrics"]["time/epoch_seconds"]
    runs = mlflow_runs(moved, name)
    for record in after.records():
        assert mlflow_steps(moved, runs[f"trial {record.trial}"]) == list(range(1, record.epoch + 1))


def test_a_confirmation_is_not_made_again(moved: Home, ssl_tune: Command) -> None:
    folder = moved.study_folder("confirmed")
    document = json.loads((folder / "confirm.json").read_text())
    kept = {path: path.read_bytes() for path in folder.glob("confirm/*/*/result.json")}
    readings = moved.test_readings.read_bytes()
    assert len(kept) == len(readings.splitlines()) == 4
    done = ssl_tune("confirm", "confirmed", "--seeds", 2, "--baseline", "plain", "--json")
    assert done.code == 0, done
    # What later versions say in addition stands beside what was there, and is empty where nothing is known of it.
    assert {name: done.document[name] for name in document if name != "rows"} == {
        name: value for name, value in document.items() if name != "rows"
    }
    for row, stored in zip(done.document["rows"], document["rows"], strict=True):
        assert {name: row[name] for name in stored} == stored
        assert row["val_error_balanced"] == row["test_error_balanced"] == []
    assert done.document["objective"] == "val/error" and done.document["redrawn"] == "labels"
    assert {path: path.read_bytes() for path in kept} == kept
    assert moved.test_readings.read_bytes() == readings


def test_a_study_is_confirmed_whose_trials_the_code_of_before_ran(
    moved: Home, local_ray: None, ssl_tune: Command
) -> None:
    done = ssl_tune("confirm", "finished", "--seeds", 1, "--baseline", "plain", "--json")
    assert done.code == 0, done
    best, baseline = done.document["rows"]
    assert best["who"] == load_study("finished").best()["trial"]  # type: ignore[index]
    assert baseline["method"] == "supervised" and len(best["test_error"]) == 1


@pytest.mark.parametrize("name", ["finished", "confirmed"])
def test_a_study_is_reported(moved: Home, ssl_tune: Command, tmp_path: Path, name: str) -> None:
    done = ssl_tune("report", name, "-o", tmp_path / "report.html", "--json")
    assert done.code == 0, done
    page = (tmp_path / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>") and f"<title>{name}</title>" in page


@pytest.mark.parametrize("name", ["finished", "confirmed", "own"])
def test_a_study_is_exported_and_its_configuration_runs_and_says_that_bits_may_differ(
    moved: Home, ssl_tune: Command, tmp_path: Path, name: str
) -> None:
    study = load_study(name)
    best = study.best()
    assert best is not None
    assert ssl_tune("export", name, "-o", tmp_path / "best.yaml").code == 0
    document = load_yaml((tmp_path / "best.yaml").read_text(), "best.yaml")
    assert document["expect"]["val_error"] == best["val_error"]
    trust = ["--trust-method"] if name == "own" else []  # a method file that came from elsewhere
    again = ssl_tune("train", "--config", tmp_path / "best.yaml", "--out", tmp_path / "run", "--json", *trust)
    assert again.code == 0, again
    assert (
        f"the bits may differ from the exported run's: ssl-tune: 0.1.0 there, {__version__} here" in again.err
    )
    assert 0 <= again.document["val_error"] <= 100
