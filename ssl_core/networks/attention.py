"""The attention head of a network (report, section 2.3)."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from ssl_core.networks.base import Head, HeadMaker


class AttentionHead(Head):
    """M attention maps over the last feature maps: conv 1x1 (D to D), BatchNorm, ReLU, conv 1x1 (D to M).

    Unlike in the report, the maps are divided by sqrt(D). Their sum then starts with unit variance for every D and M,
    and one step of the optimiser cannot multiply it. Without the division the sum starts with a standard deviation of
    sqrt(D): an untrained network makes confident predictions, and at lr 0.1 (batch of 16, D = 128) weights overflow
    within 20 steps, even from small initial weights.
    """

    def __init__(self, channels: int, maps: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, maps, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.conv2(functional.relu(self.bn(self.conv1(features))))
        return maps / math.sqrt(features.shape[1])

    def pooling(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of the maps: the report's "bi-pooling"."""
        return values.sum(dim=1, keepdim=True)

    def initialise(self, stream: torch.Generator) -> None:
        """Initialise every convolution as WideResNet does: N(0, sqrt(2 / (k * k * out))), zero bias."""
        for module in (self.conv1, self.conv2):
            nn.init.normal_(module.weight, 0.0, (2 / module.out_channels) ** 0.5, generator=stream)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def attention_head(maps: int) -> HeadMaker:
    """Makes a head of so many maps; of 0: none."""
    return lambda channels: AttentionHead(channels, maps) if maps else None
