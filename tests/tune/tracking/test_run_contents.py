"""What a run holds in MLflow besides parameters, metrics and states: its data set, its description, its times."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from ssl_core.methods.base import Panel
from ssl_core.pictures.file import Picture, save
from tests.tune.helpers import mlflow_runs
from tests.tune.tracked import Home
from tune.delivery.sender import deliver
from tune.store.home import Home as FinishedHome
from tune.tracking.contents import describe
from tune.tracking.text import dataset_input

DIGITS = dataset_input("digits", "digits", labelled=100, valid=50)


def datasets_of(run: Any) -> list[tuple[str, str, dict[str, int], dict[str, str]]]:
    inputs = run.inputs.dataset_inputs
    return [
        (i.dataset.name, i.dataset.digest, json.loads(i.dataset.profile), {t.key: t.value for t in i.tags})
        for i in inputs
    ]


def test_every_run_has_its_data_set_with_the_hash_of_its_own_split(tracked: Home) -> None:
    tracker = tracked.tracker(dataset=DIGITS)
    tracker.study_started({}, "study\n")
    tracker.trial_started("0", {}, {}, "trial\n")
    tracker.trial_started("0/confirm-1", {}, {}, "seed\n", parent="0", tags={"ssl.split_hash": "def456"})
    assert deliver(tracked.study, 30) == 0
    tracked.log.mark_all_undelivered()  # as if the sender had been killed before it noted anything
    assert deliver(tracked.study, 30) == 0
    assert tracked.log.dead() == []
    runs = tracked.runs()
    for name, digest in (("s", "abc123"), ("trial 0", "abc123"), ("trial 0 confirm-1", "def456")):
        profile = {"labelled images": 100, "validation images": 50}
        assert datasets_of(runs[name]) == [("digits", digest, profile, {"mlflow.data.context": "training"})]


@pytest.mark.parametrize(
    ("dataset", "kind", "where"),
    [
        ("folder:/data/birds", "local", {"uri": "/data/birds"}),
        ("cifar10", "http", {"url": "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"}),
        ("cifar100", "http", {"url": "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"}),
        ("digits", "code", {"tags": {"mlflow.source.name": "sklearn.datasets.load_digits"}}),
    ],
)
def test_mlflow_reads_the_source_of_each_data_set(dataset: str, kind: str, where: dict[str, Any]) -> None:
    from mlflow.data import get_source
    from mlflow.entities import Dataset

    fields = dataset_input("name", dataset, labelled=4, valid=4)
    source = get_source(Dataset(digest="abc", **fields))
    assert (source._get_source_type(), source.to_dict()) == (kind, where)


def test_the_archives_are_those_that_torchvision_downloads() -> None:
    from torchvision.datasets import CIFAR10, CIFAR100

    for name, owner in (("cifar10", CIFAR10), ("cifar100", CIFAR100)):
        source = json.loads(dataset_input(name, name, labelled=1, valid=1)["source"])
        assert source["url"] == owner.url


def test_of_very_many_trials_only_completed_ones_are_drawn(
    tracked: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_TUNE_FIGURES", "1")
    tracker = tracked.tracker()
    tracker.study_started({}, "study\n")
    for trial in ("999", "1000", "1001"):
        tracker.trial_started(trial, {}, {}, "trial\n")
        for epoch in (1, 2):
            tracker.report(trial, epoch, {"val/error": 50.0})
    tracker.trial_started("998", {}, {}, "trial\n")
    tracker.report("998", 1, {"val/error": 50.0})
    tracker.trial_ended("998", "completed")  # a curve of one epoch is a point: no process is started for that
    tracker.trial_ended("999", "asha")
    tracker.trial_ended("1000", "asha")
    tracker.trial_ended("1001", "completed")
    assert [event.run for event in tracked.log.owed_figures(99)] == ["s/999", "s/1001"]


def test_a_study_is_described_in_words_and_anew_when_more_is_known(tracked: Home) -> None:
    tracker = tracked.tracker()
    tracker.study_started({}, "study\n")
    for text in ("one trial", "one trial", "two trials", "one trial"):
        describe(tracked.log, "s", text)
    assert tracked.log.pending() == 3 + 3  # the start; and what had been said already is not said again
    assert deliver(tracked.study, 30) == 0
    assert tracked.runs()["s"].data.tags["mlflow.note.content"] == "one trial"


def test_a_run_that_is_told_of_later_has_the_times_at_which_it_happened(tracked: Home) -> None:
    tracker = tracked.tracker(dataset=DIGITS)
    tracker.study_started({}, "study\n")
    tracker.trial_started("0", {}, {}, "trial\n", time_ms=1_000_000)
    for epoch in (1, 2):
        tracker.report("0", epoch, {"val/error": 9.0}, time_ms=1_000_000 + 60_000 * epoch)
    tracker.trial_ended("0", "completed", summary={"test/error": 8.0}, time_ms=1_125_000)
    assert deliver(tracked.study, 30) == 0
    run = tracked.runs()["trial 0"]
    assert (run.info.start_time, run.info.end_time) == (1_000_000, 1_125_000)
    times = {(name, step): time for name, step, time, _ in tracked.points(run)}
    assert times == {("val/error", 1): 1_060_000, ("val/error", 2): 1_120_000, ("test/error", 2): 1_125_000}


def files_of(tracked: Home, run: Any) -> dict[str, bytes]:
    folder = tracked.path / "mlartifacts" / run.info.run_id / "artifacts"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_ended_runs_have_the_figures_that_fit_how_they_ended_and_once(
    tracked: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_TUNE_FIGURES", "1")
    picture = tracked.study / "trials" / "0" / "picture.npz"
    image = np.full((1, 4, 4, 3), 0.5, np.float32)
    save(picture, Picture("vat", 2, ("cat",), (Panel("original", "image", image, ("cat 0.90",), (True,)),)))
    tracker = tracked.tracker()
    tracker.study_started({}, "study\n")
    for trial in ("0", "1", "2", "3"):
        tracker.trial_started(trial, {}, {}, "trial\n")
    classes, last = {"accepted": [3, 1], "right": [2, 0]}, {"confusion": [1, 1, 0, 2]}
    for trial in ("0", "1", "2"):
        for epoch in (1, 2):
            measured = {"val/error": 9.0, "ssl/mask_rate": 0.5}
            counts = {"images": [2, 2], "wrong": [1, 0]} | (classes | last if epoch == 2 else {})
            tracker.report(trial, epoch, measured, classes=counts)
    assert deliver(tracked.study, 30) == 0
    tracker.trial_ended("0", "completed", picture=picture, warmup=1, test_confusion=[[3, 1], [0, 4]])
    tracker.trial_ended("1", "asha", picture=picture)
    tracker.trial_ended("2", "nan", error="NaN")
    tracker.trial_ended("3", "oom", error="no memory")  # before its first epoch
    tracked.log.append("figure", "s/1", {"figure": "portrait", "file": "portrait.png"})
    tracked.log.set_meta("complete", "1")
    # Killed after the first figure, which is sent after four states and two texts, and before it is noted.
    owed = len(tracked.log.owed_figures(99))
    assert owed == 5 + 1 + 1 + 0 + 1
    assert tracked.sender("sender:after-send:7") == -9
    assert tracked.log.pending() == len(tracked.log.owed_figures(99)) == owed
    assert tracked.sender() == 0 and tracked.log.pending() == 0
    runs = tracked.runs()
    figures = {
        name: {file for file in files_of(tracked, run) if file.startswith("figures/")}
        for name, run in runs.items()
    }
    curves = "figures/learning_curves.png"
    of_classes = {f"figures/{name}.png" for name in ("pseudo_labels", "confusion", "confusion_test")}
    assert figures["trial 0"] == {curves, *of_classes, "figures/picture.png"}
    assert figures["trial 1"] == figures["trial 2"] == {curves}
    assert figures["trial 3"] == set()
    for name in ("trial 0", "trial 1"):
        assert all(
            data.startswith(b"\x89PNG")
            for file, data in files_of(tracked, runs[name]).items()
            if file.startswith("figures/")
        )
    (letter,) = tracked.log.dead()
    assert "no figure is called 'portrait'" in letter.reason


def test_a_finished_study_holds_table_description_best_and_figures(finished: FinishedHome) -> None:
    from tune.findings.study import load_study

    study = load_study("shapes", home=finished.path)
    runs = mlflow_runs(finished)
    run, best = runs["shapes"], study.best()
    assert best is not None
    files = {
        str(path.relative_to(finished.artifacts / run.info.run_id / "artifacts")): path
        for path in (finished.artifacts / run.info.run_id / "artifacts").rglob("*")
        if path.is_file()
    }
    # All completed trials may have the same error: then nothing has an importance.
    names = {"optimisation_history", "slices", "learning_curves"}
    drawn = {name.removeprefix("figures/").removesuffix(".png") for name in files if name.endswith(".png")}
    assert names <= drawn <= names | {"parameter_importances"}
    table = json.loads(files["trials.json"].read_text())
    lines = files["trials.csv"].read_text().splitlines()
    assert table["columns"] == lines[0].split(",") and len(table["data"]) == len(lines) - 1 == 6
    errors = [row[table["columns"].index("val_error")] for row in table["data"]]
    assert errors == [r.val_error for r in study.records()]
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": "trials.json", "type": "table"}]
    note = run.data.tags["mlflow.note.content"]
    assert f"trial {best['trial']}, val/error {best['val_error']:.2f} %" in note and "6 of 6 trials" in note
    for name, value in best["params"].items():
        assert run.data.params[f"best.{name}"] == str(value)
    for name in runs:
        (given,) = runs[name].inputs.dataset_inputs
        assert given.dataset.digest == run.data.tags["ssl.split_hash"]
    for record in study.records():
        folder = finished.artifacts / runs[f"trial {record.trial}"].info.run_id / "artifacts" / "figures"
        found = {path.name for path in folder.iterdir()}
        complete = {"learning_curves.png", "pseudo_labels.png", "confusion.png"}
        assert found == (complete if record.state == "completed" else {"learning_curves.png"})
