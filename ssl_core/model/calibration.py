"""Confidence that means what it says: one temperature for all logits.

Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2: logits are divided by a temperature T
that minimises the cross-entropy on validation images. T changes no prediction. A network that is right on every
validation image would get T = 0, confidence 1: the targets are therefore smoothed by Laplace's rule of succession, as
Platt (1999) smooths his: the right class gets (n + 1) / (n + 2) and the others share the rest.

Shapes: n images, C classes.
"""

from __future__ import annotations

import math

import torch

_LOWEST, _HIGHEST, _HALVINGS = 1e-3, 1e3, 100


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The temperature under which softmax(logits / T) fits the labels best.

    The cross-entropy is convex in b = 1 / T, and its derivative, mean(E_softmax(b z)[z] - E_target[z]), grows with b:
    its zero is found by halving an interval of log b. T is kept within 1e-3 and 1e3, which it reaches only where logits
    are constant or worse than chance.

    Args:
        logits: (n, C), n at least 1.
        labels: (n,) int64.
    """
    values = logits.detach().to("cpu", torch.float64)
    images, classes = values.shape
    right = (images + 1) / (images + 2)
    targets = torch.full_like(values, (1 - right) / (classes - 1))
    targets[torch.arange(images), labels.cpu()] = right
    wanted = (targets * values).sum()
    low, high = math.log(_LOWEST), math.log(_HIGHEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        probabilities = (values * math.exp(middle)).softmax(dim=1)
        if float((probabilities * values).sum() - wanted) > 0:
            high = middle
        else:
            low = middle
    return math.exp(-(low + high) / 2)
