"""Supervised training on the labelled images alone: the baseline of every table, and every warm-up's step.

    loss = mean_B CE(p(y | weak(x)), label)

Shapes: B labelled images of a step, C classes.
"""

from __future__ import annotations

from typing import Any

from ssl_core import losses
from ssl_core.config import MethodConfig
from ssl_core.methods.base import Batch, Forward, LossOutput, Method, Progress
from ssl_core.system.lazy_torch import torch


class Supervised(Method):
    """Cross-entropy on labelled images, weak view."""

    name = "supervised"
    summary = "cross-entropy on the labelled images alone: the baseline of every table"
    Config = MethodConfig
    has_warmup = False

    def compute_loss(
        self,
        config: Any,
        forward: Forward,
        batch: Batch,
        state: Any,
        progress: Progress,
        generator: torch.Generator,
    ) -> LossOutput:
        loss = losses.cross_entropy(forward(batch.labelled).logits, batch.labels).mean()
        return LossOutput(total=loss, terms={"loss_supervised": loss}, state=state)


METHOD = Supervised()
