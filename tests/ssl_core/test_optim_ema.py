"""The optimiser and the average, step by step against numbers worked out by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from ssl_core.ema import AveragedModel, decay_at
from ssl_core.networks import build_network
from ssl_core.optim import build_optimizer, learning_rate


def test_the_learning_rate_by_hand() -> None:
    assert learning_rate(0.03, 0, 1000) == 0.03
    assert learning_rate(0.03, 500, 1000) == pytest.approx(0.023190313600882110, rel=1e-12)  # cos(7 pi / 32)
    assert learning_rate(0.03, 1000, 1000) == pytest.approx(0.005852709660483848, rel=1e-12)  # cos(7 pi / 16)


def test_the_learning_rate_falls_at_every_step_and_stays_positive() -> None:
    rates = [learning_rate(1.0, step, 64) for step in range(65)]
    assert all(a > b > 0 for a, b in itertools.pairwise(rates))


def network() -> nn.Module:
    return build_network("wrn-10-1", 3, bn_momentum=0.1, seed=0, attention_maps=2).double()


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
