"""FixMatch (Sohn et al. 2020, arXiv:2001.07685).

A confident prediction on a weak view becomes the label of a strong view of the same image:

    q_i  = sg p(y | weak(u_i)),   mask_i = [max_c q_ic >= tau]
    loss = mean_B CE(p(y | weak(x)), label) + lambda_u * mean_U mask_i * CE(p(y | strong(u_i)), argmax_c q_ic)

The second mean is over the whole unlabelled batch: a masked-out image counts as zero, so the unlabelled loss grows as
the network becomes confident. All images go through the network in one pass, so BatchNorm sees labelled, weak and
strong ones together. Both are as in google-research/fixmatch, fixmatch.py. `ssl_core.methods.consistency` also has
separate passes, which are cheaper.

Shapes: B labelled images of a step, U = mu * B unlabelled images of a step, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from ssl_core import losses
from ssl_core.methods.base import LossOutput, Method, PseudoLabels, Step
from ssl_core.methods.consistency import DESCRIPTION, WeakForward, forward_views
from ssl_core.schema import MethodConfig


class FixMatchConfig(MethodConfig):
    """Parameters of FixMatch."""

    threshold: float = Field(
        0.95,
        gt=0,
        le=1,
        description="tau, lowest confidence of a prediction that is used as a label (table 4)",
    )
    lambda_u: float = Field(1.0, ge=0, le=1e3, description="weight of the unlabelled loss (table 4)")
    weak_forward: WeakForward = Field("joint", description=DESCRIPTION)


class FixMatch(Method[FixMatchConfig, None]):
    """Pseudo-labels from the weak view, cross-entropy on the strong one."""

    name = "fixmatch"
    summary = "confident predictions on weak views are the labels of strong ones (Sohn et al. 2020)"
    Config = FixMatchConfig
    warmup_share = 0.0  # the paper has none: until the labelled images are learnt, the mask is empty
    unlabelled_views = ("weak", "strong")

    def idle(self, config: FixMatchConfig) -> Mapping[str, str]:
        return {"threshold": "fixmatch.lambda_u = 0"} if config.lambda_u == 0 else {}

    def compute_loss(self, config: FixMatchConfig, step: Step[None]) -> LossOutput[None]:
        """Cross-entropy on labelled images, and on strong views whose weak view is predicted with confidence."""
        logits, _ = forward_views(step.forward, step.batch, config.weak_forward)

        supervised = losses.mean_cross_entropy(logits.labelled, step.batch.labels)
        confidence, predicted = losses.confident_class(logits.weak)
        pseudo_mask = confidence >= config.threshold
        unsupervised = (pseudo_mask * losses.cross_entropy(logits.strong, predicted)).mean()

        return LossOutput(
            total=supervised + config.lambda_u * unsupervised,
            terms={"loss_supervised": supervised, "loss_unsupervised": unsupervised},
            pseudo=PseudoLabels(indices=step.batch.indices, labels=predicted, accepted=pseudo_mask),
        )


METHOD = FixMatch()
