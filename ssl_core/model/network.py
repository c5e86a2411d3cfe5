"""A model's network, built from its card: neither the method's code nor pretrained weights are needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError
from torch import nn

from ssl_core.networks.attention import attention_head
from ssl_core.networks.registry import build_network
from ssl_core.schema import MethodConfig, RunConfig
from ssl_core.system.errors import ConfigError

if TYPE_CHECKING:
    from ssl_core.model.card import Card

_OWN = frozenset(RunConfig.model_fields)


def configuration_of(document: Mapping[str, Any]) -> RunConfig:
    """A training's configuration without its method's parameters, which only the method's own code understands.

    Raises:
        ConfigError: a field that this version does not know, or a value out of range.
    """
    method = document.get("method")
    common = {name: value for name, value in document.items() if name in _OWN or name != method}
    try:
        return RunConfig.model_validate({**common, "parameters": MethodConfig()})
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(str(part) for part in problem["loc"])
        raise ConfigError(f"configuration.{name}: {problem['msg']}") from None


def build(card: Card) -> nn.Module:
    """The network of a card, with initial weights, on the CPU.

    Raises:
        ConfigError: the card's configuration or network is not one of this version's.
    """
    config = configuration_of(card.configuration)
    try:
        return build_network(
            card.network.name,
            len(card.classes),
            bn_momentum=config.bn_momentum or 0.1,
            seed=config.seed,
            head=attention_head(card.network.attention_maps),
            image_size=card.image.size,
            backbone=config.backbone,
            load_weights=False,  # those of the model follow
        )
    except ValueError as error:
        raise ConfigError(f"network {card.network.name!r}: {error}") from None


class Classifier(nn.Module):
    """From pixels to logits: normalisation and network in one module.

    Args:
        network: takes normalised images (n, 3, S, S).
        mean, std: of each channel, of pixel / 255.
    """

    scale: torch.Tensor
    offset: torch.Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        dtype = next(network.parameters()).dtype
        # As in `ssl_core.augment.weak.normalise`, to the bit; buffers, because its tensors are no part of a graph.
        scale = [1 / (255 * s) for s in std]
        offset = [-m / s for m, s in zip(mean, std, strict=True)]
        self.register_buffer("scale", torch.tensor(scale, dtype=dtype), persistent=False)
        self.register_buffer("offset", torch.tensor(offset, dtype=dtype), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (n, C) of images (n, S, S, 3), uint8 or floating point from 0 to 255."""
        pixels = torch.addcmul(self.offset, images.to(self.scale.dtype), self.scale)
        logits: torch.Tensor = self.network(pixels.permute(0, 3, 1, 2)).logits
        return logits
