"""Running averages over the steps of a run, and ramps: what several methods keep or compute from the step's number."""

from __future__ import annotations

from ssl_core.methods.base import Progress
from ssl_core.system.lazy_torch import torch

MOMENTUM = (
    "m of the running averages; none: as long a memory as fits the run, 1 - 30 / steps within 0.9 and 0.999"
)


def momentum_of(momentum: float | None, progress: Progress) -> float:
    """m as it was asked for, or one that fits the run.

    With the papers' 0.999 a seventh of the averages would still be where they began at the end of a run of 2000 steps.
    So the memory is a thirtieth of the run, as BatchNorm's is here (`ssl_core.config.bn_momentum_of`). From 30 000
    steps on it is the papers' 0.999.
    """
    if momentum is not None:
        return momentum
    return 1 - min(0.1, max(0.001, 30 / progress.total_steps))


def moved(average: torch.Tensor, value: torch.Tensor, momentum: float) -> torch.Tensor:
    """m average + (1 - m) value, in the average's type and on the value's device; neither is changed."""
    return average.to(value.device).lerp(value.detach().to(average.dtype), 1 - momentum)


def shares(labels: torch.Tensor, kept: torch.Tensor | None, num_classes: int) -> torch.Tensor:
    """Histogram of classes that adds up to 1, without waiting for the device: (n,) int64 to (C,) float64.

    Args:
        labels: from 0 to C - 1.
        kept: (n,) bool, which of them count; None: all. Where none counts, all shares are 0.
        num_classes: C.
    """
    counted = torch.ones_like(labels, dtype=torch.float64) if kept is None else kept.double()
    counts = torch.zeros(num_classes, dtype=torch.float64, device=labels.device)
    counts = counts.scatter_add(0, labels, counted)
    return counts / counts.sum().clamp(min=1)


def linear_ramp(progress: Progress, share: float) -> float:
    """From 0 at the run's first step to 1 once a share of its steps is done; 1 throughout for a share of 0."""
    if share == 0:
        return 1.0
    return min(1.0, progress.step / (share * progress.total_steps))
