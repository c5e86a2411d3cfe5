"""The optimiser and the average, step by step against numbers worked out by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from ssl_core.networks.attention import attention_head
from ssl_core.networks.registry import build_network
from ssl_core.training.ema import AveragedModel, decay_at
from ssl_core.training.optim import build_optimizer, learning_rate, restore


def test_the_learning_rate_by_hand() -> None:
    assert learning_rate(0.03, 0, 1000) == 0.03
    assert learning_rate(0.03, 500, 1000) == pytest.approx(0.023190313600882110, rel=1e-12)  # cos(7 pi / 32)
    assert learning_rate(0.03, 1000, 1000) == pytest.approx(0.005852709660483848, rel=1e-12)  # cos(7 pi / 16)


def test_the_learning_rate_falls_at_every_step_and_stays_positive() -> None:
    rates = [learning_rate(1.0, step, 64) for step in range(65)]
    assert all(a > b > 0 for a, b in itertools.pairwise(rates))


def network() -> nn.Module:
    return build_network("wrn-10-1", 3, bn_momentum=0.1, seed=0, head=attention_head(2)).double()


def test_only_convolution_and_classifier_weights_decay() -> None:
    model = network()
    optimizer = build_optimizer(model, lr=0.1, momentum=0.0, weight_decay=0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, module in model.named_modules():
        for part, parameter in module.named_parameters(recurse=False):
            decays = part == "weight" and isinstance(module, nn.Conv2d | nn.Linear)
            expected = 1 - 0.1 * 0.5 if decays else 1.0
            torch.testing.assert_close(
                parameter.detach(), torch.full_like(parameter, expected), msg=f"{name}.{part}"
            )


def test_every_parameter_is_optimised_once() -> None:
    model = network()
    optimizer = build_optimizer(model, lr=0.1, momentum=0.9, weight_decay=5e-4)
    taken = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(taken) == sorted(id(p) for p in model.parameters())


def test_two_nesterov_steps_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        model.weight.fill_(1.0)
    optimizer = build_optimizer(model, lr=0.1, momentum=0.9, weight_decay=0.1)
    for expected in (0.886, 0.725566):
        # d = 0.5 + 0.1 w; v = 0.9 v + d (at first d); w -= 0.1 (d + 0.9 v)
        # first: d 0.6, v 0.6, w 1 - 0.114; then d 0.5886, v 1.1286, w 0.886 - 0.160434
        model.weight.grad = torch.full((1, 1), 0.5, dtype=torch.float64)
        optimizer.step()
        assert model.weight.item() == pytest.approx(expected, rel=1e-12)


def test_without_momentum_it_is_plain_gradient_descent() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        model.weight.fill_(1.0)
    optimizer = build_optimizer(model, lr=0.1, momentum=0.0, weight_decay=0.0)
    for expected in (0.95, 0.90):
        model.weight.grad = torch.full((1, 1), 0.5, dtype=torch.float64)
        optimizer.step()
        assert model.weight.item() == pytest.approx(expected, rel=1e-12)


def test_the_decay_ramps_up_to_its_value() -> None:
    assert [decay_at(0.999, step) for step in (0, 1, 8, 89)] == pytest.approx(
        [1 / 10, 2 / 11, 9 / 18, 90 / 99]
    )
    assert decay_at(0.999, 8989) == pytest.approx(8990 / 8999) and decay_at(0.999, 8990) == 0.999
    assert decay_at(0.999, 10**6) == 0.999
    assert decay_at(0.0, 0) == 0.0


def test_the_average_equals_a_slow_one() -> None:
    model, random = network(), torch.Generator().manual_seed(1)
    average = AveragedModel(model, 0.5)
    slow = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for step in range(12):  # the ramp reaches 0.5 at step 8
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn(parameter.shape, generator=random, dtype=torch.float64)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        for name, parameter in model.named_parameters():
            slow[name] = decay * slow[name] + (1 - decay) * parameter.detach()
    for name, parameter in average.network.named_parameters():
        torch.testing.assert_close(parameter.detach(), slow[name], rtol=1e-12, atol=1e-12)


def test_buffers_are_copied_not_averaged() -> None:
    model = network()
    average = AveragedModel(model, 0.9)
    start = [b.clone() for b in average.network.buffers()]
    model.train()(torch.randn(6, 3, 8, 8, dtype=torch.float64))
    average.update(0)
    assert all(torch.equal(a, b) for a, b in zip(start, average.network.buffers(), strict=True))
    average.copy_buffers()
    pairs = list(zip(average.network.buffers(), model.buffers(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert all(a is not b for a, b in pairs)
    assert any(
        b.dtype == torch.int64 and b.item() == 1 for _, b in pairs
    )  # num_batches_tracked is among them


def test_the_average_is_a_model_of_its_own_that_never_trains() -> None:
    model = network()
    average = AveragedModel(model, 0.9)
    assert not average.network.training and model.training
    assert not any(p.requires_grad for p in average.network.parameters())
    assert all(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        next(model.parameters()).fill_(math.pi)
    assert next(average.network.parameters()).flatten()[0] != math.pi


def trained_step(model: nn.Module, optimizer: torch.optim.SGD, seed: int) -> None:
    """One update from gradients as a backward pass leaves them, in the weights' own memory layout."""
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    optimizer.zero_grad()
    model.train()(images.to(memory_format=torch.channels_last)).logits.square().sum().backward()
    optimizer.step()


