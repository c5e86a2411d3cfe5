"""Weights to start from: every kind of file, its classifier left out, and what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from ssl_core.config import from_document
from ssl_core.networks.registry import build_network, normalisation_of
from ssl_core.networks.settling import settle
from ssl_core.networks.weights import load, statistics_of
from ssl_core.schema import BackboneConfig
from ssl_core.system.errors import ConfigError
from ssl_core.training import checkpoint
from tests import tiny

VIT = "timm:vit_tiny_patch16_224"


class Planted:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def build(name: str, side: int = 16, *, seed: int = 0, classes: int = 5, weights: object = "none") -> Any:
    backbone = BackboneConfig(weights=str(weights))
    return build_network(
        name, classes, bn_momentum=0.1, seed=seed, image_size=side, backbone=settled(name, backbone, side)
    )


def settled(name: str, backbone: BackboneConfig, side: int) -> BackboneConfig:
    return settle(name, backbone, (), side, 5)


def refusal(name: str, weights: object, side: int = 16) -> str:
    with pytest.raises(ConfigError) as caught:
        settled(name, BackboneConfig(weights=str(weights)), side)
    said = str(caught.value)
    assert said.startswith(f"backbone.weights = {str(weights)!r}: ") and "\n" not in said
    return said


def differing(one: Any, other: Any) -> set[str]:
    """Names of the tensors of two networks' bodies that are not the same."""
    a, b = one.body.state_dict(), other.body.state_dict()
    return {name for name in a if a[name].shape != b[name].shape or not torch.equal(a[name], b[name])}


def save(network: Any, path: Path, metadata: dict[str, str]) -> None:
    """The network's weights in the safetensors format, which knows no channels-last memory."""
    save_file({name: v.contiguous() for name, v in network.state_dict().items()}, path, metadata=metadata)


def write(kind: str, network: Any, path: Path) -> None:
    """The network's weights, written as people write them."""
    state = {name: value.contiguous() for name, value in network.body.state_dict().items()}
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "state dict":
        torch.save(state, path)
    elif kind == "old state dict":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif kind == "in a dictionary":
        torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    elif kind == "of a wrapper":
        torch.save({f"backbone.{k}": v for k, v in state.items()} | {"projection.w": torch.ones(1)}, path)
    elif kind == "checkpoint":
        checkpoint.write(path, {"network": {}, "ema": network.state_dict()})
    else:
        path.mkdir()
        save(network, path / "model.safetensors", {})


@pytest.mark.parametrize(
    "kind",
    [
        "safetensors",
        "state dict",
        "old state dict",
        "in a dictionary",
        "of a wrapper",
        "checkpoint",
        "folder",
    ],
)
def test_every_kind_of_file_gives_the_same_backbone(tmp_path: Path, kind: str) -> None:
    name = "torchvision:shufflenet_v2_x0_5"
    source = build(name, 32, seed=1)
    write(kind, source, tmp_path / "w")
    network = build(name, 32, classes=7, weights=tmp_path / "w")
    assert differing(source, network) == {"fc.weight", "fc.bias"}
    assert network.trunk.fc.weight.shape == (7, 1024)


def test_a_wide_resnet_s_weights_are_taken_without_its_classifier_and_head(tmp_path: Path) -> None:
    run = tiny.make_run("attention_fixmatch", precision="float32")
    path = tmp_path / "c.ckpt"
    checkpoint.write(path, run.state())
    network = build("wrn-10-1", 8, seed=1, weights=path)
    assert differing(network, run.ema.network) == {"classifier.weight", "classifier.bias"}


def test_files_of_torchvision_and_timm_fit_the_networks_of_those_names(tmp_path: Path) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save(models.resnet18().state_dict(), path)
    for name in ("resnet18", "torchvision:resnet18", "timm:resnet18"):
        assert build(name, 96, weights=path).trunk.conv1.kernel_size == (7, 7)


def test_a_resnet_s_stem_follows_its_weights(tmp_path: Path) -> None:
    for side, stem in ((96, "imagenet"), (16, "small")):
        path = tmp_path / f"{side}.pt"
        torch.save(build("resnet18", side).state_dict(), path)
        for here in (16, 96):
            assert settled("resnet18", BackboneConfig(weights=str(path)), here).stem == stem
    given = BackboneConfig(weights=str(tmp_path / "96.pt"), stem="small")
    with pytest.raises(ConfigError, match=r"conv1.weight is \(64, 3, 7, 7\), expected \(64, 3, 3, 3\)"):
        settled("resnet18", given, 16)


@pytest.mark.parametrize(
    ("name", "key"), [(VIT, "pos_embed"), ("torchvision:vit_b_16", "encoder.pos_embedding")]
)
def test_position_embeddings_of_another_image_size_are_resampled(name: str, key: str) -> None:
    large, small = build(name, 64), build(name, 32, seed=1)
    position = large.body.state_dict()[key]
    with torch.no_grad():
        position[:, 1:] = torch.arange(16.0).view(1, 16, 1)  # the grid's rows grow by 4, its columns by 1
    load(small, dict(large.body.state_dict()), "w", name)
    found = small.body.state_dict()[key]
    assert found.shape[1] == 1 + 4
    assert torch.equal(found[:, 0], position[:, 0])
    grid = found[0, 1:, 0].view(2, 2)
    assert grid.mean().item() == pytest.approx(7.5, abs=0.1)
    assert grid[0, 0] < grid[0, 1] < grid[1, 0] < grid[1, 1]


