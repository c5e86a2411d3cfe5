"""Entropy minimisation (Grandvalet and Bengio 2005): confident predictions on unlabelled images.

    H    = mean_U - sum_c p_c(x) log p_c(x)
    loss = mean_B CE(p(labelled), label) + weight * H

It keeps the decision boundary out of regions with many images, like pseudo-labels, which are its version with hard
labels. It uses no strong augmentation and no perturbation. With weight 1 it is VAT with `alpha: 0` and
`use_entmin: true`.

The pass over unlabelled images uses the batch's own BatchNorm statistics and leaves the running ones as they are, as in
VAT.

Shapes: B labelled and U unlabelled images of a step, C classes.
"""

from __future__ import annotations

from pydantic import Field

from ssl_core import losses
from ssl_core.methods.base import LossOutput, Method, Step
from ssl_core.schema import MethodConfig


class EntropyMinimisationConfig(MethodConfig):
    """Parameters of entropy minimisation."""

    weight: float = Field(
        1.0,
        ge=0,
        le=1e3,
        description="weight of the entropy, the cross-entropy having 1, no unit; 0: off (takerum/vat_tf beside VAT: 1; "
        "brain-research/realistic-ssl-evaluation beside VAT on CIFAR-10: 0.1)",
    )


class EntropyMinimisation(Method[EntropyMinimisationConfig, None]):
    """Cross-entropy on labelled images, entropy of the predictions on unlabelled ones."""

    name = "entropy_minimisation"
    summary = "confident predictions on unlabelled images (Grandvalet and Bengio 2005)"
    Config = EntropyMinimisationConfig
    warmup_share = 35 / 300  # as vat, with which it is compared
    unlabelled_views = ("weak",)

    def compute_loss(self, config: EntropyMinimisationConfig, step: Step[None]) -> LossOutput[None]:
        """Cross-entropy on labelled images, mean entropy of the predictions on unlabelled ones."""
        supervised = losses.cross_entropy(step.forward(step.batch.labelled).logits, step.batch.labels).mean()
        entropy = losses.entropy(
            step.forward(step.batch.views["weak"], update_statistics=False).logits
        ).mean()
        return LossOutput(
            total=supervised + config.weight * entropy,
            terms={"loss_supervised": supervised, "loss_unsupervised": entropy},
        )


METHOD = EntropyMinimisation()
