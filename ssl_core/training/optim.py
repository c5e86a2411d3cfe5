"""The optimiser, the learning rate's schedule, the limit of the gradient's norm and the scale of the loss.

The default is SGD with Nesterov momentum and the schedule of Sohn et al. (2020), section 2.4.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

Optimizer = torch.optim.SGD | torch.optim.AdamW
ADAMW_BETA2 = 0.999
INITIAL, GROWTH, BACKOFF, INTERVAL = 2.0**16, 2.0, 0.5, 2000
"""Of the loss's scale, as torch.amp.GradScaler has them."""
SMALLEST = 1.0
"""At this scale float16 itself overflows: a gradient that is not finite is then an error, as in other precisions."""
_UNDECAYED = {"pos_embed", "pos_embedding", "cls_token", "class_token", "reg_token", "dist_token"}
"""A transformer's position embeddings and special tokens, as timm and torchvision name them: no weights of a layer, and
not decayed (timm's `no_weight_decay`)."""


class _SGD(torch.optim.SGD):
    """The same methods without the wrappers that keep torch's compiler out of them.

    The wrappers load the compiler, which takes more than a second of a processor and 150 MB, also where nothing is
    compiled. A run that is compiled has the network and the views compiled, never the optimiser. The step is torch's
    fused one, with one operation for each group and no more.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override] # there is never a closure
        """Update the weights that have a gradient; nothing where `found_inf`, a tensor on their device, is 1."""
        assert closure is None
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            torch._fused_sgd_(
                weights,
                [p.grad for p in weights],
                self._momenta(weights) if group["momentum"] else [],
                weight_decay=group["weight_decay"],
                momentum=group["momentum"],
                lr=group["lr"],
                dampening=group["dampening"],
                nesterov=group["nesterov"],
                maximize=group["maximize"],
                is_first_step=False,
                found_inf=getattr(self, "found_inf", None),
            )

    def _momenta(self, weights: list[Tensor]) -> list[Tensor]:
        """Their momenta; at the first step zeros, which give the bits of a step without."""
        found: list[Tensor] = []
        for weight in weights:
            state = self.state[weight]
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(weight)
            found.append(state["momentum_buffer"])
        return found


def build_optimizer(
    network: nn.Module,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    name: Literal["sgd", "adamw"] = "sgd",
    heads: Sequence[nn.Module] = (),
    lr_scale: float = 1.0,
) -> Optimizer:
    """An optimiser of all parameters, with weight decay on convolution, linear and attention weights alone.

    BatchNorm and biases have no weight decay, as in google-research/fixmatch. The fused update reads each weight once,
    and changes nothing where `optimizer.found_inf`, a tensor on the weights' device, is 1 (`ssl_core.training.finite`).

    Args:
        network: its parameters are trained.
        lr: learning rate at step 0.
        momentum: Nesterov momentum, which 0 switches off; of adamw beta 1.
        weight_decay: an L2 penalty; of adamw decoupled from the gradient (Loshchilov and Hutter 2019).
        name: the optimiser.
        heads: layers with groups of their own: they may be trained alone, or their learning rate is another.
        lr_scale: of all other parameters, in multiples of the learning rate.
    """
    in_heads = {id(p) for head in heads for p in head.parameters()}
    groups: list[dict[str, Any]] = []
    for apart, scale in ((False, lr_scale), (True, 1.0)):
        named = [(n, p) for n, p in network.named_parameters() if (id(p) in in_heads) == apart]
        for decays, decay in ((True, weight_decay), (False, 0.0)):
            members = [p for n, p in named if _decays(n, p) == decays]
            # Without heads the groups are those of checkpoints from before there were any.
            if members and heads:
                groups.append({"params": members, "weight_decay": decay, "lr_scale": scale})
            elif not apart:
                groups.append({"params": members, "weight_decay": decay})
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(momentum, ADAMW_BETA2), fused=True)
    return _SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=True)


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and name.rpartition(".")[2] not in _UNDECAYED


def restore(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load a checkpoint's momenta, but keep this program's way to compute the update."""
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        group.update(foreach=None, fused=True)


def start_momenta(optimizer: Optimizer) -> None:
    """Give every parameter of SGD with momentum a momentum of zero.

    The fused update makes the momenta at its first step, and leaves them uninitialised where that step is skipped. From
    zero the first step gives the same bits as without.
    """
    if isinstance(optimizer, torch.optim.SGD):
        for group in optimizer.param_groups:
            for parameter in group["params"] if group["momentum"] else ():
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate of the next step, of each group in its own multiple."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def learning_rate(
    lr: float,
    step: int,
    total_steps: int,
    schedule: Literal["fixmatch", "cosine", "constant"] = "fixmatch",
) -> float:
    """The learning rate at step k of K.

    fixmatch: lr * cos(7 pi k / (16 K)), which ends at a fifth of lr (Sohn et al. 2020, section 2.4). cosine: lr * (1 +
    cos(pi k / K)) / 2, which ends at 0 (Loshchilov and Hutter 2017, without restarts). constant: lr.
    """
    if schedule == "constant":
        return lr
    if schedule == "cosine":
        return lr * (1 + math.cos(math.pi * step / total_steps)) / 2
    return lr * math.cos(7 * math.pi * step / (16 * total_steps))


@torch.no_grad()
def clip_gradient(parameters: Iterable[nn.Parameter], largest: float) -> None:
    """Scale the gradient of all parameters so that its L2 norm is at most `largest` (Pascanu et al. 2013)."""
    torch.nn.utils.clip_grad_norm_(parameters, largest, foreach=True)


class LossScale:
    """The scale of a run's losses in float16, whose smallest numbers are too large for many gradients.

    The loss is multiplied by the scale before the backward pass, and the gradients are divided by it afterwards. Where
    a gradient overflows, the step is skipped and the scale halved; after 2000 steps without an overflow it is doubled
    (Micikevicius et al. 2018). Everything stays on the device, so that no step waits for it.

    Args:
        device: of the weights.

    Attributes:
        scale: () float32.
        good: () int64, steps without an overflow since the scale last changed.
    """

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.tensor(INITIAL, device=device)
        self.good = torch.tensor(0, device=device)

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to differentiate."""
        return loss * self.scale

    @torch.no_grad()
    def unscale(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Divide the gradients by the scale, and choose the next one.

        Returns:
            () bool on the device: a gradient has overflowed, and the step has to be skipped. False at the smallest
            scale, where an overflow is an error.
        """
        gradients = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_mul_(gradients, 1 / self.scale)
        finite = torch.isfinite(torch.stack(torch._foreach_norm(gradients))).all()
        skipped = ~finite & (self.scale > SMALLEST)
        grows = finite & (self.good + 1 >= INTERVAL)
        changed = torch.where(grows, self.scale * GROWTH, self.scale)
        self.scale = torch.where(finite, changed, (self.scale * BACKOFF).clamp(min=SMALLEST))
        self.good = torch.where(finite & ~grows, self.good + 1, 0)
        return skipped

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds."""
        return {"scale": self.scale, "good": self.good}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from a checkpoint."""
        self.scale, self.good = (state[name].to(self.scale.device) for name in ("scale", "good"))
