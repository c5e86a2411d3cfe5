"""Optimiser, schedule, limit of the gradient, the head alone and float16: by hand, in a run, and resumed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ssl_core.config import from_document, resolve
from ssl_core.networks.attention import attention_head
from ssl_core.networks.registry import build_network
from ssl_core.system.errors import ConfigError, NonFiniteError
from ssl_core.training import checkpoint
from ssl_core.training.optim import (
    INITIAL,
    INTERVAL,
    LossScale,
    build_optimizer,
    clip_gradient,
    learning_rate,
    set_learning_rate,
    start_momenta,
)
from ssl_core.training.run import Run
from tests import tiny


def network() -> Any:
    return build_network("wrn-10-1", 3, bn_momentum=0.1, seed=0).double()


def gradients(model: nn.Module, seed: int) -> None:
    """Put a random gradient at every parameter."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        drawn = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        parameter.grad = torch.empty_like(parameter).copy_(
            drawn
        )  # in the weights' memory format, as in training


# By hand.


def test_the_schedules_by_hand() -> None:
    assert [learning_rate(0.5, k, 100, "constant") for k in (0, 50, 99)] == [0.5, 0.5, 0.5]
    assert learning_rate(0.5, 0, 100, "cosine") == 0.5
    assert learning_rate(0.5, 50, 100, "cosine") == pytest.approx(0.25)
    assert learning_rate(0.5, 25, 100, "cosine") == pytest.approx(0.5 * (1 + math.sqrt(0.5)) / 2)
    assert learning_rate(0.5, 100, 100, "cosine") == pytest.approx(0)
    assert learning_rate(0.5, 80, 100) == learning_rate(0.5, 80, 100, "fixmatch")


def test_adamw_against_one_written_from_the_paper() -> None:
    model = network()
    optimizer = build_optimizer(model, lr=0.01, momentum=0.8, weight_decay=0.1, name="adamw")
    slow = {name: p.detach().clone() for name, p in model.named_parameters()}
    m = {name: torch.zeros_like(p) for name, p in slow.items()}
    v = {name: torch.zeros_like(p) for name, p in slow.items()}
    for step in range(1, 4):
        gradients(model, step)
        optimizer.step()
        for name, p in model.named_parameters():
            assert p.grad is not None
            m[name] = 0.8 * m[name] + 0.2 * p.grad
            v[name] = 0.999 * v[name] + 0.001 * p.grad**2
            moved = (m[name] / (1 - 0.8**step)) / ((v[name] / (1 - 0.999**step)).sqrt() + 1e-8)
            decay = 0.1 if p.ndim > 1 else 0.0
            slow[name] = slow[name] - 0.01 * (moved + decay * slow[name])
            torch.testing.assert_close(p.detach(), slow[name], rtol=1e-9, atol=1e-12, msg=name)


def test_adamw_leaves_everything_as_it_is_where_something_is_not_finite() -> None:
    model = network()
    optimizer = build_optimizer(model, lr=0.01, momentum=0.9, weight_decay=0.1, name="adamw")
    gradients(model, 0)
    optimizer.step()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    states = [{k: v.clone() for k, v in state.items()} for state in optimizer.state.values()]
    optimizer.found_inf = torch.ones(())  # type: ignore[union-attr]
    gradients(model, 1)
    optimizer.step()
    tiny.assert_same_bits(before, dict(model.state_dict()))
    tiny.assert_same_bits(states, [dict(state) for state in optimizer.state.values()])


def test_the_gradient_is_scaled_to_the_largest_norm_and_a_smaller_one_is_not() -> None:
    model = network()
    gradients(model, 0)
    before = torch.cat([p.grad.flatten() for p in model.parameters()])
    clip_gradient(model.parameters(), 2.0)
    after = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert after.norm().item() == pytest.approx(2.0, rel=1e-6)
    torch.testing.assert_close(after / after.norm(), before / before.norm())
    clip_gradient(model.parameters(), 1e5)
    assert torch.equal(after, torch.cat([p.grad.flatten() for p in model.parameters()]))


def test_the_backbone_s_learning_rate_is_a_multiple_and_each_parameter_is_in_one_group() -> None:
    model = build_network("wrn-10-1", 3, bn_momentum=0.1, seed=0, head=attention_head(2))
    optimizer = build_optimizer(
        model, lr=0.1, momentum=0.9, weight_decay=0.5, heads=model.heads, lr_scale=0.25
    )
    set_learning_rate(optimizer, 0.2)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert found.keys() == set(names.values())
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(names)
    for name, (lr, decay) in found.items():
        assert lr == (0.2 if name.startswith(("classifier.", "head.")) else 0.05), name
        assert decay == (0.5 if name.endswith("weight") and "bn" not in name else 0.0), name


