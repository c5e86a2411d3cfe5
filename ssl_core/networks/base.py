"""What every network is and gives: the common base of the networks, and the type of their outputs.

Shapes: n images, C classes, D channels of the last feature maps of h x w positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation of pixels / 255, by channel."""


class NetworkOutput(NamedTuple):
    """logits (n, C), the last feature maps (n, D, h, w) and, with a method's head, what it gives.

    `features` is None of a network that does not show them; a method that needs them is refused with such a network.
    """

    logits: torch.Tensor
    features: torch.Tensor | None
    head: torch.Tensor | None = None

    @property
    def attention(self) -> torch.Tensor | None:
        """`head`, under the name that method files of earlier versions read it by."""
        return self.head


class Head(nn.Module, ABC):
    """A method's own part of the network, on its last feature maps (`ssl_core.methods.base.Method.head`).

    It is built while PyTorch's own generator has a seed for it alone, so layers may stay as PyTorch initialises them.
    """

    @abstractmethod
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """What the method reads as `Output.head`, of feature maps (n, D, h, w); its first dimension is n."""

    def pooling(self, values: torch.Tensor) -> torch.Tensor | None:
        """Weights (n, 1, h, w) of the features in the average that the classifier reads; None: that of the network.

        Args:
            values: what `forward` gave.
        """
        return None

    def initialise(self, stream: torch.Generator) -> None:
        """Draw the initial values from a stream of the head's own, instead of PyTorch's ways."""


HeadMaker = Callable[[int], "Head | None"]
"""A head for so many channels; None: no head."""


class Network(nn.Module, ABC):
    """Normalised images (n, 3, H, W) to a NetworkOutput."""

    draws_noise = False
    """Whether it may have dropout or stochastic depth, which draw from PyTorch's own generator."""
    head: Head | None
    """The method's own part, where it has one; a subclass sets it."""
    left_out: tuple[str, ...] = ()
    """Beginnings of names in a file of weights that the network does not use, besides its classifier."""

    @property
    @abstractmethod
    def heads(self) -> list[nn.Module]:
        """What is not the backbone: the classifier, and the method's head where there is one."""

    @property
    def body(self) -> nn.Module:
        """The part whose state dict has the names that files of weights have."""
        return self

    def folded(self) -> Network:
        """What this network, in evaluation mode, gives with the weights that it has now, but for rounding: faster where
        a subclass knows how. It is for predictions, not for training, and may be this network itself.
        """
        return self

    def adapted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of the same network for another image size, made to fit."""
        return state
