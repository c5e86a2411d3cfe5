"""A network of a library as this project uses one: what methods read of it, and where its backbone ends.

Shapes: n images, C classes, D channels of the last feature maps of h x w positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssl_core.networks.base import Head, Network, NetworkOutput


@dataclass(frozen=True)
class Parts:
    """How the forward pass of a network is taken apart; each function gets the network first.

    Attributes:
        encode: images (n, 3, H, W) to what the classifier reads: feature maps or tokens.
        classify: that to logits (n, C).
        maps: what `encode` gave, as feature maps (n, D, h, w); a transformer's are its tokens on their grid.
        classify_maps: feature maps (n, D, h, w), weighted by a head, to logits. A transformer whose classifier reads
            a class token classifies the mean of the weighted tokens instead.
    """

    encode: Callable[[Any, Tensor], Tensor]
    classify: Callable[[Any, Tensor], Tensor]
    maps: Callable[[Any, Tensor], Tensor]
    classify_maps: Callable[[Any, Tensor], Tensor]


def same(_: object, features: Tensor) -> Tensor:
    """Feature maps as they are."""
    return features


class LibraryNetwork(Network):
    """A library's network with a classifier for C classes, and a method's head if it has one.

    Args:
        trunk: the library's network, its classifier included.
        parts: how it is taken apart; None: it gives logits only.
        classifier: names of the layers in `trunk` that depend on the classes.
        left_out: beginnings of names in a file of weights that this network does not use, besides the classifier.
        adapt: changes a state dict that was made for another image size to fit the network.
    """

    draws_noise = True

    def __init__(
        self,
        trunk: nn.Module,
        parts: Parts | None,
        classifier: tuple[str, ...],
        *,
        left_out: tuple[str, ...] = (),
        adapt: Callable[[Any, dict[str, Tensor]], dict[str, Tensor]] | None = None,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.head: Head | None = None
        self.parts, self.classifier_names = parts, classifier
        self.left_out, self._adapt = left_out, adapt

    @property
    def heads(self) -> list[nn.Module]:
        layers = [self.trunk.get_submodule(name) for name in self.classifier_names]
        return layers if self.head is None else [*layers, self.head]

    @property
    def body(self) -> nn.Module:
        return self.trunk

    def adapted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return state if self._adapt is None else self._adapt(self.trunk, state)

    def forward(self, images: Tensor) -> NetworkOutput:
        """Logits of normalised images, (n, 3, H, W), with feature maps and what the head gives where there are some."""
        if self.parts is None:
            return NetworkOutput(self.trunk(images), None)
        encoded = self.parts.encode(self.trunk, images)
        features = self.parts.maps(self.trunk, encoded)
        if self.head is None:
            return NetworkOutput(self.parts.classify(self.trunk, encoded), features)
        values = self.head(features)
        weights = self.head.pooling(values)
        if weights is None:
            return NetworkOutput(self.parts.classify(self.trunk, encoded), features, values)
        return NetworkOutput(self.parts.classify_maps(self.trunk, weights * features), features, values)


def last_layer(trunk: nn.Module) -> str:
    """Name of the last linear or convolutional layer: the classifier of a network whose classifier comes last."""
    layers = (nn.Linear, nn.Conv2d)
    names: list[str] = [name for name, module in trunk.named_modules() if isinstance(module, layers)]
    return names[-1]


def initialise_classifier(network: LibraryNetwork, stream: torch.Generator) -> None:
    """Xavier normal weights and zero biases, as WideResNet's classifier has them."""
    for name in network.classifier_names:
        layer = network.trunk.get_submodule(name)
        for key, parameter in layer.named_parameters():
            if key == "bias":
                nn.init.zeros_(parameter)
            else:
                nn.init.xavier_normal_(parameter, generator=stream)


def feature_shape(network: LibraryNetwork, image_size: int) -> tuple[int, ...]:
    """(D, h, w) of the last feature maps of an image. The network does not change.

    Raises:
        RuntimeError, ValueError, AssertionError: the network cannot take such images (the library's own error).
    """
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    with torch.no_grad():
        features = network(torch.zeros(1, 3, image_size, image_size, device=device)).features
    network.train(was_training)
    return () if features is None else tuple(features.shape[1:])
