"""A step's passes and views as torch.compile makes them, on a GPU replayed as CUDA graphs.

A GPU is done with a small network's kernel before the program has asked for the next one. Compiling makes BatchNorm,
activation and residual one kernel each way, and a CUDA graph asks for all kernels of a pass at once. What is computed
is the same; sums are taken in another order, so the last bits are not (`compile` is a field of the configuration).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from ssl_core.augment import randaugment
from ssl_core.networks.wide_resnet import NetworkOutput

_SHAPES = 64
"""Variants of one function that are kept: batch sizes, with and without gradient, statistics kept or not."""
# Pixels are rounded to whole levels: a product and a sum taken as one, or an approximate quotient, would cost one.
_EXACT = ("emulate_precision_casts", "eager_numerics.division_rounding")


def passes(network: nn.Module) -> Callable[[Tensor], NetworkOutput]:
    """The network's forward pass, and the backward one that follows from it, compiled at their first use.

    What an earlier run of this process compiled is let go, with the memory that its CUDA graphs held; on disk torch
    keeps it, so that an equal network starts within seconds.
    """
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = _SHAPES
    # The graphs' outputs are overwritten by the next step: nothing of a step may be kept that is not copied.
    return cast(
        Callable[[Tensor], NetworkOutput], torch.compile(network, dynamic=False, mode="reduce-overhead")
    )


def strong_views() -> Callable[[Tensor, randaugment.Draws], tuple[Tensor, randaugment.Geometry]]:
    """`randaugment.apply`, compiled: the same pixels, from a few kernels instead of some hundred."""
    known = torch._inductor.config.get_config_copy()
    options: dict[str, Any] = {name: True for name in _EXACT if name in known}  # some came after torch 2.11
    return torch.compile(randaugment.apply, dynamic=False, options=options)


def begin_step() -> None:
    """Say that nothing of the step before is needed any more."""
    torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