def test_mean_and_deviation_are_read_from_the_file_or_its_folder(tmp_path: Path) -> None:
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    named = {"mean": json.dumps(mean), "std": json.dumps(std)}
    save_file({"a": torch.ones(1)}, tmp_path / "with.safetensors", metadata=named)
    save_file({"a": torch.ones(1)}, tmp_path / "without.safetensors")
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pt")
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"a": torch.ones(1)}, folder / "model.safetensors")
    (folder / "model.json").write_text(json.dumps({"image": {"mean": mean, "std": std}}))
    assert statistics_of(str(tmp_path / "with.safetensors")) == statistics_of(str(folder)) == (mean, std)
    assert statistics_of(str(tmp_path / "without.safetensors")) is None
    assert statistics_of(str(tmp_path / "a.pt")) is None
    config = from_document(
        {"method": "supervised", "backbone": {"weights": str(folder), "normalise": "data"}}
    )
    assert normalisation_of(config) is None


def test_a_run_starts_from_the_weights_and_names_their_digest(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    source = build("wrn-10-1", 8, seed=5)
    metadata = {"mean": "[0.5, 0.5, 0.5]", "std": "[0.25, 0.25, 0.25]"}
    save(source, path, metadata)
    run = tiny.make_run(backbone={"weights": str(path)})
    assert differing(source, run.network) == {"classifier.weight", "classifier.bias"}
    assert run.data.mean == (0.5, 0.5, 0.5)
    digest = run.config.backbone.weights_digest
    assert digest is not None and len(digest) == 16
    tiny.finish(run, until=1)
    moved = path.rename(tmp_path / "moved.safetensors")
    tiny.make_run(backbone={"weights": str(moved)}).load_state(run.state())  # the same bytes: the same run
    moved.rename(path)
    save(build("wrn-10-1", 8, seed=6), path, {})
    with pytest.raises(ConfigError, match=r"the file was changed: backbone\.weights_digest is"):
        tiny.make_run(backbone={"weights": str(path), "weights_digest": digest})


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(build("wrn-10-1", 8), tmp_path / "w", {})
    monkeypatch.chdir(tmp_path)
    assert settled("wrn-10-1", BackboneConfig(weights="w"), 8).weights == str(tmp_path / "w")


# What is refused.


def test_weights_of_another_architecture_are_refused_and_the_difference_named(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(build("resnet18", 16).state_dict(), path)
    said = refusal("resnet34", path)
    assert "these are not the weights of resnet34" in said and "missing (layer1.2.conv1.weight" in said
    assert "unknown" in refusal("wrn-10-1", path)
    said = refusal("resnet50", path)
    assert "layer1.0.conv1.weight is (64, 64, 3, 3), expected (64, 64, 1, 1)" in said


@pytest.mark.parametrize("how", ["torch.save", "old torch.save", "pickle"])
def test_a_pickle_is_refused_and_not_run(tmp_path: Path, how: str) -> None:
    path, mark = tmp_path / "w.pt", tmp_path / "written"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Planted(mark)))
    else:
        torch.save({"a": Planted(mark)}, path, _use_new_zipfile_serialization=how == "torch.save")
    said = refusal("resnet18", path)
    assert "a pickle" in said and "It is refused" in said and "safetensors" in said
    assert not mark.exists()


def test_files_without_weights_are_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal("wrn-10-1", tmp_path / "nowhere.pt")
    (tmp_path / "folder").mkdir()
    assert "No such file" in refusal("wrn-10-1", tmp_path / "folder")
    for content in (b"", b"text, and no weights", b"\x10\0\0\0\0\0\0\0{damaged"):
        (tmp_path / "w").write_bytes(content)
        assert "it holds no weights that can be read" in refusal("wrn-10-1", tmp_path / "w")
    torch.save(torch.ones(2), tmp_path / "tensor.pt")
    assert "no state dict but Tensor" in refusal("wrn-10-1", tmp_path / "tensor.pt")
    whole = tmp_path / "whole.safetensors"
    save_file({"a": torch.ones(9)}, whole)
    (tmp_path / "half").write_bytes(whole.read_bytes()[:-4])
    assert "it holds no weights that can be read" in refusal("wrn-10-1", tmp_path / "half")


def test_the_library_s_own_error_is_shown_where_weights_cannot_be_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(ConfigError, match=r"'default'.*could not be loaded from http.*urlopen error"):
        build("resnet18", 32, weights="default")


def test_a_state_dict_in_memory_is_not_changed_by_loading_it() -> None:
    network, other = build("wrn-10-1", 8), build("wrn-10-1", 8, seed=1)
    state = dict(other.state_dict())
    before = {name: value.clone() for name, value in state.items()}
    load(network, state, "w", "wrn-10-1")
    tiny.assert_same_bits(state, before)
