"""WideResNet: parameters counted by hand, and the forward pass against one written from the definition."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssl_core.networks.attention import attention_head
from ssl_core.networks.registry import build_network
from ssl_core.networks.settling import settle
from ssl_core.networks.wide_resnet import Block, WideResNet
from ssl_core.schema import BackboneConfig
from ssl_core.system.errors import ConfigError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(name: str, classes: int = 10, maps: int = 0) -> WideResNet:
    return build_network(name, classes, bn_momentum=0.1, seed=0, head=attention_head(maps))


def block_parameters(inputs: int, outputs: int) -> int:
    """By hand: BatchNorm 2 * inputs, 3x3 convolution, BatchNorm 2 * outputs, 3x3 convolution, 1x1 shortcut
    where the number of channels changes."""
    shortcut = inputs * outputs if inputs != outputs else 0
    return 2 * inputs + 9 * inputs * outputs + 2 * outputs + 9 * outputs * outputs + shortcut


def test_wrn_28_2_has_the_parameters_that_a_hand_count_gives() -> None:
    stem, last_norm, classifier = 3 * 16 * 9, 2 * 128, 128 * 10 + 10
    stages = sum(
        block_parameters(inputs, outputs) + 3 * block_parameters(outputs, outputs)
        for inputs, outputs in [(16, 32), (32, 64), (64, 128)]
    )
    count = sum(p.numel() for p in build("wrn-28-2").parameters())
    assert count == stem + stages + last_norm + classifier == 1_467_610


@pytest.mark.parametrize(
    ("name", "classes", "side", "channels"),
    [("wrn-10-1", 3, 8, 64), ("wrn-16-2", 7, 16, 128), ("wrn-10-1", 10, 32, 64)],
)
def test_shapes_of_the_output(name: str, classes: int, side: int, channels: int) -> None:
    output = build(name, classes)(torch.randn(5, 3, side, side, generator=seeded()))
    assert output.logits.shape == (5, classes)
    assert output.features.shape == (5, channels, side // 4, side // 4)


def test_initial_weights_have_the_reference_s_spread() -> None:
    network = build("wrn-28-2")
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            size = module.kernel_size[0]
            expected = math.sqrt(2 / (size * size * module.out_channels))
            weights = module.weight.detach()
            n = weights.numel()
            assert abs(weights.std().item() / expected - 1) < 5 / math.sqrt(2 * n), name  # 5 standard errors
            assert abs(weights.mean().item()) < 5 * expected / math.sqrt(n), name
    weights = network.classifier.weight.detach()
    assert abs(weights.std().item() / math.sqrt(2 / (128 + 10)) - 1) < 5 / math.sqrt(2 * weights.numel())


def test_biases_start_at_zero_and_norms_as_the_identity() -> None:
    network = build("wrn-16-2")
    assert network.classifier.bias.abs().sum() == 0
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 2 * 6 + 1
    assert all((m.weight == 1).all() and (m.bias == 0).all() for m in norms)
    assert all(m.bias is None for m in network.modules() if isinstance(m, nn.Conv2d))


def test_batchnorm_s_momentum_reaches_every_layer() -> None:
    network = build_network("wrn-16-2", 10, bn_momentum=0.03, seed=0, head=attention_head(2))
    assert {m.momentum for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {0.03}


def test_only_the_first_block_activates_before_the_residual() -> None:
    blocks = [m for m in build("wrn-28-2").modules() if isinstance(m, Block)]
    assert [b.activate_before_residual for b in blocks] == [True] + 11 * [False]


def slow_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)


def slow_conv(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """A convolution as a sum over the kernel's positions."""
    size, reach = weight.shape[2], weight.shape[2] // 2
    padded = nn.functional.pad(x, (reach, reach, reach, reach))
    height, width = x.shape[2], x.shape[3]
    total = torch.zeros(())
    for row in range(size):
        for column in range(size):
            window = padded[:, :, row : row + height : stride, column : column + width : stride]
            total = total + torch.einsum("nihw,oi->nohw", window, weight[:, :, row, column])
    return total


