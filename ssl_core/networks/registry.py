"""The networks by name. A new one is named in `parse_network` and built in `build_network`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssl_core.networks.wide_resnet import WideResNet

SMALLEST = "wrn-10-1"


def parse_network(name: str) -> tuple[int, int]:
    """Depth and widening factor of a name such as ``wrn-28-2``.

    Raises:
        ValueError: if the name has another form, or the depth is not 6n + 4.
    """
    match = re.fullmatch(r"wrn-(\d{1,3})-(\d{1,2})", name)
    if match is None or int(match[1]) < 10 or (int(match[1]) - 4) % 6 or int(match[2]) < 1:
        raise ValueError("a network is wrn-DEPTH-WIDTH with depth 10, 16, 22, 28, ... such as wrn-28-2")
    return int(match[1]), int(match[2])


def build_network(
    name: str, num_classes: int, *, bn_momentum: float, seed: int, attention_maps: int = 0
) -> WideResNet:
    """The initialised network of a name such as ``wrn-28-2``, on the CPU, channels-last.

    Args:
        name: as in `parse_network`.
        num_classes: outputs of the classifier.
        bn_momentum: weight of a new batch in BatchNorm's running statistics.
        seed: of the training; the backbone and the attention head have a random stream each.
        attention_maps: maps of the attention head; 0: no head.

    Raises:
        ValueError: if the name is not a network's.
    """
    # Delayed, because these load torch, and a configuration that names a network is checked without it.
    import torch

    from ssl_core.networks.wide_resnet import WideResNet
    from ssl_core.training.rng import generator

    depth, width = parse_network(name)
    network = WideResNet(depth, width, num_classes, bn_momentum, attention_maps)
    network.initialise(generator(seed, "initialisation"), generator(seed, "attention head"))
    return network.to(memory_format=torch.channels_last)
