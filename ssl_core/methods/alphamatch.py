"""AlphaMatch (Gong, Wang and Liu 2021, arXiv:2011.11779): weak and strong views agree, measured by an alpha-divergence.

With D_a(g || p) = (sum_y g_y^a p_y^(1-a) - 1) / (a (a - 1)), one weak view w, n strong views s_i of an image u, and the
weights v_0 = 1 - beta of the weak view, v_i = beta / n of a strong one,

    Psi(g, u) = sum_i v_i D_a(g || p_i)                                              (equation 9)
    g*_y  prop. (sum_i v_i p_iy^(1-a))^(1/(1-a)),  which minimises it                (equation 12)
    loss  = mean_B CE(p(y | weak(x)), label) + lambda_u * mean_U Psi(sg g*, u)       (equation 11)

There is no threshold, and no stop-gradient on the weak view: both views learn, only g* is constant. By the envelope
theorem value and gradient are those of the minimum itself, which is how it is computed, in float64:

    Psi* = (Z^(1-a) - 1) / (a (a - 1)),  Z = sum_y (sum_i v_i p_iy^(1-a))^(1/(1-a));       a = 1: Psi* = -log Z

For a > 1 the loss, and its gradient, grow exponentially with the margin by which two confident views disagree (a margin
of 20 logits: a gradient of 3000, where cross-entropy has 1.4). One image under an unlucky cutout could end a run. So
the gradient of each image's Psi, with respect to the logits of all its views together, is shortened to a length of
`gradient_limit`; its direction and the value of the loss stay. The paper has no such bound.

Shapes: B labelled images of a step, U = mu * B unlabelled images of a step, V = 1 + n views, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from pydantic import Field

from ssl_core import losses
from ssl_core.methods.base import LossOutput, Method, Panel, PseudoLabels, Scene, Step
from ssl_core.schema import MethodConfig
from ssl_core.system.lazy_torch import torch

CONFIDENT = 0.95
"""Confidence of g* from which a pseudo-label is counted by the monitors; it changes no loss."""
LARGEST = 80.0
"""Logarithm of the largest Psi that is reported: e^80 is still finite in float32."""


class AlphaMatchConfig(MethodConfig):
    """Parameters of AlphaMatch."""

    alpha: float = Field(
        1.5, gt=0, le=4, description="a, order of the divergence; 1: KL (Gong et al. 2021: 1.5)"
    )
    beta: float = Field(
        0.5, gt=0, lt=1, description="weight of the strong views in g* (Gong et al. 2021: 0.5)"
    )
    lambda_u: float = Field(
        1.0,
        ge=0,
        le=1e3,
        description="weight of the unlabelled loss (Gong et al. 2021 do not say it; FixMatch: 1)",
    )
    strong_views: int = Field(1, ge=1, le=16, description="n (Gong et al. 2021: 1; up to 10 changes little)")
    gradient_limit: float = Field(
        1.5,
        gt=0,
        le=1e6,
        description="length to which the gradient of an image's divergence is shortened (not in Gong et al. 2021; "
        "that of cross-entropy is below 1.42)",
    )


class Agreement(NamedTuple):
    """Of U images: log g* (U, C), Psi* (U,) and what is differentiated in its place, (U,)."""

    log_target: torch.Tensor
    value: torch.Tensor
    limited: torch.Tensor


def agreement(logits: torch.Tensor, weights: torch.Tensor, alpha: float, limit: float) -> Agreement:
    """The best common prediction of several views, and how far they are from it.

    Args:
        logits: (V, U, C).
        weights: v of the views, (V,), adding up to 1, none 0.
        alpha: order of the divergence, above 0; within 1e-6 of 1 it is taken as 1.
        limit: longest gradient of an image's divergence with respect to its logits (V, C).

    Returns:
        `limited` has the value of Psi* and its gradient, shortened where it is longer than the limit.
    """
    log_p = torch.log_softmax(logits.double(), dim=2)
    log_v = weights.double().log()[:, None, None]
    if abs(alpha - 1) < 1e-6:
        scores = (log_v.exp() * log_p).sum(dim=0)
        log_z = scores.logsumexp(dim=1)
        value = -log_z
        return Agreement(torch.log_softmax(scores.detach(), dim=1), value.detach(), value)
    scores = torch.logsumexp(log_v + (1 - alpha) * log_p, dim=0) / (1 - alpha)
    exponent = (1 - alpha) * scores.logsumexp(dim=1)
    log_target = torch.log_softmax(scores.detach(), dim=1)
    scale = alpha * (alpha - 1)
    value = torch.expm1(exponent.detach().clamp(max=LARGEST)) / scale
    # d Psi = e^exponent / scale * d exponent. The second factor is of moderate size, so only the first is bounded.
    log_length = _log_gradient_length(log_p.detach(), log_v, log_target, exponent.detach(), alpha)
    factor = torch.minimum(exponent.detach(), math.log(limit) - log_length).exp() / scale
    limited = factor * (exponent - exponent.detach()) + value
    return Agreement(log_target, value, limited)


def _log_gradient_length(
    log_p: torch.Tensor, log_v: torch.Tensor, log_target: torch.Tensor, exponent: torch.Tensor, alpha: float
) -> torch.Tensor:
    """Logarithm of |gradient of Psi| / e^exponent for each image, (U,).

    The gradient with respect to the logits of view i is v_i / a (p_i sum_y rho_y - rho), rho_y = g*_y^a p_iy^(1-a).
    """
    rho = (alpha * log_target + (1 - alpha) * log_p - exponent[:, None]).exp()
    gradient = log_v.exp() / alpha * (log_p.exp() * rho.sum(dim=2, keepdim=True) - rho)
    return gradient.square().sum(dim=(0, 2)).sqrt().clamp(min=1e-300).log()


def view_weights(beta: float, strong_views: int, device: torch.device) -> torch.Tensor:
    """v, (1 + n,) float64: 1 - beta for the weak view, beta / n for each strong one."""
    # Two fills: a value that is assigned to one element is copied to the device, which waits for it.
    weak = torch.full((1,), 1 - beta, dtype=torch.float64, device=device)
    strong = torch.full((strong_views,), beta / strong_views, dtype=torch.float64, device=device)
    return torch.cat([weak, strong])


class AlphaMatch(Method[AlphaMatchConfig, None]):
    """Agreement of weak and strong views, both of which learn."""

    name = "alphamatch"
    summary = "weak and strong views agree, by an alpha-divergence, without a threshold (Gong et al. 2021)"
    Config = AlphaMatchConfig
    warmup_share = 0.0  # the paper has none

    def views(self, config: AlphaMatchConfig) -> Mapping[str, int]:
        return {"weak": 1, "strong": config.strong_views}

    def idle(self, config: AlphaMatchConfig) -> Mapping[str, str]:
        if config.lambda_u == 0:
            return dict.fromkeys(("alpha", "beta", "gradient_limit"), "alphamatch.lambda_u = 0")
        return {}

    def compute_loss(self, config: AlphaMatchConfig, step: Step[None]) -> LossOutput[None]:
        """Cross-entropy on labelled images, and the mean divergence of the views from their best common prediction."""
        batch = step.batch
        views = [batch.views["weak"], *batch.views_of("strong")]
        size = len(batch.labels)
        logits = step.forward(torch.cat([batch.labelled, *views])).logits
        supervised = losses.cross_entropy(logits[:size], batch.labels).mean()

        of_views = logits[size:].view(len(views), len(batch.indices), -1)
        weights = view_weights(config.beta, config.strong_views, logits.device)
        found = agreement(of_views, weights, config.alpha, config.gradient_limit)
        unsupervised = found.limited.mean().to(supervised.dtype)
        confidence, predicted = found.log_target.exp().max(dim=1)

        return LossOutput(
            total=supervised + config.lambda_u * unsupervised,
            terms={
                "loss_supervised": supervised,
                "loss_unsupervised": unsupervised,
                "target_confidence": confidence.mean(),
            },
            pseudo=PseudoLabels(indices=batch.indices, labels=predicted, accepted=confidence >= CONFIDENT),
        )

    def picture(self, config: AlphaMatchConfig, scene: Scene) -> tuple[Panel, ...]:
        """Weak and strong view with their predictions, and g* with the divergence beside them."""
        names = ["weak", *(name for name in scene.views if name.startswith("strong"))]
        logits = torch.stack([scene.forward(scene.views[name]).logits for name in names])
        weights = view_weights(config.beta, len(names) - 1, logits.device)
        found = agreement(logits, weights, config.alpha, config.gradient_limit)
        says, right = scene.says(found.log_target)
        captions = tuple(
            f"{each}, Psi {psi:.2g}" for each, psi in zip(says, found.value.tolist(), strict=True)
        )
        shown = [
            Panel(f"{name} view", "image", scene.pixels(scene.views[name]).clip(0, 1), *scene.says(each))
            for name, each in zip(names, logits, strict=True)
        ]
        return (*shown, Panel("g*", "image", scene.pixels(scene.images).clip(0, 1), captions, right))


METHOD = AlphaMatch()