def slow_forward(p: dict[str, Tensor], x: Tensor, blocks_per_stage: int) -> tuple[Tensor, Tensor]:
    """Training-mode WideResNet from its parameters alone."""

    def act(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.1 * x)

    x = slow_conv(x, p["stem.weight"])
    for number in range(3 * blocks_per_stage):
        key = f"blocks.{number}."
        stage, first = number // blocks_per_stage, number % blocks_per_stage == 0
        stride = 2 if stage > 0 and first else 1
        active = act(slow_norm(x, p[key + "bn1.weight"], p[key + "bn1.bias"]))
        inner = slow_conv(active, p[key + "conv1.weight"], stride)
        inner = act(slow_norm(inner, p[key + "bn2.weight"], p[key + "bn2.bias"]))
        inner = slow_conv(inner, p[key + "conv2.weight"])
        residual = active if number == 0 else x
        if key + "shortcut.weight" in p:
            residual = slow_conv(residual, p[key + "shortcut.weight"], stride)
        x = inner + residual
    features = act(slow_norm(x, p["bn.weight"], p["bn.bias"]))
    weighed = features
    if "head.conv1.weight" in p:
        inner = slow_norm(slow_conv(features, p["head.conv1.weight"]), p["head.bn.weight"], p["head.bn.bias"])
        maps = slow_conv(inner.clamp(min=0), p["head.conv2.weight"]) + p["head.conv2.bias"].view(1, -1, 1, 1)
        maps = maps / math.sqrt(features.shape[1])
        weighed = sum(maps[:, m : m + 1] for m in range(maps.shape[1])) * features
    pooled = weighed.mean(dim=(2, 3))
    return pooled @ p["classifier.weight"].T + p["classifier.bias"], features


