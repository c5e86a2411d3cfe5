"""Compiled passes in a real run, on a processor; what they are made for, a GPU, is in test_gpu.py."""

from __future__ import annotations

import pytest

import ssl_core
from ssl_core.system.environment import what_compiling_lacks


def last_losses(compile: bool) -> list[float]:
    config = {"method": "supervised", "dataset": "digits", "labels": 50, "epochs": 2, "steps_per_epoch": 4}
    losses: list[float] = []
    ssl_core.train(
        {**config, "threads": 1, "precision": "float32", "compile": compile},
        on_report=lambda report: losses.append(report.metrics["train/loss"]),
    )
    return losses


@pytest.mark.skipif(bool(what_compiling_lacks("cpu")), reason=what_compiling_lacks("cpu") or "all there")
def test_a_compiled_run_computes_what_a_plain_one_does() -> None:
    plain, compiled = last_losses(False), last_losses(True)
    assert plain == pytest.approx(compiled, rel=1e-4)
    assert plain != compiled  # sums in another order: it was compiled
