"""What a run holds in MLflow besides parameters, metrics and states: its data set, its description, its times."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.tune.tracked import Home
from tune.run_text import dataset_input
from tune.sender import deliver

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


def test_a_study_is_described_in_words_and_anew_when_more_is_known(tracked: Home) -> None:
    tracker = tracked.tracker()
    tracker.study_started({}, "study\n")
    for text in ("one trial", "one trial", "two trials", "one trial"):
        tracker.describe(text)
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
