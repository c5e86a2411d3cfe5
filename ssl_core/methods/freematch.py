"""FreeMatch (Wang et al. 2023, arXiv:2205.07246): FixMatch whose thresholds follow the network's own confidence.

With q_i = sg p(y | weak(u_i)), three running averages move at every step, before its mask is made:

    tau  <- m tau  + (1 - m) mean_U max_c q_ic               how sure the network is
    p    <- m p    + (1 - m) mean_U q_i                      ... and of which classes
    hist <- m hist + (1 - m) histogram of argmax_c q_ic
    mask_i = [max_c q_ic >= tau * p_k / max_c p_c],   k = argmax_c q_ic
    L_u  = mean_U mask_i * CE(p(y | strong(u_i)), k)

Fairness: over the images with mask_i = 1, let s be the mean of p(y | strong(u_i)), with a gradient, and h the histogram
of its argmax, without. norm divides by the sum, and x / 0 = 0:

    L_f  = sum_c norm(p / hist)_c * log(norm(s / h)_c + 1e-12)              0 where no image is accepted
    loss = mean_B CE(p(y | weak(x)), label) + lambda_u * L_u + lambda_f * L_f

L_f is a negative cross-entropy: to lower it spreads the predictions over the classes. All three averages begin at 1/C.

As in microsoft/Semi-supervised-learning (USB), algorithms/freematch. The step's own predictions are in its thresholds;
FlexMatch's are those of the steps before.

Shapes: B labelled images of a step, U = mu * B unlabelled images of a step, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field

from ssl_core import losses
from ssl_core.methods.base import LossOutput, Method, PseudoLabels, Setup, Step
from ssl_core.methods.consistency import DESCRIPTION, WeakForward, forward_views
from ssl_core.methods.running import MOMENTUM, momentum_of, moved, shares
from ssl_core.schema import MethodConfig
from ssl_core.system.lazy_torch import torch


class FreeMatchConfig(MethodConfig):
    """Parameters of FreeMatch."""

    lambda_u: float = Field(1.0, ge=0, le=1e3, description="weight of the unlabelled loss (USB: 1)")
    lambda_f: float = Field(
        0.001,
        ge=0,
        le=10,
        description="weight of the fairness loss; 0: off (USB on CIFAR-10: 0.001; TorchSSL's script: 0.1)",
    )
    momentum: float | None = Field(None, ge=0, lt=1, description=MOMENTUM)
    weak_forward: WeakForward = Field("joint", description=DESCRIPTION)


@dataclass
class FreeMatchState:
    """The running averages, float64: tau, a scalar; p and hist, (C,)."""

    tau: torch.Tensor
    p: torch.Tensor
    hist: torch.Tensor


def class_thresholds(state: FreeMatchState) -> torch.Tensor:
    """tau * p_c / max p: a threshold for each class, (C,)."""
    return state.tau * state.p / state.p.max()


def fairness(state: FreeMatchState, logits: torch.Tensor, accepted: torch.Tensor) -> torch.Tensor:
    """L_f, a scalar, from the strong views' logits (U, C) and the mask (U,); 0 where nothing is accepted."""
    predictions = losses.probabilities(logits).to(torch.float64)
    mask = accepted.to(predictions.dtype)
    mean = (mask[:, None] * predictions).sum(dim=0) / mask.sum().clamp(min=1)
    histogram = shares(predictions.argmax(dim=1), accepted, logits.shape[1])
    wanted, found = _normalised(_ratio(state.p, state.hist)), _normalised(_ratio(mean, histogram))
    each = wanted * (found + 1e-12).log()
    return torch.where(accepted.any(), each.sum(), 0)


def _ratio(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """one / other, and 0 where other is 0 (without a gradient there)."""
    return torch.where(other > 0, one / torch.where(other > 0, other, 1), 0)


def _normalised(values: torch.Tensor) -> torch.Tensor:
    """Divided by their sum; all 0 where that is 0."""
    total = values.sum()
    return values / torch.where(total > 0, total, 1)


class FreeMatch(Method[FreeMatchConfig, FreeMatchState]):
    """FixMatch with thresholds that follow the confidence of the predictions, in all and by class."""

    name = "freematch"
    summary = "FixMatch with thresholds that follow the network's own confidence (Wang et al. 2023)"
    Config = FreeMatchConfig
    warmup_share = 0.0  # the paper has none: the thresholds begin at 1/C
    unlabelled_views = ("weak", "strong")

    def idle(self, config: FreeMatchConfig) -> Mapping[str, str]:
        if config.lambda_u == config.lambda_f == 0:
            return {"momentum": "freematch.lambda_u = freematch.lambda_f = 0"}
        return {}

    def init_state(self, config: FreeMatchConfig, setup: Setup) -> FreeMatchState:
        uniform = torch.full((setup.num_classes,), 1 / setup.num_classes, dtype=torch.float64)
        return FreeMatchState(tau=uniform[0].clone(), p=uniform, hist=uniform.clone())

    def compute_loss(self, config: FreeMatchConfig, step: Step[FreeMatchState]) -> LossOutput[FreeMatchState]:
        """The averages take in the step's predictions; then FixMatch's loss with their thresholds, and fairness."""
        logits, _ = forward_views(step.forward, step.batch, config.weak_forward)
        supervised = losses.cross_entropy(logits.labelled, step.batch.labels).mean()

        q = losses.probabilities(logits.weak.detach())
        confidence, predicted = q.max(dim=1)
        m = momentum_of(config.momentum, step.progress)
        state = FreeMatchState(
            tau=moved(step.state.tau, confidence.mean(), m),
            p=moved(step.state.p, q.mean(dim=0), m),
            hist=moved(step.state.hist, shares(predicted, None, q.shape[1]), m),
        )
        thresholds = class_thresholds(state)
        pseudo_mask = confidence >= thresholds[predicted]
        unsupervised = (pseudo_mask * losses.cross_entropy(logits.strong, predicted)).mean()
        fair = fairness(state, logits.strong, pseudo_mask)

        total = supervised + config.lambda_u * unsupervised + config.lambda_f * fair.to(supervised.dtype)
        return LossOutput(
            total=total,
            terms={
                "loss_supervised": supervised,
                "loss_unsupervised": unsupervised,
                "loss_fairness": fair,
                "threshold_mean": thresholds.mean(),
                "threshold_lowest": thresholds.min(),
                "threshold_highest": thresholds.max(),
            },
            state=state,
            pseudo=PseudoLabels(indices=step.batch.indices, labels=predicted, accepted=pseudo_mask),
        )


METHOD = FreeMatch()
