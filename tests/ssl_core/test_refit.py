"""A refit: training and validation images together, once everything is chosen (the exception to invariant 2)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ssl_core
from ssl_core.data.splits.refit import with_validation
from ssl_core.methods.base import Progress
from ssl_core.system.errors import ConfigError, NonFiniteError
from ssl_core.training.result import prepare
from ssl_core.training.run import Run
from ssl_core.training.step import _batch
from tests.ssl_core.test_run import Counter, Killed, document, folder, kill_after, last_state, test_set
from tests.tiny import assert_same_bits, finish, make_config, make_data, make_run

__all__ = ["document", "folder", "test_set"]  # fixtures


def refit_run(**fields: Any) -> Run:
    data = make_data()
    return Run(
        make_config("fixmatch", data, refit=True, **fields), data, with_validation(make_run(data=data).split)
    )


def test_the_split_of_a_refit_has_every_image_in_training() -> None:
    split = make_run().split
    merged = with_validation(split)
    assert set(merged.labelled) == {*split.labelled, *split.valid} and len(merged.labelled) == 12
    assert list(merged.unlabelled) == list(range(42)) and len(merged.valid) == 0
    assert merged.labelled.dtype == merged.valid.dtype == np.int64
    assert merged.hash != split.hash and merged.hash == with_validation(split).hash and len(merged.hash) == 16


def test_a_refit_trains_on_training_and_validation_images_and_measures_on_neither() -> None:
    plain, run = make_run("fixmatch"), refit_run()
    assert run.config.total_steps == plain.config.total_steps
    drawn: set[int] = set()
    labels = []
    for step in range(40):
        batch = _batch(run, Progress(step=step, total_steps=40, step_in_epoch=0, epoch=2, ssl_epoch=1))
        drawn |= set(batch.indices.tolist())
        labels += batch.labels.tolist()
    assert drawn == set(range(42)) and set(run.labelled.tolist()) > set(plain.split.valid.tolist())
    for report in finish(run):
        assert not [name for name in report.metrics if name.startswith("val/")]
        assert not {"images", "wrong", "confusion"} & report.classes.keys()


def test_weights_that_are_not_finite_end_a_refit() -> None:
    run = refit_run()
    with torch.no_grad():
        next(run.ema.network.parameters()).fill_(float("inf"))
    with pytest.raises(NonFiniteError, match="a weight is not finite after epoch 1"):
        finish(run)


def test_a_refit_is_measured_by_the_test_set_alone_and_recorded(
    document: dict[str, Any], tmp_path: Path, test_set: Counter
) -> None:
    out, ledger = tmp_path / "run", tmp_path / "readings.jsonl"
    result = ssl_core.train(document | {"refit": True}, out=out, final=True, readings=ledger)
    assert test_set.calls == 1 and result.val_error is None and result.test_error is not None
    written = json.loads((out / "result.json").read_text())
    assert not [name for name in written if name.startswith("val_")] and written["config"]["refit"] is True
    (reading,) = map(json.loads, ledger.read_text().splitlines())
    assert reading["config"]["refit"] is True and reading["split_hash"] == result.split_hash
    assert reading["test_error"] == result.test_error
    _, _, split = prepare(document)
    assert result.split_hash == with_validation(split).hash
    again = ssl_core.train(document | {"refit": True}, out=out, final=True, readings=ledger, resume=True)
    assert again == result and test_set.calls == 1


def test_a_refit_that_is_killed_goes_on_to_the_same_bits(document: dict[str, Any], tmp_path: Path) -> None:
    document |= {"refit": True}
    ssl_core.train(document, out=tmp_path / "straight", final=True)
    with pytest.raises(Killed):
        ssl_core.train(document, out=tmp_path / "killed", final=True, on_report=kill_after(2))
    ssl_core.train(document, out=tmp_path / "killed", final=True, resume=True)
    assert_same_bits(last_state(tmp_path / "killed"), last_state(tmp_path / "straight"))


def test_a_refit_needs_the_test_set(document: dict[str, Any], tmp_path: Path, test_set: Counter) -> None:
    with pytest.raises(ConfigError, match=r"refit: .* --final"):
        ssl_core.train(document | {"refit": True}, out=tmp_path / "run")
    assert test_set.calls == 0 and not (tmp_path / "run").exists()


def test_a_folder_of_a_run_is_not_that_of_its_refit(document: dict[str, Any], tmp_path: Path) -> None:
    ssl_core.train(document, out=tmp_path / "run", final=True)
    with pytest.raises(ConfigError, match="refit differ"):
        ssl_core.train(document | {"refit": True}, out=tmp_path / "run", final=True, resume=True)
