"""SGD with Nesterov momentum, and the learning rate's schedule (Sohn et al. 2020, section 2.4)."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import nn


class _SGD(torch.optim.SGD):
    """The same methods without the wrappers that keep torch's compiler out of them.

    The wrappers load the compiler, which takes more than a second of a processor and 150 MB, also where nothing is
    compiled. A run that is compiled has the network and the views compiled, never the optimiser.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


def build_optimizer(
    network: nn.Module, *, lr: float, momentum: float, weight_decay: float
) -> torch.optim.SGD:
    """SGD over all parameters, with weight decay on convolution and classifier weights alone.

    BatchNorm and biases have no weight decay, as in google-research/fixmatch. Nesterov needs a momentum: with 0 this is
    plain SGD. The fused update reads each weight once, and changes nothing where `optimizer.found_inf`, a tensor on the
    weights' device, is 1 (`ssl_core.training.finite`).
    """
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return _SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=True)


def restore(optimizer: torch.optim.SGD, state: dict[str, Any]) -> None:
    """Load a checkpoint's momenta, but keep this program's way to compute the update."""
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        group.update(foreach=None, fused=True)


def learning_rate(lr: float, step: int, total_steps: int) -> float:
    """lr * cos(7 pi k / (16 K)) at step k of K (Sohn et al. 2020, section 2.4)."""
    return lr * math.cos(7 * math.pi * step / (16 * total_steps))
