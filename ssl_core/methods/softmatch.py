"""SoftMatch (Chen et al. 2023, arXiv:2301.10921): every pseudo-label counts, by a weight that falls with its doubt.

With q_i = sg p(y | weak(u_i)), the predictions are aligned to equally frequent classes by their running mean p,

    p   <- m p + (1 - m) mean_U q_i                          (the first step: the mean itself)
    a_i  = norm(q_i * (1/C + 1e-6) / (p + 1e-6))             norm divides by the sum

and the aligned confidences' running mean and variance give the weights, a Gaussian cut off above its mean:

    mu  <- m mu  + (1 - m) mean_U max_c a_ic                 from 1/C
    var <- m var + (1 - m) unbiased variance over U of max_c a_ic        from 1
    weight_i = exp(-min(max_c a_ic - mu, 0)^2 / (2 var / n_sigma^2))
    loss = mean_B CE(p(y | weak(x)), label) + lambda_u * mean_U weight_i * CE(p(y | strong(u_i)), argmax_c q_ic)

The label is that of the prediction as it was, not of the aligned one. All averages move before they are used.

As in microsoft/Semi-supervised-learning (USB), algorithms/softmatch and hooks/dist_align.py. The paper and TorchSSL
take mean and variance of the predictions that are not aligned; the authors call the difference trivial (USB, issue 89).

Shapes: B labelled images of a step, U = mu * B unlabelled images of a step, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field

from ssl_core import losses
from ssl_core.methods.base import LossOutput, Method, PseudoLabels, Setup, Step
from ssl_core.methods.consistency import DESCRIPTION, WeakForward, forward_views
from ssl_core.methods.running import MOMENTUM, momentum_of, moved
from ssl_core.schema import MethodConfig
from ssl_core.system.lazy_torch import torch

COUNTED = 0.5
"""Weight from which on a pseudo-label is counted for its class in the monitors; it changes no loss."""


class SoftMatchConfig(MethodConfig):
    """Parameters of SoftMatch."""

    n_sigma: float = Field(
        2.0,
        gt=0,
        le=100,
        description="how fast the weight falls below the mean confidence: its standard deviation is that of the "
        "confidences divided by n_sigma (Chen et al. 2023: 2)",
    )
    lambda_u: float = Field(
        1.0, ge=0, le=1e3, description="weight of the unlabelled loss (Chen et al. 2023: 1)"
    )
    momentum: float | None = Field(None, ge=0, lt=1, description=MOMENTUM)
    weak_forward: WeakForward = Field("joint", description=DESCRIPTION)


@dataclass
class SoftMatchState:
    """The running averages, float64.

    Attributes:
        p: mean prediction, (C,).
        mean, variance: of the aligned confidences, scalars.
        steps: how many the averages have seen.
    """

    p: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor
    steps: int


def aligned(q: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """Predictions (n, C) as if classes were equally frequent, p (C,) being the mean prediction: (n, C)."""
    ratio = q * ((1 / len(p) + 1e-6) / (p + 1e-6)).to(q.dtype)
    return ratio / ratio.sum(dim=1, keepdim=True)


def truncated_gaussian(
    confidence: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor, n_sigma: float
) -> torch.Tensor:
    """Weights, (n,) to (n,): 1 from the mean on, below it a Gaussian of variance / n_sigma^2."""
    below = (confidence - mean).clamp(max=0)
    return (-below.square() * n_sigma**2 / (2 * variance)).exp()


class SoftMatch(Method[SoftMatchConfig, SoftMatchState]):
    """FixMatch with weights instead of a threshold."""

    name = "softmatch"
    summary = "FixMatch whose pseudo-labels are weighed by their confidence, all are used (Chen et al. 2023)"
    Config = SoftMatchConfig
    warmup_share = 0.0  # the paper has none
    unlabelled_views = ("weak", "strong")

    def idle(self, config: SoftMatchConfig) -> Mapping[str, str]:
        if config.lambda_u == 0:
            return dict.fromkeys(("n_sigma", "momentum"), "softmatch.lambda_u = 0")
        return {}

    def init_state(self, config: SoftMatchConfig, setup: Setup) -> SoftMatchState:
        uniform = torch.full((setup.num_classes,), 1 / setup.num_classes, dtype=torch.float64)
        return SoftMatchState(
            p=uniform, mean=uniform[0].clone(), variance=torch.ones_like(uniform[0]), steps=0
        )

    def compute_loss(self, config: SoftMatchConfig, step: Step[SoftMatchState]) -> LossOutput[SoftMatchState]:
        """The averages take in the step's predictions; then each strong view counts by its weight."""
        logits, _ = forward_views(step.forward, step.batch, config.weak_forward)
        supervised = losses.cross_entropy(logits.labelled, step.batch.labels).mean()

        q = losses.probabilities(logits.weak.detach()).double()
        predicted, before = q.argmax(dim=1), step.state
        m = momentum_of(config.momentum, step.progress)
        p = moved(before.p, q.mean(dim=0), m if before.steps else 0.0)
        confidence = aligned(q, p).amax(dim=1)
        state = SoftMatchState(
            p=p,
            mean=moved(before.mean, confidence.mean(), m),
            variance=moved(before.variance, confidence.var(), m),
            steps=before.steps + 1,
        )
        weights = truncated_gaussian(confidence, state.mean, state.variance, config.n_sigma)
        weights = weights.to(supervised.dtype)
        unsupervised = (weights * losses.cross_entropy(logits.strong, predicted)).mean()

        return LossOutput(
            total=supervised + config.lambda_u * unsupervised,
            terms={
                "loss_supervised": supervised,
                "loss_unsupervised": unsupervised,
                "weight_mean": weights.mean(),
                "weight_lowest": weights.min(),
                "confidence_mean": state.mean,
                "confidence_deviation": state.variance.sqrt(),
            },
            state=state,
            pseudo=PseudoLabels(
                indices=step.batch.indices, labels=predicted, accepted=weights >= COUNTED, weights=weights
            ),
        )


METHOD = SoftMatch()