def test_the_fused_update_is_the_slow_one_in_every_memory_layout() -> None:
    model = network()
    optimizer = build_optimizer(model, lr=0.01, momentum=0.9, weight_decay=0.1)
    slow, momenta = {}, {}
    for step in range(3):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        trained_step(model, optimizer, step)
        for name, parameter in model.named_parameters():
            d = parameter.grad + (0.1 if parameter.ndim > 1 else 0.0) * before[name]
            momenta[name] = d if step == 0 else 0.9 * momenta[name] + d
            slow[name] = before[name] - 0.01 * (d + 0.9 * momenta[name])
            torch.testing.assert_close(parameter.detach(), slow[name], rtol=1e-12, atol=1e-12, msg=name)


def test_where_something_is_not_finite_neither_weights_nor_momenta_nor_the_average_move() -> None:
    model = network()
    optimizer, average = (
        build_optimizer(model, lr=0.1, momentum=0.9, weight_decay=0.1),
        AveragedModel(model, 0.5),
    )
    trained_step(model, optimizer, 0)
    average.update(0)
    momenta = [state["momentum_buffer"] for state in optimizer.state.values()]
    watched = [*model.parameters(), *momenta, *average.network.parameters()]
    before = [tensor.detach().clone() for tensor in watched]
    optimizer.found_inf = torch.ones(())  # type: ignore[attr-defined]
    trained_step(model, optimizer, 1)
    average.update(1, torch.ones(()))
    assert all(torch.equal(a, b) for a, b in zip(before, watched, strict=True))
    optimizer.found_inf = torch.zeros(())  # type: ignore[attr-defined]
    trained_step(model, optimizer, 1)
    average.update(1, torch.zeros(()))
    assert not any(torch.equal(a, b) for a, b in zip(before, watched, strict=True))


def test_with_a_verdict_on_the_device_the_average_is_the_same() -> None:
    model = network()
    one, other = AveragedModel(model, 0.9), AveragedModel(model, 0.9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    one.update(3)
    other.update(3, torch.zeros(()))
    for a, b in zip(one.network.parameters(), other.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_momenta_of_an_optimiser_that_was_not_fused_are_taken_over() -> None:
    model = network()
    groups = [
        {"params": list(g["params"])}
        for g in build_optimizer(model, lr=0.1, momentum=0.9, weight_decay=0).param_groups
    ]
    earlier = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True, foreach=True)
    trained_step(model, earlier, 0)
    optimizer = build_optimizer(model, lr=0.1, momentum=0.9, weight_decay=0)
    restore(optimizer, earlier.state_dict())
    optimizer.found_inf = torch.zeros(())  # type: ignore[attr-defined]
    for parameter in model.parameters():
        expected = earlier.state[parameter]["momentum_buffer"]
        assert torch.equal(optimizer.state[parameter]["momentum_buffer"], expected)
    trained_step(model, optimizer, 1)
    assert all(group["fused"] and not group["foreach"] for group in optimizer.param_groups)