@pytest.mark.parametrize(
    ("name", "blocks_per_stage", "maps"),
    [("wrn-10-1", 1, 0), ("wrn-16-1", 2, 0), ("wrn-16-2", 2, 0), ("wrn-10-1", 1, 2)],
)
def test_the_forward_pass_is_the_definition_s(name: str, blocks_per_stage: int, maps: int) -> None:
    network = build(name, maps=maps).double()
    with torch.no_grad():  # away from the identity, so that every scale and shift counts
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=seeded(1), dtype=torch.float64)
    images = torch.randn(6, 3, 8, 8, generator=seeded(2), dtype=torch.float64)
    output = network(images)
    logits, features = slow_forward(dict(network.named_parameters()), images, blocks_per_stage)
    torch.testing.assert_close(output.logits, logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(output.features, features, rtol=1e-9, atol=1e-9)


def numpy_conv(x: Any, weight: Any, stride: int) -> Any:
    """A convolution with SAME padding as TensorFlow defines it, one output place at a time."""
    size = weight.shape[2]
    outputs = [-(-side // stride) for side in x.shape[2:]]
    totals = [max((n - 1) * stride + size - side, 0) for n, side in zip(outputs, x.shape[2:], strict=True)]
    padded = np.pad(x, [(0, 0), (0, 0), *((total // 2, total - total // 2) for total in totals)])
    result = np.zeros((len(x), len(weight), *outputs))
    for row in range(outputs[0]):
        for column in range(outputs[1]):
            top, left = row * stride, column * stride
            window = padded[:, :, top : top + size, left : left + size]
            result[:, :, row, column] = np.tensordot(window, weight, ([1, 2, 3], [1, 2, 3]))
    return result


def numpy_reference(p: dict[str, Any], x: Any) -> Any:
    """Logits of the FixMatch reference's WRN-10-1 in training mode: SAME padding, epsilon 1e-3."""

    def active(x: Any, key: str) -> Any:
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
        scale = p[f"{key}.weight"] / np.sqrt(variance + 1e-3)
        y = (x - mean[:, None, None]) * scale[:, None, None] + p[f"{key}.bias"][:, None, None]
        return np.where(y > 0, y, 0.1 * y)

    x = numpy_conv(x, p["stem.weight"], 1)
    for number, stride in enumerate((1, 2, 2)):
        key = f"blocks.{number}"
        start = active(x, f"{key}.bn1")
        inner = active(numpy_conv(start, p[f"{key}.conv1.weight"], stride), f"{key}.bn2")
        residual = start if number == 0 else x
        if f"{key}.shortcut.weight" in p:
            residual = numpy_conv(residual, p[f"{key}.shortcut.weight"], stride)
        x = numpy_conv(inner, p[f"{key}.conv2.weight"], 1) + residual
    return active(x, "bn").mean((2, 3)) @ p["classifier.weight"].T + p["classifier.bias"]


@pytest.mark.parametrize("side", [8, 9])  # an even side is padded at its end alone, an odd one on both
def test_the_reference_variant_has_the_reference_s_padding_and_epsilon(side: int) -> None:
    networks = [
        build_network(
            "wrn-10-1",
            4,
            bn_momentum=0.1,
            seed=0,
            backbone=BackboneConfig.model_validate({"variant": variant}),
        ).double()
        for variant in ("reference", "pytorch")
    ]
    assert all(
        torch.equal(one, other)
        for one, other in zip(*(n.state_dict().values() for n in networks), strict=True)
    )
    images = torch.randn(6, 3, side, side, generator=seeded(2), dtype=torch.float64)
    found, usual = (network(images).logits.detach().numpy() for network in networks)
    values = {name: p.detach().numpy() for name, p in networks[0].named_parameters()}
    np.testing.assert_allclose(found, numpy_reference(values, images.numpy()), rtol=1e-9, atol=1e-9)
    assert np.abs(found - usual).max() > 1e-3


def test_the_reference_variant_is_refused_of_other_networks_and_leaves_epsilon_to_who_names_it() -> None:
    chosen = BackboneConfig(variant="reference", bn_epsilon=1e-4)
    network = build_network("wrn-10-1", 4, bn_momentum=0.1, seed=0, backbone=chosen)
    assert {m.eps for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-4}
    with pytest.raises(ConfigError, match=r"backbone.variant = 'reference'.*resnet18.*wrn-28-2"):
        settle("resnet18", BackboneConfig(variant="reference"), (), 32, 4)


def test_the_same_seed_gives_the_same_bits_whatever_the_global_generator() -> None:
    torch.manual_seed(1)
    one = build("wrn-10-1").state_dict()
    torch.manual_seed(2)
    other = build("wrn-10-1").state_dict()
    third = build_network("wrn-10-1", 10, bn_momentum=0.1, seed=1).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one["stem.weight"], third["stem.weight"])


def test_the_backbone_s_bits_are_the_same_with_and_without_an_attention_head() -> None:
    plain, with_head = build("wrn-10-1").state_dict(), build("wrn-10-1", maps=2).state_dict()
    assert plain.keys() == {name for name in with_head if not name.startswith("head.")}
    assert all(torch.equal(plain[name], with_head[name]) for name in plain)


def test_an_attention_head_s_bits_do_not_depend_on_the_backbone() -> None:
    heads = [build(name, maps=2).head for name in ("wrn-10-1", "wrn-16-1")]
    one, other = (head.state_dict() for head in heads if head is not None)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert one["conv1.weight"].std() > 0


def test_an_attention_head_gives_its_maps_and_has_the_parameters_of_a_hand_count() -> None:
    plain, network = build("wrn-10-1"), build("wrn-10-1", maps=3)
    images = torch.randn(5, 3, 16, 16, generator=seeded())
    assert plain(images).head is None
    assert network(images).head.shape == (5, 3, 4, 4)
    counts = [sum(p.numel() for p in each.parameters()) for each in (plain, network)]
    assert counts[1] - counts[0] == 64 * 64 + 2 * 64 + 64 * 3 + 3
    assert network.head is not None and network.head.conv2.bias.abs().sum() == 0


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(ValueError, match="wrn-DEPTH-WIDTH"):
        build("wrn-11-1")
