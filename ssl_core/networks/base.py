"""What every network is and gives: the common base of the networks, and the type of their outputs.

Shapes: n images, C classes, D channels of the last feature maps of h x w positions, M attention maps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation of pixels / 255, by channel."""


class NetworkOutput(NamedTuple):
    """logits (n, C), the last feature maps (n, D, h, w) and, with a head, its attention maps (n, M, h, w).

    `features` is None of a network that does not show them; a method that needs them is refused with such a network.
    """

    logits: torch.Tensor
    features: torch.Tensor | None
    attention: torch.Tensor | None = None


class Network(nn.Module, ABC):
    """Normalised images (n, 3, H, W) to a NetworkOutput."""

    draws_noise = False
    """Whether it may have dropout or stochastic depth, which draw from PyTorch's own generator."""
    left_out: tuple[str, ...] = ()
    """Beginnings of names in a file of weights that the network does not use, besides its classifier."""

    @property
    @abstractmethod
    def heads(self) -> list[nn.Module]:
        """What is not the backbone: the classifier, and the attention head where there is one."""

    @property
    def body(self) -> nn.Module:
        """The part whose state dict has the names that files of weights have."""
        return self

    def adapted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of the same network for another image size, made to fit."""
        return state