def test_position_embeddings_and_class_tokens_are_not_decayed() -> None:
    model = build_network("timm:vit_tiny_patch16_224", 3, bn_momentum=0.1, seed=0, image_size=16)
    optimizer = build_optimizer(model, lr=0.1, momentum=0.9, weight_decay=0.5)
    names = {id(p): name for name, p in model.named_parameters()}
    free = {names[id(p)] for p in optimizer.param_groups[1]["params"]}
    assert {"trunk.pos_embed", "trunk.cls_token"} <= free
    assert "trunk.blocks.0.attn.qkv.weight" not in free


def test_momenta_that_start_at_zero_give_the_first_step_s_bits() -> None:
    models = [network(), network()]
    for model, start in zip(models, (False, True), strict=True):
        optimizer = build_optimizer(model, lr=0.01, momentum=0.9, weight_decay=0.1)
        if start:
            start_momenta(optimizer)
        for step in range(2):
            gradients(model, step)
            optimizer.step()
    tiny.assert_same_bits(*(dict(model.state_dict()) for model in models))


# The configuration.


def test_defaults_suit_the_optimiser() -> None:
    data = tiny.make_data()
    for fields, lr, decay in (
        ({}, 0.03, 5e-4),
        ({"optimizer": "adamw"}, 1e-3, 0.05),
        ({"optimizer": "adamw", "lr": 0.03, "weight_decay": 0.0}, 0.03, 0.0),
    ):
        config = tiny.make_config("supervised", data, **fields)
        assert (config.lr, config.weight_decay) == (lr, decay)
        assert from_document(config.document()) == config


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"optimizer": "adam"}, "optimizer = 'adam': input should be 'sgd' or 'adamw'"),
        ({"schedule": "linear"}, "schedule = 'linear': input should be 'fixmatch', 'cosine' or 'constant'"),
        ({"clip_norm": 0.0}, "clip_norm = 0.0: "),
        ({"head_epochs": -1}, "head_epochs = -1: "),
        ({"backbone": {"lr_scale": 0.0}}, "backbone.lr_scale = 0.0: "),
        ({"backbone": {"stem": "large"}}, "backbone.stem = 'large': "),
    ],
)
def test_a_wrong_option_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_document({"method": "supervised", **fields})
    assert str(caught.value).startswith(said)


def test_more_epochs_of_the_head_than_the_run_has_are_refused() -> None:
    data = tiny.make_data()
    with pytest.raises(ConfigError, match="head_epochs = 5: the run has only 4 epochs"):
        tiny.make_config("supervised", data, head_epochs=5)
    config = tiny.make_config("supervised", data, head_epochs=4)
    assert resolve(config, tiny.info_of(data)) == config


# In a run.

OPTIONS: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer": "adamw", "schedule": "cosine", "clip_norm": 0.5},
    "head": {"head_epochs": 2, "backbone": {"lr_scale": 0.1}, "schedule": "constant"},
    "head, adamw": {"head_epochs": 1, "optimizer": "adamw", "method": "attention_fixmatch"},
    "float16": {"precision": "float16", "clip_norm": 1.0},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("stop", [1, 2])
def test_a_run_with_each_option_resumes_to_the_same_bits(tmp_path: Path, name: str, stop: int) -> None:
    fields = {"method": "fixmatch", "epochs": 3, "steps_per_epoch": 2, **OPTIONS[name]}
    whole, first, second = (tiny.make_run(**fields) for _ in range(3))
    plain = tiny.make_run(fields["method"], epochs=3, steps_per_epoch=2)
    for run in (whole, plain):
        tiny.finish(run)
    assert not tiny.same_bits(whole.network.state_dict(), plain.network.state_dict())
    tiny.finish(first, until=stop)
    checkpoint.write(tmp_path / "c", first.state())
    second.load_state(checkpoint.read(tmp_path / "c"))
    tiny.finish(second)
    tiny.assert_same_bits(tiny.everything(whole), tiny.everything(second))


