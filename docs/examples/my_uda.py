"""UDA (Xie et al. 2020, arXiv:1904.12848): the sharpened prediction on a weak view is the target of a strong one.

    q_i  = softmax(logits(weak(u_i)) / T),   mask_i = [max_c softmax(logits(weak(u_i)))_c > tau]
    loss = mean_B CE(p(weak(x)), label) + weight * mean_U mask_i * KL(sg q_i || p(strong(u_i)))

As in google-research/uda, image/main.py: the mask uses the prediction before it is sharpened, rejected images count as
zero, and all images go through the network in one pass. Left out: the annealing of the labelled loss (TSA).
"""

from __future__ import annotations

import torch
from pydantic import Field

from ssl_core import losses
from ssl_core.config import MethodConfig
from ssl_core.methods.base import LossOutput, Method, PseudoLabels, Step


class UDAConfig(MethodConfig):
    """Parameters of UDA; the defaults are those of the authors' run on CIFAR-10."""

    temperature: float = Field(0.4, gt=0, le=1, description="T, sharpens the target; 1: as it is")
    threshold: float = Field(0.8, ge=0, le=1, description="tau, confidence above which an image counts")
    weight: float = Field(1.0, ge=0, le=1e3, description="weight of the unlabelled loss; 0: off")


class UDA(Method[UDAConfig, None]):
    """Sharpened predictions on weak views are the targets of strong ones."""

    name = "my_uda"
    summary = "sharpened predictions on weak views are the targets of strong ones (Xie et al. 2020)"
    Config = UDAConfig
    unlabelled_views = ("weak", "strong")

    def compute_loss(self, config: UDAConfig, step: Step[None]) -> LossOutput[None]:
        """The labelled loss and the weighted divergence of the sharpened predictions."""
        batch = step.batch
        images = torch.cat([batch.labelled, batch.views["weak"], batch.views["strong"]])
        sizes = [len(batch.labels), len(batch.indices), len(batch.indices)]
        logits, logits_weak, logits_strong = torch.split(step.forward(images).logits, sizes)

        supervised = losses.cross_entropy(logits, batch.labels).mean()
        confidence, predicted = losses.confident_class(logits_weak)
        mask = confidence > config.threshold
        target = logits_weak.detach() / config.temperature
        unsupervised = (mask * losses.kl_divergence(target, logits_strong)).mean()

        return LossOutput(
            total=supervised + config.weight * unsupervised,
            terms={"loss_supervised": supervised, "loss_unsupervised": unsupervised},
            pseudo=PseudoLabels(indices=batch.indices, labels=predicted, accepted=mask),
        )


METHOD = UDA()
