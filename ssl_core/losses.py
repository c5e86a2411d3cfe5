"""Pure tensor functions that methods share. Each returns unreduced values, one per image.

Shapes: n images, C classes.
"""

from __future__ import annotations

from ssl_core._lazy import torch


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of hard labels, -log softmax(logits)[label].

    Args:
        logits: (n, C), any floating type; computed in float32 or better.
        labels: (n,) int64 in [0, C).

    Returns:
        (n,) in nats.
    """
    return torch.nn.functional.cross_entropy(_at_least_float32(logits), labels, reduction="none")


def _at_least_float32(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
