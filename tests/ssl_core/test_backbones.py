"""Networks of libraries: the library's own results, what methods read of them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from ssl_core.config import from_document, resolve
from ssl_core.methods.base import Method
from ssl_core.networks.attention import attention_head
from ssl_core.networks.library import LibraryNetwork
from ssl_core.networks.names import check_name
from ssl_core.networks.registry import IMAGENET, build_network, network_of, normalisation_of
from ssl_core.networks.settling import settle
from ssl_core.schema import BackboneConfig
from ssl_core.system.errors import ConfigError
from ssl_core.training import checkpoint
from tests import tiny

VIT = "timm:vit_tiny_patch16_224"
SMALL = ("resnet18", VIT, "torchvision:squeezenet1_1", "torchvision:shufflenet_v2_x0_5", "timm:convnext_atto")


def build(name: str, side: int, maps: int = 0, **fields: Any) -> Any:
    return build_network(
        name, 5, bn_momentum=0.1, seed=0, head=attention_head(maps), image_size=side, **fields
    )


def images(side: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def refusal(name: str, *, side: int = 32, needs: tuple[str, ...] = (), **backbone: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        settle(name, BackboneConfig(**backbone), needs, side, 5)
    return str(caught.value)


@pytest.mark.parametrize("name", SMALL)
def test_logits_are_those_of_the_library_s_own_forward_pass(name: str) -> None:
    network = build(name, 64).eval()
    with torch.no_grad():
        output = network(images(64))
        assert output.logits.shape == (2, 5)
        assert torch.equal(output.logits, network.trunk(images(64)))


@pytest.mark.parametrize(("name", "channels", "side"), [("resnet18", 512, 8), (VIT, 192, 4)])
def test_a_head_attends_to_the_last_feature_maps(name: str, channels: int, side: int) -> None:
    network = build(name, 64, maps=3).eval()
    with torch.no_grad():
        output = network(images(64))
        assert output.features.shape == (2, channels, side, side)
        assert output.attention.shape == (2, 3, side, side)
        pooled = (output.attention.sum(dim=1, keepdim=True) * output.features).mean(dim=(2, 3))
        expected = network.heads[0](pooled)
    torch.testing.assert_close(output.logits, expected, rtol=1e-4, atol=1e-5)


def test_a_vit_s_maps_are_its_patches_where_they_are_in_the_image() -> None:
    network = build(VIT, 64).eval()
    one = images(64, 1)
    other = one.clone()
    other[:, :, 16:32, 48:64] += 5  # the patch of row 1, column 3
    with torch.no_grad():
        tokens = [network.trunk.forward_features(x)[:, 1:] for x in (one, other)]
        maps = [network(x).features for x in (one, other)]
    assert torch.equal(maps[0][0, :, 1, 3], tokens[0][0, 4 * 1 + 3])
    moved = (maps[1] - maps[0]).square().sum(dim=1)[0]
    assert divmod(int(moved.argmax()), 4) == (1, 3)


def test_the_small_stem_is_for_images_of_up_to_64_pixels() -> None:
    for side, kernel in ((32, 3), (64, 3), (65, 7)):
        stem = settle("resnet18", BackboneConfig(), (), side, 5).stem
        assert stem == ("small" if kernel == 3 else "imagenet")
        network = build("resnet18", side, backbone=BackboneConfig(stem=stem))
        assert network.trunk.conv1.kernel_size == (kernel, kernel)
        assert isinstance(network.trunk.maxpool, nn.Identity) == (kernel == 3)
    assert settle("resnet18", BackboneConfig(stem="imagenet"), (), 32, 5).stem == "imagenet"
    assert settle("resnet18", BackboneConfig(weights="default"), (), None, 5).stem == "imagenet"


def test_the_names_of_a_resnet_s_parameters_are_torchvision_s() -> None:
    network = build("resnet18", 96)
    assert network.body.state_dict().keys() == models.resnet18().state_dict().keys()


def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    one = build(VIT, 32)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)
    torch.manual_seed(2)
    other, third = build(VIT, 32, maps=2), build_network(VIT, 5, bn_momentum=0.1, seed=1, image_size=32)
    states = [network.body.state_dict() for network in (one, other, third)]
    tiny.assert_same_bits(dict(states[0]), dict(states[1]))  # a head changes nothing of the rest
    assert not tiny.same_bits(dict(states[0]), dict(states[2]))


def test_batchnorm_s_momentum_and_epsilon_reach_every_layer() -> None:
    for name in ("resnet18", "wrn-10-1"):
        network = build_network(
            name, 5, bn_momentum=0.03, seed=0, image_size=16, backbone=BackboneConfig(bn_epsilon=1e-3)
        )
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        assert {(m.momentum, m.eps) for m in norms} == {(0.03, 1e-3)}
    assert {m.eps for m in build("wrn-10-1", 16).modules() if isinstance(m, nn.BatchNorm2d)} == {1e-5}


def test_a_network_is_built_again_from_a_resolved_configuration_without_its_weights(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(build("resnet18", 16).state_dict(), path)
    data = tiny.make_data(side=16)
    config = tiny.make_config("supervised", data, network="resnet18", backbone={"weights": str(path)})
    trained = network_of(config, 3, 16).state_dict()
    path.unlink()
    again = network_of(config, 3, 16, load_weights=False)
    again.load_state_dict(trained)
    tiny.assert_same_bits(dict(trained), dict(again.state_dict()))


# What is refused.


@pytest.mark.parametrize(
    ("name", "near"),
    [("resnet19", "resnet18"), ("wrn28-2", "wrn-28-2"), ("torchvison:resnet18", "torchvision:resnet18")],
)
def test_an_unknown_network_is_refused_with_the_nearest_names(name: str, near: str) -> None:
    with pytest.raises(ValueError, match="a network is wrn-DEPTH-WIDTH") as caught:
        check_name(name)
    assert near in str(caught.value).partition("did you mean")[2]


def test_a_network_that_its_library_has_not_is_refused_with_the_nearest_name() -> None:
    assert "Did you mean 'torchvision:mobilenet_v2'?" in refusal("torchvision:mobilnet_v2")
    assert "Did you mean 'timm:vit_tiny_patch16_224'?" in refusal("timm:vit_tiny_patch16_223")
    assert "fasterrcnn" not in refusal("torchvision:nothing")


@pytest.mark.parametrize(
    ("name", "side"), [("torchvision:inception_v3", 32), (VIT, 8), ("torchvision:maxvit_t", 64)]
)
def test_an_image_size_that_the_network_cannot_take_is_refused(name: str, side: int) -> None:
    said = refusal(name, side=side)
    assert said.startswith(f"network = {name!r}: it cannot take images of {side}x{side} pixels")
    assert "data.image_size" in said and "\n" not in said


def test_a_network_that_lacks_what_the_method_needs_is_refused() -> None:
    said = refusal("torchvision:googlenet", side=64, needs=("attention",))
    assert "the method needs attention" in said and "resnet18" in said
    settle("torchvision:googlenet", BackboneConfig(), (), 64, 5)
    said = refusal("torchvision:alexnet", side=64, needs=("attention",))
    assert "one pixel" in said
    settle("torchvision:alexnet", BackboneConfig(), ("features",), 64, 5)


def test_a_method_says_what_it_needs_and_a_run_with_less_is_refused() -> None:
    data = tiny.make_data(side=64)
    method: Method[Any, Any] = tiny.method_named("attention_fixmatch")
    assert method.needs(method.Config()) == {"positions"}
    assert method.needs(method.Config(maps=0, lambda_att=0)) == frozenset()
    with pytest.raises(ConfigError, match="the method needs positions"):
        tiny.make_config("attention_fixmatch", data, network="torchvision:googlenet")
    tiny.make_config("fixmatch", data, network="torchvision:googlenet")


def test_a_stem_is_refused_where_there_is_no_choice() -> None:
    assert "wrn-10-1 has one stem only" in refusal("wrn-10-1", stem="small")


def test_a_wide_resnet_has_no_default_weights() -> None:
    assert "comes with no library" in refusal("wrn-10-1", weights="default")


def test_unknown_keys_of_the_section_are_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean 'backbone\.weights'"):
        from_document({"method": "supervised", "backbone": {"weigths": "none"}})


# In a run.


def test_documents_of_the_defaults_are_those_of_before() -> None:
    document = from_document({"method": "supervised"}).document()
    assert not document.keys() & {"backbone", "optimizer", "schedule", "clip_norm", "head_epochs"}
    resolved = tiny.make_config("supervised", tiny.make_data()).document()
    assert not resolved.keys() & {"backbone", "optimizer", "schedule", "clip_norm", "head_epochs"}


def test_a_resolved_configuration_names_the_stem() -> None:
    config = tiny.make_config("supervised", tiny.make_data(side=16), network="resnet18")
    assert config.document()["backbone"] == {"stem": "small"}
    assert from_document(config.document()) == config
    assert resolve(config, tiny.info_of(tiny.make_data(side=16))) == config


@pytest.mark.parametrize(
    ("method", "network", "side"),
    [
        ("attention_fixmatch", "resnet18", 64),
        ("attention_fixmatch", VIT, 64),
        ("vat", "torchvision:squeezenet1_1", 32),  # with dropout
    ],
)
def test_a_run_trains_and_resumes_to_the_same_bits(
    tmp_path: Path, method: str, network: str, side: int
) -> None:
    data = tiny.make_data(side=side)
    fields = {"network": network, "epochs": 2, "steps_per_epoch": 1, "warmup_epochs": 0, "mu": 1}
    whole, first, second = (tiny.make_run(method, data=data, **fields) for _ in range(3))
    before = {name: value.clone() for name, value in whole.network.named_parameters()}
    tiny.finish(whole)
    still = [name for name, value in whole.network.named_parameters() if torch.equal(value, before[name])]
    assert still == []
    tiny.finish(first, until=1)
    checkpoint.write(tmp_path / "c", first.state())
    torch.manual_seed(99)
    second.load_state(checkpoint.read(tmp_path / "c"))
    tiny.finish(second)
    tiny.assert_same_bits(tiny.everything(whole), tiny.everything(second))
    assert whole.evaluated(whole.images[:2]).shape == (2, 3)


def test_images_are_normalised_by_the_statistics_of_the_weights() -> None:
    data = tiny.make_data(side=16)
    own = tiny.make_config("supervised", data, network="resnet18")
    assert normalisation_of(own) is None
    asked = {"network": "resnet18", "backbone": {"normalise": "imagenet"}}
    run = tiny.make_run(data=data, **asked)
    assert (run.data.mean, run.data.std) == IMAGENET
    pixels = data.images[:1] / 255
    expected = (torch.tensor(pixels) - torch.tensor(IMAGENET[0])) / torch.tensor(IMAGENET[1])
    torch.testing.assert_close(run.normalise(run.images[:1]).double(), expected.permute(0, 3, 1, 2).double())
    for network in ("resnet18", "torchvision:resnet18", "timm:resnet18"):
        config = own.model_copy(update={"network": network, "backbone": BackboneConfig(weights="default")})
        assert normalisation_of(config) == IMAGENET
    vit = own.model_copy(update={"network": VIT, "backbone": BackboneConfig(weights="default")})
    assert normalisation_of(vit) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_a_library_network_is_told_from_one_whose_noise_needs_no_seed() -> None:
    assert isinstance(build("resnet18", 16), LibraryNetwork)
    assert not build("resnet18", 16).draws_noise and build(VIT, 32).draws_noise
