"""Entropy minimisation (Grandvalet and Bengio 2005): predictions on unlabelled images shall be sure ones.

    H    = mean_U - sum_c p_c(x) log p_c(x)
    loss = mean_B CE(p(labelled), label) + weight * H

It keeps the decision boundary out of dense regions, as pseudo-labels do (which are its hard version), and knows
nothing of augmentation or perturbation. With weight 1 it is VAT with `alpha: 0` and `use_entmin: true`.

As in every pass of VAT over unlabelled images, these use the batch's own statistics and move no running ones.

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
        description="of the entropy beside the cross-entropy, no unit; 0: off (takerum/vat_tf beside VAT: 1; "
        "brain-research/realistic-ssl-evaluation beside VAT on CIFAR-10: 0.1)",
    )


class EntropyMinimisation(Method[EntropyMinimisationConfig, None]):
    """Cross-entropy on labelled images, entropy on the others."""

    name = "entropy_minimisation"
    summary = "sure predictions on unlabelled images, no more (Grandvalet and Bengio 2005)"
    Config = EntropyMinimisationConfig
    warmup_share = 35 / 300  # vat's: they are compared
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
