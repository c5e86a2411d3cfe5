"""The exponential moving average of the weights: the model that is evaluated."""

from __future__ import annotations

import copy

import torch

from ssl_core.networks.base import Network


def decay_at(decay: float, step: int) -> float:
    """Decay of update number `step` (from 0), ramped up so that the average of a short run forgets the initial weights.

    min(decay, (1 + t) / (10 + t)), the ramp of TensorFlow's ExponentialMovingAverage with `num_updates`.
    """
    return min(decay, (1 + step) / (10 + step))


class AveragedModel:
    """A copy of a network whose parameters are averaged and whose BatchNorm buffers are copied.

    Args:
        network: the network under training.
        decay: of the average.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self._averaged: list[torch.Tensor] = list(self.network.parameters())
        self._source = [p.detach() for p in network.parameters()]
        self._copied = list(self.network.buffers())
        self._buffers = list(network.buffers())

    @torch.no_grad()
    def update(self, step: int, found_inf: torch.Tensor | None = None) -> None:
        """Average in the weights after optimiser step `step` (from 0).

        Args:
            step: its number.
            found_inf: () on the weights' device; where it is 1 the average does not change.
        """
        weight = 1 - decay_at(self.decay, step)
        if found_inf is None:
            torch._foreach_lerp_(self._averaged, self._source, weight)
            return
        # average + weight * (source - average), left out where found_inf is 1: what the fused SGD does with a gradient.
        # A factor that is a tensor would cost operations of its own, and of another type than the weights a kernel for
        # each of them.
        moves = torch._foreach_sub(self._source, self._averaged)
        torch._fused_sgd_(
            self._averaged,
            moves,
            [],
            weight_decay=0.0,
            momentum=0.0,
            lr=weight,
            dampening=0.0,
            nesterov=False,
            maximize=True,
            is_first_step=False,
            found_inf=found_inf,
        )

    @torch.no_grad()
    def copy_buffers(self) -> None:
        """Copy BatchNorm's statistics; needed only before the average is evaluated or saved."""
        if self._copied:  # a transformer has none
            torch._foreach_copy_(self._copied, self._buffers)
