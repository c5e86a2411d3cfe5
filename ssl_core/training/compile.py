"""The network and the strong views compiled by torch.compile, and replayed as CUDA graphs on a GPU.

A GPU finishes a kernel of a small network before the program has launched the next one. Compiling fuses BatchNorm,
activation and residual into one kernel each way, and a CUDA graph launches all kernels of a pass at once. The result
is the same but for its last bits, because sums are taken in another order (`compile` is a field of the configuration).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from ssl_core.augment import randaugment
from ssl_core.networks.base import NetworkOutput
from ssl_core.networks.statistics import batchnorms_of

_SHAPES = 64
"""Compiled variants to keep of one function: by batch size, gradient, and whether statistics are updated."""
# Pixels are truncated to whole levels: a fused multiply-add or an approximate quotient could change one by a level.
_EXACT = ("emulate_precision_casts", "eager_numerics.division_rounding")


def network(network: nn.Module) -> Callable[[Tensor], NetworkOutput]:
    """The network's forward and backward passes, compiled at their first use.

    What an earlier run of this process compiled is dropped, with the memory of its CUDA graphs. torch keeps it on disk,
    so that an equal network starts within seconds.
    """
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = _SHAPES
    # The next step overwrites the graphs' outputs: whatever is kept beyond a step has to be copied.
    return cast(
        Callable[[Tensor], NetworkOutput], torch.compile(network, dynamic=False, mode="reduce-overhead")
    )


class OfImagesAlone:
    """The network's passes for gradients of the images, compiled at their first use.

    A compiled backward pass computes every gradient that its forward pass could be asked for. VAT's power iteration
    asks for that of the images, and those of the weights are half of the work. So it has a network of its own, which
    shares all weights and statistics with this one and asks for no gradient of them.

    BatchNorm's running statistics never change in these passes.

    Args:
        network: whose weights and buffers are shared; they may be changed in place, never replaced.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        shared: dict[int, Any] = {id(buffer): buffer for buffer in network.buffers()}
        shared |= {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in network.parameters()}
        self.detached = copy.deepcopy(network, shared)
        for layer in batchnorms_of(self.detached):
            layer.track_running_stats = False
        self.compiled = torch.compile(self.detached, dynamic=False, mode="reduce-overhead")

    def __call__(self, images: Tensor) -> NetworkOutput:
        """As the network: images (n, 3, H, W), its layers in training or evaluation as those of the network are."""
        for own, other in zip(self.detached.modules(), self.network.modules(), strict=True):
            own.training = other.training
        return cast(NetworkOutput, self.compiled(images))


def strong_views() -> Callable[[Tensor, randaugment.Draws], tuple[Tensor, randaugment.Geometry]]:
    """`randaugment.apply`, compiled: the same pixels, from a few kernels instead of some hundred."""
    known = torch._inductor.config.get_config_copy()
    options: dict[str, Any] = {name: True for name in _EXACT if name in known}  # some came after torch 2.11
    return torch.compile(randaugment.apply, dynamic=False, options=options)


def begin_step() -> None:
    """Tell the CUDA graphs that the outputs of the step before are no longer needed."""
    torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
