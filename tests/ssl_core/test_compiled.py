"""Compiled passes in a real run, on a processor; what they are made for, a GPU, is in test_gpu.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import ssl_core
from ssl_core.methods.vat import adversarial_direction
from ssl_core.networks.statistics import batchnorms_of, frozen_statistics
from ssl_core.system.environment import what_compiling_lacks
from ssl_core.training import compile as compiled
from tests.tiny import make_run

pytestmark = pytest.mark.skipif(
    bool(what_compiling_lacks("cpu")), reason=what_compiling_lacks("cpu") or "all there"
)


def last_losses(compile: bool, **fields: Any) -> list[float]:
    config = {"method": "supervised", "dataset": "digits", "labels": 50, "epochs": 2, "steps_per_epoch": 4}
    losses: list[float] = []
    ssl_core.train(
        {**config, "threads": 1, "precision": "float32", "compile": compile, **fields},
        on_report=lambda report: losses.append(report.metrics["train/loss"]),
    )
    return losses


def test_a_compiled_run_computes_what_a_plain_one_does() -> None:
    plain, compiled = last_losses(False), last_losses(True)
    assert plain == pytest.approx(compiled, rel=1e-4)
    assert plain != compiled  # sums in another order: it was compiled


def test_passes_for_gradients_of_images_follow_the_network_and_ask_for_no_gradient_of_a_weight() -> None:
    """Weights that change in place, layers that are switched to evaluation, statistics that stay."""
    run = make_run(method="vat", compile=False)
    network = run.network.double().train()  # in float32 rounding may take a value to the other side of a ReLU
    images = torch.randn(6, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours = compiled.OfImagesAlone(network)
    statistics = [
        layer.running_mean.clone() for layer in batchnorms_of(network) if layer.running_mean is not None
    ]
    for change in ("none", "weights", "evaluation"):
        if change == "weights":
            with torch.no_grad():
                for weight in network.parameters():
                    weight.mul_(1.5)
        elif change == "evaluation":
            network.eval()
        one, other = images.clone().requires_grad_(), images.clone().requires_grad_()
        with frozen_statistics(batchnorms_of(network)):
            expected = network(one).logits
        logits = ours(other).logits
        torch.testing.assert_close(logits, expected)
        expected.square().sum().backward()
        logits.square().sum().backward()
        torch.testing.assert_close(other.grad, one.grad)
    assert not any(weight.requires_grad for weight in ours.detached.parameters())
    after = [layer.running_mean for layer in batchnorms_of(network)]
    assert all(torch.equal(a, b) for a, b in zip(statistics, after, strict=True) if b is not None)


@pytest.mark.long
@pytest.mark.parametrize("xi", [0.1, 10.0])
def test_a_compiled_power_iteration_finds_the_direction_of_a_plain_one(xi: float) -> None:
    random = torch.Generator().manual_seed(1)
    images, d = (torch.randn(8, 3, 8, 8, generator=random) for _ in range(2))
    directions = []
    for how in (False, True):
        run = make_run(method="vat", compile=how, precision="float32")
        run.begin_epoch(1)
        directions.append(adversarial_direction(run.forward, images, d, xi=xi, iterations=2))
        assert all(weight.grad is None for weight in run.network.parameters())
    cosines = torch.nn.functional.cosine_similarity(*(each.flatten(1) for each in directions))
    assert cosines.min() > 0.999


@pytest.mark.long
def test_a_compiled_run_of_vat_computes_what_a_plain_one_does() -> None:
    fields = {"method": "vat", "vat": {"xi": 1.0, "iterations": 2}, "warmup_epochs": 1, "mu": 2}
    plain, compiled = last_losses(False, **fields), last_losses(True, **fields)
    assert plain == pytest.approx(compiled, rel=1e-3)
    assert plain != compiled
