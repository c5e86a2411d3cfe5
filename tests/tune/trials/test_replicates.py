"""Replicates of a trial: the mean of several training seeds is its result."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from ssl_core.training import checkpoint
from ssl_core.training.run import Report
from tests.tune.helpers import make_spec
from tune.definition.spec import StudySpec
from tune.store.home import Home
from tune.worker.replicates import mean, together
from tune.worker.task import Task
from tune.worker.trainable import TrialTrainable


def a_report(epoch: int, error: float, **more: Any) -> Report:
    metrics = {"val/error": error, "time/epoch_seconds": 2.0} | more
    return Report(epoch, None, metrics, {"images": [5, 5], "confusion": [[4, 1], [0, 5]]}, 100 + epoch)  # type: ignore[list-item]


def test_the_mean_of_reports_by_hand() -> None:
    found = mean([a_report(3, 10.0, lr=0.1), a_report(3, 20.0, lr=0.1), a_report(3, 30.0, lr=0.1, extra=1.0)])
    assert found.metrics == {
        "val/error": 20.0,
        "time/epoch_seconds": 6.0,
        "lr": pytest.approx(0.1),
        "val/error_std": 10.0,
    }
    assert found.classes == {"images": [15, 15], "confusion": [[12, 3], [0, 15]]}
    assert (found.epoch, found.time_ms) == (3, 103)
    alone = a_report(1, 5.0)
    assert mean([alone]) is alone


def test_a_run_that_was_set_back_catches_up_before_the_mean_is_taken() -> None:
    ahead = iter([a_report(3, 10.0), a_report(4, 8.0)])
    behind = iter([a_report(1, 50.0), a_report(2, 40.0), a_report(3, 30.0), a_report(4, 20.0)])
    assert [(r.epoch, r.metrics["val/error"]) for r in together([ahead, behind])] == [(3, 20.0), (4, 14.0)]


def trained(spec: StudySpec, folder: Path, home: Home, repeats: int, epochs: int = 3) -> list[dict[str, Any]]:
    """What a worker reports of a trial until it has done so many epochs."""
    task = Task(
        trial=0,
        config=spec.trial_config({"pseudo_label.threshold": 0.8, "warmup_share": 0.34}).document(),
        method_text=None,
        folder=str(folder),
        store=None,
        max_failures=0,
        known_epoch=0,
        split_hash=None,
        cache=str(home.cache),
        data_root=None,
        gpus=0,
        system_metrics=False,
        repeats=repeats,
    )
    worker = TrialTrainable.__new__(TrialTrainable)
    worker.setup(task.as_config() | {"split_hash": _split(spec, home)})
    return [worker.step() for _ in range(epochs)]


def _split(spec: StudySpec, home: Home) -> str:
    from ssl_core.training.result import prepare

    return prepare(spec.base_config(), cache=home.cache)[2].hash


def test_a_trial_s_result_is_the_mean_of_its_seeds_also_when_a_worker_died(
    home: Home, tmp_path: Path
) -> None:
    spec = make_spec(home, epochs=3, repeats=2)
    assert spec.repeats == 2
    both = trained(spec, tmp_path / "both", home, 2)
    first = trained(spec, tmp_path / "first", home, 1)
    second_spec = spec.model_copy(update={"config": spec.config | {"seed": spec.config["seed"] + 1}})
    second = trained(second_spec, tmp_path / "second", home, 1)
    for pair, one, other in zip(both, first, second, strict=True):
        assert pair["val/error"] == (one["val/error"] + other["val/error"]) / 2
        assert pair["val/loss"] == pytest.approx((one["val/loss"] + other["val/loss"]) / 2)
    assert both[-1]["stop_reason"] == "completed" and first[-1]["val/loss"] != second[-1]["val/loss"]
    # A worker that died when one replicate had saved an epoch and the other had not.
    half = tmp_path / "half"
    shutil.copytree(tmp_path / "both", half)
    checkpoint.path_of(half / "seed-1", 3).unlink()
    again = trained(spec, half, home, 2)
    names = ("epoch", "val/error", "val/loss", "classes")
    assert [[r[n] for n in names] for r in again] == [[r[n] for n in names] for r in both]


def test_a_warm_up_that_is_taken_over_is_in_a_checkpoint_before_it_is_reported(
    home: Home, tmp_path: Path
) -> None:
    spec = make_spec(home, epochs=3)
    whole = trained(spec, tmp_path / "whole", home, 1)
    (told,) = trained(spec, tmp_path / "taker", home, 1, epochs=1)
    assert told["epoch"] == 1 and told["metrics"]["time/seconds_saved"] > 0
    shutil.rmtree(home.warmups)
    state = checkpoint.load_newest(tmp_path / "taker")
    assert state is not None and [report["epoch"] for report in state["history"]] == [1]
    kept = {name: value for name, value in told["metrics"].items() if name != "val/error_and_loss"}
    assert state["history"][0]["metrics"] == kept
    again = trained(spec, tmp_path / "taker", home, 1)
    assert [r["val/loss"] for r in again] == [r["val/loss"] for r in whole]
    assert again[0]["metrics"] == told["metrics"]
