"""The exponential moving average of the weights: the model that is evaluated."""

from __future__ import annotations

import copy

import torch
from torch import nn


def decay_at(decay: float, step: int) -> float:
    """Decay of update number `step` (from 0), ramped so that a short run forgets its initial weights.

    min(decay, (1 + t) / (10 + t)), the ramp of TensorFlow's ExponentialMovingAverage with `num_updates`.
    """
    return min(decay, (1 + step) / (10 + step))


class AveragedModel:
    """A copy of a network whose parameters are averaged and whose BatchNorm buffers are copied.

    Args:
        network: the network under training.
        decay: of the average.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self._averaged: list[torch.Tensor] = list(self.network.parameters())
        self._source = [p.detach() for p in network.parameters()]
        self._copied = list(self.network.buffers())
        self._buffers = list(network.buffers())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimiser step `step` (from 0)."""
        torch._foreach_lerp_(self._averaged, self._source, 1 - decay_at(self.decay, step))

    @torch.no_grad()
    def copy_buffers(self) -> None:
        """Take over BatchNorm's statistics; needed only before the average is evaluated or saved."""
        torch._foreach_copy_(self._copied, self._buffers)
