"""The attention head of a network (report, section 2.3)."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional


class AttentionHead(nn.Module):
    """M attention maps over the last feature maps: conv 1x1 (D to D), BatchNorm, ReLU, conv 1x1 (D to M).

    Report, section 2.3. The maps are divided by sqrt(D), which the report does not have: their sum then starts
    with unit variance whatever D and M are, and one step of the optimiser cannot multiply it. Without it the
    sum starts with a spread of sqrt(D), an untrained network is sure of its predictions, and at lr 0.1 (batch
    of 16, D = 128) weights overflow within 20 steps, also from a small start.
    """

    def __init__(self, channels: int, maps: int, bn: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels, momentum=bn)
        self.conv2 = nn.Conv2d(channels, maps, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.conv2(functional.relu(self.bn(self.conv1(features))))
        return maps / math.sqrt(features.shape[1])
