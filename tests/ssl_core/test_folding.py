"""Folded networks, which predict the pool: the same predictions but for rounding, of the weights as they were."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from ssl_core.data.batches import CACHED, evaluated_at_once
from ssl_core.networks.attention import attention_head
from ssl_core.networks.base import Network
from ssl_core.networks.registry import build_network
from ssl_core.schema import BackboneConfig
from ssl_core.system.environment import has_fast_cpu_bfloat16
from tests.tiny import assert_same_bits, finish, make_data, make_run


def settled(name: str, **how: Any) -> Network:
    """A network in evaluation mode, float64, whose BatchNorms all do something."""
    network = build_network(name, 5, bn_momentum=0.1, seed=0, **how).double().eval()
    random = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low in (
                (module.running_mean, -1),
                (module.running_var, 0.5),
                (module.weight, 0.5),
                (module.bias, -1),
            ):
                assert values is not None
                values.data.uniform_(low, 2, generator=random)
    return network


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("wrn-10-1", {}),
        ("wrn-16-2", {"backbone": BackboneConfig(variant="reference")}),
        ("wrn-10-2", {"head": attention_head(2)}),
        ("resnet18", {}),
    ],
)
def test_a_folded_network_gives_what_the_network_gives_in_evaluation_mode(
    name: str, how: dict[str, Any]
) -> None:
    network = settled(name, **how)
    before = copy.deepcopy(network.state_dict())
    images = torch.randn(3, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected, found = network(images), network.folded()(images)
    for one, other in zip(expected, found, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9)
    assert_same_bits(network.state_dict(), before)


def test_a_wide_resnet_loses_the_batchnorms_that_follow_a_convolution() -> None:
    """Of WRN-16-2's 13: each of six blocks' second one, and the first block's first one."""
    network = settled("wrn-16-2")
    counts = [
        sum(isinstance(module, nn.BatchNorm2d) for module in each.modules())
        for each in (network, network.folded())
    ]
    assert counts == [13, 6]


def test_the_predictor_has_the_probabilities_of_the_evaluated_model_as_it_was() -> None:
    data = make_data(per_class=CACHED)
    run = make_run("pseudo_label", data=data, precision="float64")
    finish(run, until=1)
    indices = run.unlabelled[torch.randperm(len(run.unlabelled), generator=torch.Generator().manual_seed(0))]
    assert len(indices) > CACHED
    expected = run.evaluated_by_index(indices).softmax(dim=1)
    predict = run.predictor()
    found = predict(indices)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    finish(run, until=2)
    assert torch.equal(predict(indices), found)
    assert not torch.allclose(run.predictor()(indices), found)
    assert predict(indices[:0]).shape == (0, run.setup.num_classes)


def test_predicting_does_not_change_the_run() -> None:
    run = make_run("pseudo_label", precision="float32")
    finish(run, until=1)
    before = copy.deepcopy(run.state())
    run.predictor()(run.unlabelled)
    assert_same_bits(run.state()["network"], before["network"])
    assert_same_bits(run.state()["ema"], before["ema"])


@pytest.mark.skipif(not has_fast_cpu_bfloat16(), reason="the processor has no bfloat16")
def test_in_bfloat16_the_predictor_is_as_near_to_float32_as_the_evaluated_model_is() -> None:
    run = make_run("pseudo_label", precision="bfloat16")
    finish(run, until=3)
    exact = make_run("pseudo_label", precision="float32")
    exact.ema.network.load_state_dict(run.ema.network.state_dict())
    truth = exact.evaluated_by_index(run.unlabelled).softmax(dim=1)
    found, usual = run.predictor()(run.unlabelled), run.evaluated_by_index(run.unlabelled).softmax(dim=1)
    assert found.dtype == torch.float32
    assert 0 < (found - truth).abs().max() < 0.02
    assert (found - truth).abs().mean() < 2 * (usual - truth).abs().mean()


def test_a_processor_evaluates_few_images_at_once_and_a_gpu_as_many_as_it_may() -> None:
    cpu, before = torch.device("cpu"), torch.get_num_threads()
    try:
        for threads, expected in ((1, [8, CACHED]), (2, [8, 2 * CACHED]), (16, [8, 500])):
            torch.set_num_threads(threads)
            assert [evaluated_at_once(most, cpu) for most in (8, 500)] == expected
    finally:
        torch.set_num_threads(before)
    assert evaluated_at_once(500, torch.device("cuda")) == 500
