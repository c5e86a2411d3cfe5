"""Weak views in a pass of their own: what BatchNorm sees, what gets a gradient, and what it costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ssl_core.config import from_document
from ssl_core.methods.base import Batch, Step
from ssl_core.system.errors import ConfigError
from ssl_core.training.run import Run
from tests.tiny import assert_same_bits, everything, finish, make_run

FAMILY = ("fixmatch", "flexmatch", "attention_fixmatch")


def prepared(method: str, weak_forward: str) -> tuple[Run, Batch]:
    """A run and a batch of 4 labelled images and 8 of each view, noise that differs between them."""
    run = make_run(method, precision="float64", warmup_epochs=0, parameters={"weak_forward": weak_forward})
    random = torch.Generator().manual_seed(1)
    labelled, weak, strong = (
        scale * torch.randn(n, 3, 8, 8, generator=random, dtype=torch.float64) + scale
        for n, scale in ((4, 1.0), (8, 2.0), (8, 3.0))
    )
    run.network.train()
    views = {"weak": weak, "strong": strong}
    batch = Batch(labelled=labelled, labels=run.labels[:4], indices=run.unlabelled[:8], views=views)
    return run, batch


def test_separate_passes_move_the_running_statistics_in_turn() -> None:
    """By hand for the first BatchNorm, whose input is the stem's output: labelled, strong, weak."""
    run, batch = prepared("fixmatch", "separate")
    norm, momentum = run.network.blocks[0].bn1, run.config.bn_momentum
    mean, variance = torch.zeros(16, dtype=torch.float64), torch.ones(16, dtype=torch.float64)
    for images in (batch.labelled, batch.views["strong"], batch.views["weak"]):
        maps = run.network.stem(images).detach().transpose(0, 1).flatten(1)
        mean = (1 - momentum) * mean + momentum * maps.mean(dim=1)
        variance = (1 - momentum) * variance + momentum * maps.var(dim=1)
    loss_of(run, batch)
    torch.testing.assert_close(norm.running_mean, mean, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(norm.running_var, variance, rtol=1e-10, atol=1e-12)
    assert int(norm.num_batches_tracked) == 3


def loss_of(run: Run, batch: Batch) -> Any:
    from tests.matching import PROGRESS

    step = Step(run.forward, batch, run.method_state, PROGRESS, torch.Generator())
    return run.method.compute_loss(run.config.parameters, step)


@pytest.mark.parametrize("weak_forward", ["joint", "separate"])
def test_weak_images_get_a_gradient_through_batchnorm_alone_and_none_in_a_pass_of_their_own(
    weak_forward: str,
) -> None:
    run, batch = prepared("fixmatch", weak_forward)
    weak = batch.views["weak"].requires_grad_()
    loss_of(run, batch).total.backward()
    assert (weak.grad is not None and bool(weak.grad.any())) == (weak_forward == "joint")


def test_a_pass_without_gradient_saves_about_a_third_of_the_arithmetic() -> None:
    """Of B + 2 mu B images that cost three passes each, mu B cost one: 1 - (3 B + 4 mu B) / (3 B + 6 mu B)."""
    counted = {}
    for weak_forward in ("joint", "separate"):
        run, batch = prepared("fixmatch", weak_forward)
        with FlopCounterMode(display=False) as counter:
            loss_of(run, batch).total.backward()
        counted[weak_forward] = counter.get_total_flops()
    saved = 1 - counted["separate"] / counted["joint"]
    assert saved == pytest.approx(
        1 - (3 * 4 + 4 * 8) / (3 * 4 + 6 * 8), abs=0.01
    )  # the stem's input has none


@pytest.mark.parametrize("method", FAMILY)
def test_separate_runs_are_repeatable_and_not_the_joint_ones(method: str) -> None:
    runs = [
        make_run(method, epochs=2, warmup_epochs=0, parameters={"weak_forward": w})
        for w in ("separate", "separate", "joint")
    ]
    for run in runs:
        finish(run)
    one, other, joint = (everything(run) for run in runs)
    assert_same_bits(one, other)
    assert not torch.equal(one["network"]["stem.weight"], joint["network"]["stem.weight"])


def test_a_state_of_a_version_without_the_choice_is_that_of_a_joint_run() -> None:
    joint, separate = (
        make_run("fixmatch", parameters={"weak_forward": weak_forward})
        for weak_forward in ("joint", "separate")
    )
    state = joint.state()
    del state["config"]["fixmatch"]["weak_forward"]
    joint.load_state(state)
    with pytest.raises(ValueError, match="another configuration: fixmatch differ"):
        separate.load_state(state)


def test_another_way_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"fixmatch\.weak_forward = 'none': .*'joint' or 'separate'"):
        from_document({"method": "fixmatch", "fixmatch": {"weak_forward": "none"}})
