"""Supervised training on the labelled images alone: the baseline of every table, and the step of every warm-up.

    loss = mean_B CE(p(y | weak(x)), label)

Shapes: B labelled images of a step, C classes.
"""

from __future__ import annotations

from ssl_core import losses
from ssl_core.methods.base import LossOutput, Method, Step
from ssl_core.schema import MethodConfig


class Supervised(Method[MethodConfig, None]):
    """Cross-entropy on labelled images, weak view."""

    name = "supervised"
    summary = "cross-entropy on the labelled images alone: the baseline of every table"
    Config = MethodConfig
    has_warmup = False

    def compute_loss(self, config: MethodConfig, step: Step[None]) -> LossOutput[None]:
        loss = losses.mean_cross_entropy(step.forward(step.batch.labelled).logits, step.batch.labels)
        return LossOutput(total=loss, terms={"loss_supervised": loss})


METHOD = Supervised()
