"""Loss scaling for float16, whose smallest numbers are too large for many gradients (Micikevicius et al. 2018).

The loss is multiplied by a scale before the backward pass, and the gradients are divided by it afterwards. Where a
gradient overflows, the step is skipped and the scale halved; after 2000 steps without an overflow it is doubled. The
numbers are those of torch.amp.GradScaler. Everything stays on the device, so that no step waits for it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

INITIAL, GROWTH, BACKOFF, INTERVAL = 2.0**16, 2.0, 0.5, 2000
SMALLEST = 1.0
"""At this scale float16 itself overflows: a gradient that is not finite is then an error, as in other precisions."""


class LossScale:
    """The scale of a run's losses.

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
