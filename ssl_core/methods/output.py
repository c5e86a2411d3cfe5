"""The network as methods call it, and what it gives. `ssl_core.methods.base` exports these names.

Shapes: n images (n, 3, H, W), C classes, D channels of the last feature maps of h x w positions.
"""

from __future__ import annotations

from typing import Protocol

from ssl_core.system.lazy_torch import torch


class Output(Protocol):
    """What the network gives: logits (n, C), the last feature maps (n, D, h, w), and what the method's head gives.

    A network may have no feature maps; a method that reads them says so in `Method.needs`. `head` is None unless
    `Method.head` gives one.
    """

    @property
    def logits(self) -> torch.Tensor: ...
    @property
    def features(self) -> torch.Tensor | None: ...
    @property
    def head(self) -> torch.Tensor | None: ...


class Forward(Protocol):
    """The model under training, as a function that a method may call as often as it needs.

    `update_statistics=False` leaves BatchNorm's running statistics alone (batch statistics are still used);
    `full_precision=True` runs in float32 or better even where the rest of the run does not.
    """

    def __call__(
        self, images: torch.Tensor, *, update_statistics: bool = True, full_precision: bool = False
    ) -> Output: ...


class Averaged(Protocol):
    """The moving average of the network (EMA) as a function: a target that changes slowly.

    It never gives a gradient and never changes, its running statistics included. `batch_statistics=False` normalises
    with the running statistics as the network under training has them at the call (evaluation mode), True with those
    of the images handed in.
    """

    def __call__(self, images: torch.Tensor, *, batch_statistics: bool = False) -> Output: ...
