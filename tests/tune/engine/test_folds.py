"""A real study with two folds: interrupted within the second, carried on, and what it leaves."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search_spaces import load_yaml
from ssl_core.config import from_document
from ssl_core.preparation import of_fold
from ssl_core.training.result import train
from tests.tune.helpers import Done, mlflow_runs, mlflow_steps, reports, shapes_options, signal_when, words_of
from tune.findings.study import load_study
from tune.store.home import Home

EPOCHS = 3


def options_of(home: Home, pictures: Path) -> dict[str, Any]:
    return shapes_options(home, pictures) | {"epochs": EPOCHS, "trials": 4, "folds": 2}


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_a_study_of_two_folds_is_interrupted_and_carried_on(
    local_ray: None, ready_home: Home, pictures: Path, ssl_tune: Callable[..., Done]
) -> None:
    options, place = options_of(ready_home, pictures), ready_home.study_folder("shapes")
    with signal_when(lambda: reports(place) >= EPOCHS + 1, signal.SIGINT):
        stopped = ssl_tune("search", *words_of(options), "--home", ready_home.path)
    assert stopped.code == 130, stopped
    (first, *_) = load_study("shapes", home=ready_home.path).records()
    assert first.state == "running" and EPOCHS < first.epoch < 2 * EPOCHS and len(first.folds) == 1
    assert first.val_error == first.folds[0]["val_error"]
    done = ssl_tune("resume", "shapes", "--home", ready_home.path)
    assert done.code == 0, done

    study = load_study("shapes", home=ready_home.path)
    spec, records = study.spec, study.records()
    assert spec.folds == 2 and len(spec.fold_hashes) == 1 and spec.fold_hashes[0] != spec.split_hash
    full = [r for r in records if r.state == "completed"]
    not_given = [r for r in records if r.state == "stopped_early"]
    assert len(full) + len(not_given) == 4 and full and not_given
    assert all(r.epoch == 2 * EPOCHS and len(r.folds) == 2 for r in full)
    assert all(r.stop_reason == "asha" and r.epoch <= EPOCHS and len(r.folds) <= 1 for r in not_given)

    # Each fold is the run that trains on it alone, bit for bit.
    config = spec.trial_config(full[0].values)
    for fold, of in enumerate(full[0].folds):
        alone = train(of_fold(config, fold), cache=ready_home.cache)
        assert (alone.val_error, alone.val_loss) == (of["val_error"], of["val_loss"])
        assert alone.split_hash == (spec.split_hash, *spec.fold_hashes)[fold]
    assert full[0].val_error == sum(of["val_error"] for of in full[0].folds) / 2

    best = study.best()
    assert best is not None and best["folds"] == 2 and best["full_budget"]
    assert ssl_tune("status", "shapes", "--home", ready_home.path, "--json").document["folds"] == 2
    shown = ssl_tune("trials", "shapes", "--home", ready_home.path)
    assert "folds" in shown.out and "mean of 2 folds" in done.out

    runs = mlflow_runs(ready_home)
    assert {run.data.tags["ssl.folds"] for run in runs.values()} == {"2"}
    assert {run.data.tags["ssl.split_hash_fold_1"] for run in runs.values()} == {spec.fold_hashes[0]}
    for record in records:
        run = runs[f"trial {record.trial}"]
        assert mlflow_steps(ready_home, run) == list(range(1, record.epoch + 1))
        assert run.data.metrics["val/error"] == record.val_error

    # What is exported is fold 0, and gives its result.
    output = ready_home.path / "best.yaml"
    exported = ssl_tune("export", "shapes", "-o", output, "--home", ready_home.path)
    assert exported.code == 0 and "the mean of 2 folds" in exported.out
    document = load_yaml(output.read_text(), str(output))
    assert isinstance(document, dict)
    winner = next(r for r in records if r.trial == best["trial"])
    assert "fold" not in document["config"]["data"]
    assert document["expect"]["val_error"] == winner.folds[0]["val_error"]
    folds = document["origin"]["folds"]
    assert folds["asked"] == 2 and folds["val_error"] == winner.val_error
    assert [each["split_hash"] for each in folds["finished"]] == [spec.split_hash, spec.fold_hashes[0]]
    assert train(from_document(document["config"]), cache=ready_home.cache).val_error == pytest.approx(
        document["expect"]["val_error"]
    )
