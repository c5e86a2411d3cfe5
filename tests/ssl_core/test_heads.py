"""A method's own head on the network: built, trained, resumed and left out through one hook."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from ssl_core import method_file
from ssl_core.config import resolve
from ssl_core.methods.base import has_own_head
from ssl_core.registry import get_method
from ssl_core.system.errors import ConfigError
from ssl_core.training import checkpoint
from tests.tiny import assert_same_bits, everything, finish, info_of, make_config, make_data, make_run

PROJECTION = '''
"""A projection head with dropout and a norm of its own, and a loss on what it gives."""

import torch

from ssl_core import losses
from ssl_core.methods.base import LossOutput, Method
from ssl_core.networks.base import Head


class Projection(Head):
    def __init__(self, channels):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(channels, 5), torch.nn.BatchNorm1d(5), torch.nn.Dropout(0.3), torch.nn.Linear(5, 2)
        )

    def forward(self, features):
        return self.layers(features.mean(dim=(2, 3)))


class Projecting(Method):
    name = "projecting"
    summary = "draws the projections of two weak views together"

    def views(self, config):
        return {"weak": 2}

    def head(self, config, channels):
        return Projection(channels)

    def compute_loss(self, config, step):
        labelled = step.forward(step.batch.labelled)
        one, other = (
            step.forward(view, update_statistics=False).head for view in step.batch.views_of("weak")
        )
        supervised = losses.cross_entropy(labelled.logits, step.batch.labels).mean()
        distance = (one - other).square().mean()
        return LossOutput(
            total=supervised + distance,
            terms={"loss_supervised": supervised, "loss_unsupervised": distance},
        )


METHOD = Projecting()
'''

EARLIER_HEAD = '''
"""Supervised training through an attention head; written when a head was a number of maps."""

from ssl_core import losses
from ssl_core.methods.base import LossOutput, Method


class Attending(Method):
    name = "attending"
    summary = "supervised, with attention"
    has_warmup = False

    def attention_maps(self, config):
        return 2

    def compute_loss(self, config, forward, batch, state, progress, generator):
        output = forward(batch.labelled)
        loss = losses.cross_entropy(output.logits, batch.labels).mean()
        spread = output.attention.var()
        return LossOutput(total=loss + spread, terms={"loss_supervised": loss, "spread": spread})


METHOD = Attending()
'''


def named(tmp_path: Path, text: str) -> str:
    path = tmp_path / "own.py"
    path.write_text(text)
    return f"file:{path}"


def test_a_head_is_trained_averaged_and_resumed_to_the_same_bits(tmp_path: Path) -> None:
    name = named(tmp_path, PROJECTION)
    whole = make_run(name)
    before = {k: v.clone() for k, v in whole.network.head.state_dict().items()}
    finish(whole, until=2)
    checkpoint.save(tmp_path / "kept", 2, whole.state())
    finish(whole)
    for part in (whole.network, whole.ema.network):
        after = part.head.state_dict()
        for key in ("layers.0.weight", "layers.1.weight", "layers.1.running_mean", "layers.3.weight"):
            assert not torch.equal(after[key], before[key]), key
    resumed = make_run(name)
    resumed.load_state(checkpoint.read(checkpoint.path_of(tmp_path / "kept", 2)))
    torch.manual_seed(123)  # the head's dropout has a stream of its own
    finish(resumed)
    assert_same_bits(everything(resumed), everything(whole))


def test_the_head_s_norms_obey_what_a_pass_asks_for(tmp_path: Path) -> None:
    run = make_run(named(tmp_path, PROJECTION), bn_momentum=0.07)
    run.network.train()
    norm = run.network.head.layers[1]
    before = norm.running_mean.clone()
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert norm.momentum == 0.07
    run.forward(images, update_statistics=False)
    assert torch.equal(norm.running_mean, before)
    run.forward(images)
    assert not torch.equal(norm.running_mean, before)


def test_the_head_starts_from_a_stream_of_its_own_and_changes_no_other(tmp_path: Path) -> None:
    name = named(tmp_path, PROJECTION)
    torch.manual_seed(1)
    one = make_run(name).network.state_dict()
    torch.manual_seed(2)
    other, plain = make_run(name).network.state_dict(), make_run("supervised").network.state_dict()
    assert_same_bits(one, other)
    assert_same_bits({k: v for k, v in one.items() if not k.startswith("head.")}, dict(plain))
    moved = make_run(name, seed=4).network.state_dict()
    assert not torch.equal(one["head.layers.0.weight"], moved["head.layers.0.weight"])


def test_an_earlier_file_s_attention_maps_are_a_head(tmp_path: Path) -> None:
    own, attention = make_run(named(tmp_path, EARLIER_HEAD)), make_run("attention_fixmatch")
    heads = [run.network.head.state_dict() for run in (own, attention)]
    assert_same_bits(*heads)
    assert "train/spread" in finish(own)[-1].metrics


def test_a_head_that_is_none_is_refused(tmp_path: Path) -> None:
    text = PROJECTION.replace("return Projection(channels)", "return channels")
    with pytest.raises(ConfigError, match=r"head\(\) returned int.*ssl_core.networks.base.Head is expected"):
        make_run(named(tmp_path, text))


def test_a_method_with_a_head_needs_feature_maps(tmp_path: Path) -> None:
    method = get_method(named(tmp_path, PROJECTION))
    assert has_own_head(method) and method.needs(method.Config()) == {"features"}
    assert not has_own_head(get_method("fixmatch"))
    data = make_data(side=64)
    config = make_config(f"file:{tmp_path / 'own.py'}", data, network="wrn-10-1")
    with pytest.raises(ConfigError, match=r"googlenet.*the method needs features"):
        resolve(config.model_copy(update={"network": "torchvision:googlenet"}), info_of(data))


def test_only_a_head_that_the_classifier_depends_on_stands_in_a_model_s_way(tmp_path: Path) -> None:
    from ssl_core.model.making import _without_code

    run: Any = make_run(named(tmp_path, PROJECTION))
    maps, weights = _without_code(run)
    assert maps == 0 and not any(name.startswith("head.") for name in weights)
    assert weights.keys() == make_run("supervised").network.state_dict().keys()
    weighing = PROJECTION.replace(
        "    def forward(self, features):",
        "    def pooling(self, values):\n        return values[:, :1, None, None]\n\n    def forward(self, features):",
    )
    (tmp_path / "other").mkdir()
    with pytest.raises(ConfigError, match="head of the method 'projecting' weighs what the classifier reads"):
        _without_code(make_run(named(tmp_path / "other", weighing)))


def test_the_contract_names_no_method_s_needs() -> None:
    assert not hasattr(get_method("fixmatch"), "attention_maps")
    assert method_file.KINDS == ("weak", "strong")
    assert dataclasses.is_dataclass(make_run("fixmatch").setup)
