"""UDA (Xie et al. 2020, arXiv:1904.12848): the sharpened prediction on a weak view is the target of a strong one.

    q_i    = softmax(logits(weak(u_i)) / T), no gradient,   mask_i = [max_c p(y | weak(u_i))_c > tau]
    loss   = mean_B CE(p(y | weak(x)), label) + lambda_u * mean_U mask_i * CE(p(y | strong(u_i)), q_i)

The mask uses the prediction before it is sharpened, and rejected images count as zero.

Training signal annealing (`tsa`) leaves out labelled images of which the network is sure already, so that few labels
are not learnt by heart at the start: those whose probability of the label exceeds

    eta_k = f(k/K) * (1 - 1/C) + 1/C        in step k of K,   f(x) = x, exp(5 (x - 1)) or 1 - exp(-5 x)

and the mean stays one over all B. As in google-research/uda, image/main.py.

Shapes: B labelled images of a step, U = mu * B unlabelled images of a step, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from ssl_core import losses
from ssl_core.methods.base import LossOutput, Method, Progress, PseudoLabels, Step
from ssl_core.methods.consistency import DESCRIPTION, WeakForward, forward_views
from ssl_core.schema import MethodConfig

Schedule = Literal["off", "linear", "exp", "log"]


class UDAConfig(MethodConfig):
    """Parameters of UDA."""

    temperature: float = Field(
        0.4, gt=0, le=1, description="T, sharpens the target; 1: as it is (Xie et al. 2020: 0.4)"
    )
    threshold: float = Field(
        0.8, ge=0, le=1, description="tau, confidence above which an image counts (Xie et al. 2020: 0.8)"
    )
    lambda_u: float = Field(1.0, ge=0, le=1e3, description="weight of the unlabelled loss (Xie et al. 2020)")
    tsa: Schedule = Field(
        "off",
        description="training signal annealing: how the confidence grows up to which a labelled image counts (Xie et "
        "al. 2020, section 2.3)",
    )
    weak_forward: WeakForward = Field("joint", description=DESCRIPTION)


def signal_threshold(schedule: Schedule, progress: Progress, num_classes: int) -> float:
    """eta_k: the probability of its label above which a labelled image is left out; "off": infinite."""
    x = progress.step / progress.total_steps
    match schedule:
        case "off":
            return math.inf
        case "linear":
            share = x
        case "exp":
            share = math.exp(5 * (x - 1))
        case "log":
            share = 1 - math.exp(-5 * x)
    return share * (1 - 1 / num_classes) + 1 / num_classes


class UDA(Method[UDAConfig, None]):
    """Sharpened predictions on weak views are the targets of strong ones."""

    name = "uda"
    summary = "sharpened predictions on weak views are the targets of strong ones (Xie et al. 2020)"
    Config = UDAConfig
    warmup_share = 0.0  # the paper has none
    unlabelled_views = ("weak", "strong")

    def idle(self, config: UDAConfig) -> Mapping[str, str]:
        if config.lambda_u == 0:
            return dict.fromkeys(("temperature", "threshold"), "uda.lambda_u = 0")
        return {}

    def compute_loss(self, config: UDAConfig, step: Step[None]) -> LossOutput[None]:
        """Cross-entropy on labelled images, and between the sharpened weak and the strong prediction."""
        logits, _ = forward_views(step.forward, step.batch, config.weak_forward)

        each = losses.cross_entropy(logits.labelled, step.batch.labels)
        counts = (-each.detach()).exp() <= signal_threshold(
            config.tsa, step.progress, logits.labelled.shape[1]
        )
        supervised = (counts * each).mean()
        confidence, predicted = losses.confident_class(logits.weak)
        pseudo_mask = confidence > config.threshold
        target = losses.probabilities(logits.weak.detach() / config.temperature)
        unsupervised = (pseudo_mask * losses.soft_cross_entropy(logits.strong, target)).mean()

        terms = {"loss_supervised": supervised, "loss_unsupervised": unsupervised}
        if config.tsa != "off":
            terms["labelled_share"] = counts.to(supervised.dtype).mean()
        return LossOutput(
            total=supervised + config.lambda_u * unsupervised,
            terms=terms,
            pseudo=PseudoLabels(indices=step.batch.indices, labels=predicted, accepted=pseudo_mask),
        )


METHOD = UDA()
