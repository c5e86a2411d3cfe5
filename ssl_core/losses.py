"""Pure tensor functions that methods share. Each returns unreduced values, one per image.

Shapes: n images, C classes, M attention maps of h x w = P positions each.
"""

from __future__ import annotations

from ssl_core.system.lazy_torch import torch


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of hard labels, -log softmax(logits)[label].

    Args:
        logits: (n, C), any floating type; computed in float32 or better.
        labels: (n,) int64 in [0, C).

    Returns:
        (n,) in nats.
    """
    return torch.nn.functional.cross_entropy(at_least_float32(logits), labels, reduction="none")


def mean_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean of `cross_entropy` over the images, in fewer operations and with the same gradient.

    Args:
        logits: (n, C), any floating type; computed in float32 or better; n at least 1.
        labels: (n,) int64 in [0, C).

    Returns:
        () in nats.
    """
    return torch.nn.functional.cross_entropy(at_least_float32(logits), labels)


def kl_divergence(logits_p: torch.Tensor, logits_q: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence KL(p || q) = sum_c p_c (log p_c - log q_c) of p, q = softmax(logits).

    Gradients flow into both arguments: if p is a target, detach its logits.

    Args:
        logits_p: (n, C), any floating type; computed in float32 or better.
        logits_q: (n, C), likewise.

    Returns:
        (n,) in nats, 0 where p = q.
    """
    log_p = torch.log_softmax(at_least_float32(logits_p), dim=1)
    log_q = torch.log_softmax(at_least_float32(logits_q), dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of a prediction, H(p) = -sum_c p_c log p_c of p = softmax(logits).

    Args:
        logits: (n, C), any floating type; computed in float32 or better.

    Returns:
        (n,) in nats, from 0 (one class has probability 1) to log C (uniform).

    Reference: Grandvalet and Bengio (2005), who minimise it on unlabelled images.
    """
    log_p = torch.log_softmax(at_least_float32(logits), dim=1)
    return -(log_p.exp() * log_p).sum(dim=1)


def squared_error(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Squared distance of two predictions, mean over the classes: 1/C sum_c (p_c - q_c)^2.

    Gradients flow into both arguments: detach the target.

    Args:
        p, q: probabilities (n, C), any floating type; computed in float32 or better.

    Returns:
        (n,) in [0, 2/C].

    Reference: the consistency loss of Tarvainen and Valpola (2017) and Berthelot et al. (2019, MixMatch).
    """
    return (at_least_float32(p) - at_least_float32(q)).square().mean(dim=1)


def soft_cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of soft targets, -sum_c q_c log softmax(logits)_c.

    Gradients flow into both arguments: detach the target.

    Args:
        logits: (n, C), any floating type; computed in float32 or better.
        target: probabilities q (n, C).

    Returns:
        (n,) in nats; at least the entropy of q. A class of target 0 counts as 0 even where its probability underflows.
    """
    log_p = torch.log_softmax(at_least_float32(logits), dim=1)
    each = torch.where(target > 0, target * log_p, 0)  # 0 * -inf would be NaN
    return -each.sum(dim=1)


def bhattacharyya_coefficient(logits: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """How far two predictions overlap, BC(q, p) = sum_c sqrt(q_c p_c), of p = softmax(logits).

    The square root of p is taken in logarithms, so that its gradient stays finite where p_c underflows.

    Args:
        logits: (n, C), any floating type; computed in float32 or better.
        q: probabilities (n, C).

    Returns:
        (n,) in [0, 1]; 1 where q = p.

    Reference: Bhattacharyya (1943); Hu et al. (2021, SimPLE) compare pairs of images by it.
    """
    return (q.sqrt() * (torch.log_softmax(at_least_float32(logits), dim=1) / 2).exp()).sum(dim=1)


def alpha_divergence(g: torch.Tensor, p: torch.Tensor, alpha: float) -> torch.Tensor:
    """D_alpha(g || p) = (sum_c g_c^alpha p_c^(1 - alpha) - 1) / (alpha (alpha - 1)).

    Its limits are taken where the formula is 0 / 0: KL(g || p) at alpha = 1 and KL(p || g) at alpha = 0. Gradients flow
    into both arguments: detach the target.

    Args:
        g, p: probabilities (n, C), any floating type; computed in float32 or better.
        alpha: the order. Above 1 the divergence grows as a power of 1 / p_c where g_c is not small.

    Returns:
        (n,) at least 0 but for rounding, 0 where g = p. Infinite where a class has probability 0 in p (alpha >= 1) or
        in g (alpha <= 0), but not in the other.

    Reference: Minka (2005); Gong, Wang and Liu (2021, AlphaMatch), equation 5.
    """
    g, p = at_least_float32(g), at_least_float32(p)
    if alpha == 0:
        return alpha_divergence(p, g, 1)
    # A class that is absent from the first (for a negative alpha: the second) argument counts as 0. Putting in
    # 1 keeps 0 * inf out of the value and out of the gradient.
    present = g > 0 if alpha > 0 else p > 0
    inner_g, inner_p = torch.where(present, g, 1), torch.where(present, p, 1)
    if alpha == 1:
        return torch.where(present, g * (inner_g.log() - inner_p.log()), 0).sum(dim=1)
    terms = torch.where(present, inner_g**alpha * inner_p ** (1 - alpha), 0)
    return (terms.sum(dim=1) - 1) / (alpha * (alpha - 1))


def sharpened(p: torch.Tensor, temperature: float) -> torch.Tensor:
    """p_c^(1/T) / sum_k p_k^(1/T): a prediction made surer for T < 1, in logarithms, so that nothing underflows early.

    Args:
        p: probabilities (n, C).
        temperature: T above 0; 1 leaves p as it is.

    Returns:
        (n, C), each row adds up to 1.
    """
    return (p.log() / temperature).softmax(dim=1)


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    """softmax(logits) in float32 or better: (n, C) to (n, C). With a gradient; detach what is a target."""
    return at_least_float32(logits).softmax(dim=1)


def confident_class(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Confidence and class of a pseudo-label: max and argmax of softmax(logits), without a gradient.

    Args:
        logits: (n, C), any floating type; computed in float32 or better.

    Returns:
        (n,) in (0, 1], NaN where a logit is; (n,) int64.
    """
    confidence, predicted = at_least_float32(logits.detach()).softmax(dim=1).max(dim=1)
    return confidence, predicted


def align_maps(
    maps: torch.Tensor, affine: torch.Tensor, cutout: torch.Tensor, size: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps of weak views resampled to the positions of their strong views, and where both can be compared.

    Args:
        maps: (n, h, w), float32 or float64.
        affine, cutout: (n, 2, 3) and (n, 4), as in `ssl_core.augment.randaugment.Geometry`.
        size: height and width of the images, in pixels.

    Returns:
        The resampled maps, (n, h, w), bilinear between the centres of positions; and (n, h, w) bool: the
        position's centre comes from inside the weak view and is not under the cutout.
    """
    n, *cells = maps.shape
    sources = torch.nn.functional.affine_grid(affine.to(maps), [n, 1, *cells], align_corners=False)
    aligned = torch.nn.functional.grid_sample(  # border: outside the outermost centres, the outermost values
        maps[:, None], sources, mode="bilinear", padding_mode="border", align_corners=False
    )
    inside = (sources.abs() <= 1).all(dim=3)
    rows, columns = (
        (torch.arange(count, device=maps.device) + 0.5) * (pixels / count)
        for count, pixels in zip(cells, size, strict=True)
    )
    top, left, bottom, right = cutout[..., None].unbind(1)
    cut_rows, cut_columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return aligned[:, 0], inside & ~(cut_rows[:, :, None] & cut_columns[:, None, :])


def map_divergence(target: torch.Tensor, scores: torch.Tensor, compared: torch.Tensor) -> torch.Tensor:
    """KL(sg softmax(target) || softmax(scores)), both over the compared positions.

    Args:
        target: (n, P), any floating type; gets no gradient.
        scores: (n, P), any floating type.
        compared: (n, P) bool; both softmaxes leave out the other positions.

    Returns:
        (n,) in nats; 0, without a gradient, where fewer than two positions are compared.
    """
    enough = compared.sum(dim=1) >= 2
    kept = (
        compared | ~enough[:, None]
    )  # keep all where fewer than two are compared: an empty softmax would be NaN
    log_target = _log_softmax_where(kept, target.detach())
    ratio = log_target - _log_softmax_where(kept, scores)
    each = (log_target.exp() * torch.where(kept, ratio, 0)).sum(dim=1)  # left out: -inf less -inf
    return torch.where(enough, each, 0)


def map_shares(scores: torch.Tensor, compared: torch.Tensor) -> torch.Tensor:
    """softmax(scores) over the compared positions: (n, h, w) to (n, h, w), NaN at the others.

    Args:
        scores: (n, h, w), any floating type.
        compared: (n, h, w) bool.
    """
    kept = compared.flatten(1)
    shares = _log_softmax_where(kept, scores.flatten(1)).exp()
    return torch.where(kept, shares, torch.nan).view(scores.shape)


def map_similarity(maps: torch.Tensor) -> torch.Tensor:
    """Mean over the pairs of an image's maps of the cosine between softmax(map_i) and softmax(map_j).

    Args:
        maps: (n, M, P), any floating type, M at least 2.

    Returns:
        (n,) in [0, 1]; 1: all maps are the same, 0: no two maps attend to the same position.
    """
    directions = torch.nn.functional.normalize(at_least_float32(maps).softmax(dim=2), dim=2)
    first, second = torch.triu_indices(maps.shape[1], maps.shape[1], offset=1, device=maps.device)
    return (directions[:, first] * directions[:, second]).sum(dim=2).mean(dim=1)


def _log_softmax_where(kept: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """(n, P) log-softmax over the positions that are kept; -inf at the others."""
    return at_least_float32(scores).masked_fill(~kept, -torch.inf).log_softmax(dim=1)


def at_least_float32(logits: torch.Tensor) -> torch.Tensor:
    """Logits of any floating type in float32, those in float64 as they are."""
    return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