@pytest.mark.parametrize("network_name", ["wrn-10-1", "torchvision:shufflenet_v2_x0_5"])
def test_in_the_first_epochs_the_head_alone_is_trained(network_name: str) -> None:
    run = tiny.make_run(
        "fixmatch", data=tiny.make_data(side=32), network=network_name, epochs=2, head_epochs=1
    )
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    heads = ("classifier.", "trunk.fc.")
    tiny.finish(run, until=1)
    for name, value in run.network.state_dict().items():  # BatchNorm's statistics are among them
        assert torch.equal(value, before[name]) != name.startswith(heads), name
    tiny.finish(run)
    moved = [n for n, value in run.network.named_parameters() if not torch.equal(value, before[n])]
    assert len(moved) == len(list(run.network.parameters()))


def test_the_learning_rate_of_the_report_is_the_schedule_s() -> None:
    reports = tiny.finish(tiny.make_run(schedule="cosine", epochs=2, steps_per_epoch=3))
    assert [r.metrics["lr"] for r in reports] == [learning_rate(0.03, k, 6, "cosine") for k in (2, 5)]


# float16.


def scaled_by_torch(overflows: list[bool]) -> list[float]:
    """Scales after each step by torch's own GradScaler."""
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=INITIAL, growth_interval=INTERVAL)
    scales = []
    for overflow in overflows:
        optimizer.zero_grad()
        scaler.scale((weight * (torch.inf if overflow else 1.0)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return scales


def test_the_scale_goes_as_torch_s_own() -> None:
    overflows = [False] * 3 + [True, True] + [False] * INTERVAL + [True] + [False] * (2 * INTERVAL + 5)
    weight, scale = nn.Parameter(torch.ones(1)), LossScale(torch.device("cpu"))
    found = []
    for overflow in overflows:
        weight.grad = torch.tensor([torch.inf if overflow else 3.0]) * scale.scale
        assert bool(scale.unscale([weight])) == overflow
        assert overflow or weight.grad.item() == 3.0
        found.append(scale.scale.item())
    assert found == scaled_by_torch(overflows)
    assert set(found) == {INITIAL, INITIAL / 2, INITIAL / 4}


def float16_run(**fields: Any) -> Run:
    return tiny.make_run("fixmatch", precision="float16", epochs=2, steps_per_epoch=2, **fields)


def test_a_step_that_overflows_by_its_scale_is_skipped_and_is_no_error() -> None:
    run = float16_run()
    assert run.loss_scale is not None
    run.loss_scale.scale.fill_(2.0**60)
    before = {name: value.clone() for name, value in run.network.named_parameters()}
    (report,) = tiny.finish(run, until=1)
    assert math.isfinite(report.metrics["train/loss"])
    assert run.loss_scale.scale.item() == 2.0**58  # halved by each of the two steps
    assert all(torch.equal(value, before[name]) for name, value in run.network.named_parameters())
    assert all(not state["momentum_buffer"].any() for state in run.optimizer.state.values())


def test_the_scale_is_in_the_checkpoint_and_in_that_of_float16_alone() -> None:
    run = float16_run()
    assert run.loss_scale is not None
    tiny.finish(run, until=1)
    assert run.state()["loss_scale"] == {"scale": torch.tensor(INITIAL), "good": torch.tensor(2)}
    assert "loss_scale" not in tiny.make_run().state()


def test_a_loss_that_is_not_finite_is_an_error_in_float16_too() -> None:
    run = float16_run()
    with torch.no_grad():
        run.network.classifier.bias[0] = torch.nan  # type: ignore[operator, union-attr]
    before = {name: value.clone() for name, value in run.network.named_parameters()}
    with pytest.raises(NonFiniteError, match="not finite at step 0"):
        tiny.finish(run)
    moved = [
        n for n, v in run.network.named_parameters() if not torch.equal(v, before[n]) and "bias" not in n
    ]
    assert moved == []


def test_an_overflow_at_the_smallest_scale_is_an_error() -> None:
    weight, scale = nn.Parameter(torch.ones(1)), LossScale(torch.device("cpu"))
    scale.scale.fill_(1.0)
    weight.grad = torch.tensor([torch.inf])
    assert not bool(scale.unscale([weight]))
    assert scale.scale.item() == 1.0


def test_float16_trains_as_float32_does() -> None:
    losses = {
        precision: [
            report.metrics["train/loss"]
            for report in tiny.finish(tiny.make_run("supervised", precision=precision, epochs=4))
        ]
        for precision in ("float16", "float32")
    }
    assert losses["float16"] == pytest.approx(losses["float32"], rel=0.05)
    assert losses["float16"] != losses["float32"]
