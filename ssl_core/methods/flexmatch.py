"""FlexMatch (Zhang et al. 2021, arXiv:2110.08263): FixMatch with a threshold for each class.

The number of unlabelled images whose last confident prediction was a class measures how well that class has been
learnt. A class that is learnt slowly gets a lower threshold:

    sigma_c = number of images of U whose last prediction with max_c q >= tau was c
    beta_c  = sigma_c / max(max_c sigma_c, number of images of U without such a prediction so far)
    T_c     = tau * beta_c / (2 - beta_c)
    mask_i  = [max_c q_ic >= T_(argmax_c q_ic)],   q_i = sg p(y | weak(u_i))
    loss    = mean_B CE(p(y | weak(x)), label) + lambda_u * mean_U mask_i * CE(p(y | strong(u_i)), argmax_c q_ic)

At the start there are no confident predictions, so every T_c is 0 and every image is used, as in the paper. A step uses
the thresholds of the steps before it; its own confident predictions are counted afterwards.

Shapes: B labelled images of a step, U = mu * B unlabelled images of a step, C classes, N training images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field

from ssl_core import losses
from ssl_core.methods.base import LossOutput, Method, PseudoLabels, Setup, Step
from ssl_core.methods.consistency import DESCRIPTION, WeakForward, forward_views
from ssl_core.schema import MethodConfig
from ssl_core.system.lazy_torch import torch

NEVER = -1


class FlexMatchConfig(MethodConfig):
    """Parameters of FlexMatch."""

    threshold: float = Field(
        0.95,
        gt=0,
        le=1,
        description="tau, from where a prediction is confident; the highest threshold (Zhang et al. 2021)",
    )
    lambda_u: float = Field(
        1.0, ge=0, le=1e3, description="weight of the unlabelled loss (Zhang et al. 2021)"
    )
    weak_forward: WeakForward = Field("joint", description=DESCRIPTION)


@dataclass
class FlexMatchState:
    """What the thresholds are computed from.

    Attributes:
        last: class of each training image's last confident prediction, (N,) int64; NEVER where there was none,
            and for images that are not in U.
        unlabelled: number of images in U.
    """

    last: torch.Tensor
    unlabelled: int


def learning_status(last: torch.Tensor, unlabelled: int, num_classes: int) -> torch.Tensor:
    """beta: (N,) int64 to (C,) float64 in [0, 1], without waiting for the device."""
    counts = torch.zeros(num_classes + 1, dtype=torch.int64, device=last.device)
    counts.scatter_add_(0, last - NEVER, torch.ones_like(last))
    learnt = counts[1:]
    never = unlabelled - learnt.sum()
    return learnt.double() / torch.maximum(learnt.max(), never)


def thresholds(status: torch.Tensor, threshold: float) -> torch.Tensor:
    """T: the paper's convex mapping of beta, (C,) to (C,) in [0, tau]."""
    return threshold * status / (2 - status)


def remember(
    last: torch.Tensor, indices: torch.Tensor, predicted: torch.Tensor, confident: torch.Tensor
) -> torch.Tensor:
    """`last` updated with the confident predictions of a step's images, (U,) each: (N,) to (N,).

    An image can be in the step twice, where one shuffled order of U ends and the next begins. It keeps the higher class
    number of its confident predictions: any rule would do that does not depend on the order within the batch.
    """
    newest = torch.full_like(last, NEVER)
    newest = newest.scatter_reduce(0, indices, torch.where(confident, predicted, NEVER), "amax")
    return torch.where(newest == NEVER, last, newest)


class FlexMatch(Method[FlexMatchConfig, FlexMatchState]):
    """FixMatch with a threshold for each class that rises as the class is learnt."""

    name = "flexmatch"
    summary = "FixMatch with a threshold per class that follows its learning (Zhang et al. 2021)"
    Config = FlexMatchConfig
    warmup_share = 0.0  # the paper has none: the thresholds themselves start low
    unlabelled_views = ("weak", "strong")

    def idle(self, config: FlexMatchConfig) -> Mapping[str, str]:
        return {"threshold": "flexmatch.lambda_u = 0"} if config.lambda_u == 0 else {}

    def init_state(self, config: FlexMatchConfig, setup: Setup) -> FlexMatchState:
        return FlexMatchState(last=torch.full((setup.num_images,), NEVER), unlabelled=setup.unlabelled)

    def compute_loss(self, config: FlexMatchConfig, step: Step[FlexMatchState]) -> LossOutput[FlexMatchState]:
        """FixMatch's loss with the thresholds of the steps before; then this step's predictions are counted."""
        logits, _ = forward_views(step.forward, step.batch, config.weak_forward)

        supervised = losses.cross_entropy(logits.labelled, step.batch.labels).mean()
        confidence, predicted = losses.confident_class(logits.weak)
        last = step.state.last.to(confidence.device)
        status = learning_status(last, step.state.unlabelled, logits.weak.shape[1])
        class_thresholds = thresholds(status, config.threshold).to(confidence.dtype)
        pseudo_mask = confidence >= class_thresholds[predicted]
        unsupervised = (pseudo_mask * losses.cross_entropy(logits.strong, predicted)).mean()

        last = remember(last, step.batch.indices, predicted, confidence >= config.threshold)
        return LossOutput(
            total=supervised + config.lambda_u * unsupervised,
            terms={
                "loss_supervised": supervised,
                "loss_unsupervised": unsupervised,
                "threshold_mean": class_thresholds.mean(),
                "threshold_lowest": class_thresholds.min(),
            },
            state=FlexMatchState(last=last, unlabelled=step.state.unlabelled),
            pseudo=PseudoLabels(indices=step.batch.indices, labels=predicted, accepted=pseudo_mask),
        )


METHOD = FlexMatch()
