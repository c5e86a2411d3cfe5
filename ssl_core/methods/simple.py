"""SimPLE (Hu, Yang, Hu and Nevatia 2021, arXiv:2103.16725): strong views share the prediction of similar images.

Of each unlabelled image there are K weak and K' strong views. The moving average of the network (EMA), in evaluation
mode, gives one target for all strong views of an image:

    g_b  = mean_k p_avg(y | weak_k(u_b)),   q_b = sharpen(g_b, T): g^(1/T), normalised

Rows i = 1..N, N = K' U, are the strong views: p_i their predictions, q_i the target of their image, and

    c_i  = [max_c q_ic > tau_c]                              of the sharpened target
    L_U  = 1/(N C) sum_i c_i sum_c (p_ic - q_ic)^2
    s_ij = BC(q_i, q_j) where that is above tau_s, else 0    BC(a, b) = sum_c sqrt(a_c b_c), 1: equal
    L_P  = 2/(N (N - 1)) sum_{i != j} c_i s_ij (1 - BC(q_i, p_j))
    loss = mean_B CE(p(y | weak(x)), label) + lambda_u * L_U + lambda_pair * L_P

In a pair i must be confident, j only similar to i, and j's prediction learns. Targets and s get no gradient. L_P is
divided by the number of all unordered pairs, so that it grows as the network becomes confident.

As in zijian-hu/SimPLE at a23c717 (loss/, simple_estimator.py); the paper may differ. There, [labelled, strong views] go
through the network in several batches that exchange rows; here in one.

Shapes: B labelled images of a step, U = mu * B unlabelled images of a step, N strong views, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from ssl_core import losses
from ssl_core.methods.base import LossOutput, Method, Panel, PseudoLabels, Scene, Step
from ssl_core.schema import MethodConfig
from ssl_core.system.lazy_torch import torch


class SimPLEConfig(MethodConfig):
    """Parameters of SimPLE."""

    lambda_u: float = Field(
        75.0,
        ge=0,
        le=1e5,
        description="weight of L_U, a mean over classes, too (Hu et al. 2021: 75 on CIFAR-10, 150 on CIFAR-100)",
    )
    lambda_pair: float = Field(
        75.0, ge=0, le=1e5, description="weight of L_P; 0: off (Hu et al. 2021: as lambda_u)"
    )
    threshold: float = Field(
        0.95,
        ge=0,
        le=1,
        description="tau_c, confidence of a sharpened target above which it counts (Hu et al. 2021)",
    )
    similarity: float = Field(
        0.9,
        ge=0,
        le=1,
        description="tau_s, overlap of two targets above which they are a pair (Hu et al. 2021)",
    )
    temperature: float = Field(0.5, gt=0, le=1, description="T, sharpens the target (Hu et al. 2021: 0.5)")
    weak_views: int = Field(
        2, ge=1, le=16, description="K, weak views whose predictions are averaged (Hu et al. 2021)"
    )
    strong_views: int = Field(
        7,
        ge=1,
        le=16,
        description="K', strong views that learn (Hu et al. 2021: 7 on CIFAR-10, 4 on CIFAR-100)",
    )


def unlabelled_loss(logits: torch.Tensor, targets: torch.Tensor, confident: torch.Tensor) -> torch.Tensor:
    """L_U, a scalar, of (N, C) logits and targets and the (N,) mask."""
    return (confident * losses.squared_error(losses.probabilities(logits), targets)).mean()


def pair_weights(targets: torch.Tensor, confident: torch.Tensor, similarity: float) -> torch.Tensor:
    """c_i s_ij, (N, N), 0 on the diagonal."""
    roots = targets.sqrt()
    overlap = roots @ roots.T
    weights = confident[:, None] * torch.where(overlap > similarity, overlap, 0)
    return weights - torch.diag(weights.diagonal())


def pair_loss(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """L_P, a scalar, of (N, C) logits and targets and the (N, N) weights; 0 for a single row."""
    n = len(targets)
    if n < 2:
        return 0 * logits.sum()
    predicted = (torch.log_softmax(logits.to(targets.dtype), dim=1) / 2).exp()
    overlap = targets.sqrt() @ predicted.T
    return (weights * (1 - overlap)).sum() / (n * (n - 1) / 2)


class SimPLE(Method[SimPLEConfig, None]):
    """Targets from the moving average, and pairs of similar images."""

    name = "simple"
    summary = "strong views share the predictions of similar images (Hu et al. 2021, SimPLE)"
    Config = SimPLEConfig
    warmup_share = 0.0  # the authors' code has none
    default_mu = 1
    default_clip_norm = 5.0  # the authors'; without it lambda_u = 75 at lr = 0.03 ends near chance

    def views(self, config: SimPLEConfig) -> Mapping[str, int]:
        return {"weak": config.weak_views, "strong": config.strong_views}

    def idle(self, config: SimPLEConfig) -> Mapping[str, str]:
        if config.lambda_u == config.lambda_pair == 0:
            return dict.fromkeys(
                ("threshold", "similarity", "temperature"), "simple.lambda_u = simple.lambda_pair = 0"
            )
        return {"similarity": "simple.lambda_pair = 0"} if config.lambda_pair == 0 else {}

    def compute_loss(self, config: SimPLEConfig, step: Step[None]) -> LossOutput[None]:
        """Cross-entropy on labelled images, squared error on confident strong views, and the loss of pairs."""
        batch, strong = step.batch, step.batch.views_of("strong")
        targets = self._targets(config, step)
        confident = targets.amax(dim=1) > config.threshold

        size = len(batch.labels)
        logits = step.forward(torch.cat([batch.labelled, *strong])).logits
        supervised = losses.cross_entropy(logits[:size], batch.labels).mean()
        rows, mask = targets.repeat(len(strong), 1), confident.repeat(len(strong))
        unsupervised = unlabelled_loss(logits[size:], rows, mask)
        weights = pair_weights(rows, mask, config.similarity)
        pairs = pair_loss(logits[size:], rows, weights)

        return LossOutput(
            total=supervised + config.lambda_u * unsupervised + config.lambda_pair * pairs,
            terms={
                "loss_supervised": supervised,
                "loss_unsupervised": unsupervised,
                "loss_pair": pairs,
                "pairs_share": (weights > 0).to(supervised.dtype).mean(),
            },
            pseudo=PseudoLabels(indices=batch.indices, labels=targets.argmax(dim=1), accepted=confident),
        )

    @staticmethod
    def _targets(config: SimPLEConfig, step: Step[None]) -> torch.Tensor:
        """q, (U, C), one for all strong views of an image."""
        predictions = [
            losses.probabilities(step.averaged(view).logits) for view in step.batch.views_of("weak")
        ]
        return losses.sharpened(torch.stack(predictions).mean(dim=0).detach(), config.temperature)

    def picture(self, config: SimPLEConfig, scene: Scene) -> tuple[Panel, ...]:
        """Weak and strong view of some images, and the image that each strong view is paired with most closely."""
        if config.lambda_u == config.lambda_pair == 0 or len(scene.images) < 2:
            return ()
        weak = [name for name in scene.views if name.startswith("weak")]
        predictions = [losses.probabilities(scene.forward(scene.views[name]).logits) for name in weak]
        targets = losses.sharpened(torch.stack(predictions).mean(dim=0), config.temperature)
        confident = targets.amax(dim=1) > config.threshold
        # of pairs with itself an image has only those of its own strong views: another image is shown
        overlap = (targets.sqrt() @ targets.sqrt().T).fill_diagonal_(-1)
        closest = overlap.max(dim=1)
        weights = pair_weights(targets, confident, config.similarity)
        paired = weights.gather(0, closest.indices[None])[0]  # the other one is the anchor
        captions = tuple(
            f"overlap {value:.2f}, weight {weight:.2f}"
            for value, weight in zip(closest.values.tolist(), paired.tolist(), strict=True)
        )
        shown = {name: scene.pixels(scene.views[name]).clip(0, 1) for name in ("weak", "strong")}
        says_target, right = scene.says(targets.log())
        says_strong = scene.says(scene.forward(scene.views["strong"]).logits)
        return (
            Panel("weak view, target q", "image", shown["weak"], says_target, right),
            Panel("strong view", "image", shown["strong"], *says_strong),
            Panel("most similar image", "image", shown["weak"][closest.indices.cpu().numpy()], captions),
        )


METHOD = SimPLE()
