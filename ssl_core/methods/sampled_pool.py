"""Predicting only as many images of a pool as an epoch can draw, and estimating how many of all would be accepted.

Pseudo-labelling accepts X of n images without a label, and an epoch of S steps draws S * m of them, where m =
min(mu*B, round(B*|X| / |L|)). With few steps that is a small part of X, and predicting the rest is in vain. Here the
images are predicted in a random order, in blocks, until both hold:

1. m is known. Either K = ceil(S*B*n / |L|) images are predicted: in so many, a share a/K of which is accepted, are as
   many accepted ones as S steps draw. Or, before that, S*mu*B are accepted: then the estimate of |X| below exceeds
   mu*|L|, and m = mu*B.
2. As many are accepted as the epoch draws, S*m, or all n are predicted. (Rounding makes m up to half an image larger
   than a/S, so that this may need some images more than K.)

|X| is estimated as n*a/k from the a accepted of the k images that were predicted when 1. was met. k = K does not depend
on what is accepted, so that the images are a simple random sample, the estimate has no bias, and its standard error is

    sqrt(n * (n - k) / (n - 1) * n*p*(1 - p) / k),    p = |X| / n

(Cochran, Sampling Techniques, 1977, chapter 3), for which `standard_error` takes the usual estimate. Where S*mu*B
accepted images end it, the sampling is inverse, and the estimate is on average too large, by a share of about
(1 - p) / (S*mu*B) at most (Haldane 1945, On a method of estimating frequencies); m is mu*B all the same.

Shapes: n images of the pool, k of them predicted, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ssl_core.methods.base import Setup
from ssl_core.system.lazy_torch import torch

LEAST = 128
"""Images of a block at least: smaller ones cost a processor more for each image."""


@dataclass(frozen=True)
class Sampled:
    """What was predicted of a pool.

    Attributes:
        places: in the pool, of the images that were predicted, (k,) int64, ascending.
        labels: their predicted classes, (k,) int64.
        accepted: (k,) bool.
        total: the estimate of |X|.
    """

    places: torch.Tensor
    labels: torch.Tensor
    accepted: torch.Tensor
    total: float


def images_of_a_step(accepted: float, labelled: int, batch_size: int, mu: int) -> int:
    """min(mu*B, round(B*|X| / |L|)): how many images of X a step draws."""
    return min(mu * batch_size, round(batch_size * accepted / labelled))


def rounded(size: int) -> int:
    """The nearest number of three binary digits: 1 to 8, 10, 12, 14, 16, 20, ..., the larger of two as near.

    Between 64 and 448 there are 12 of them, each at most a ninth away from what it stands for.
    """
    unit = 1 << max(0, size.bit_length() - 3)
    return (size + unit // 2) // unit * unit


def step_size(accepted: float, setup: Setup) -> int:
    """How many images of X a step of a run draws: `images_of_a_step`, of a compiled run rounded to one of few sizes.

    |X| is another one in every epoch. Each new size of a step would be compiled on its own, which takes a minute, and
    torch gives up after some of them.
    """
    size = images_of_a_step(accepted, setup.labelled, setup.batch_size, setup.mu)
    return min(rounded(size), setup.mu * setup.batch_size) if setup.few_sizes else size


def at_most(n: int, setup: Setup, steps: int) -> int:
    """min(n, K): how many images are predicted to know the size of a step; all where an epoch draws as many as there
    are."""
    if steps * setup.mu * setup.batch_size >= n:
        return n
    return min(n, -(-steps * setup.batch_size * n // setup.labelled))


def standard_error(n: int, predicted: int, accepted: int) -> float:
    """Estimated standard error of n*a/k, in images: sqrt(n * (n - k) * q * (1 - q) / (k - 1)), where q = a/k.

    Its square has no bias (Cochran 1977, chapter 3). 0 where all are predicted; NaN of a single image of several.
    """
    if predicted == n:
        return 0.0
    if predicted < 2:
        return math.nan
    share = accepted / predicted
    return math.sqrt(n * (n - predicted) * share * (1 - share) / (predicted - 1))


def predict_sampled(
    order: torch.Tensor,
    judge: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    setup: Setup,
    steps: int,
) -> Sampled:
    """Predict images of a pool in this order until the draws of an epoch are covered.

    Args:
        order: a random permutation of the places in the pool, (n,) int64 on the CPU.
        judge: gives, for places (b,), the predicted classes (b,) and whether they are accepted (b,), on the CPU.
        setup: of the run; |L|, B and mu are read.
        steps: S of an epoch.
    """
    n, enough = len(order), steps * setup.mu * setup.batch_size
    first, found, known, total = at_most(n, setup, steps), list[tuple[torch.Tensor, torch.Tensor]](), 0, None
    accepted, wanted = 0, enough
    while known < n:
        if total is None:
            # So many are predicted in any case; after that about as many as the share so far says.
            block = enough if known == 0 else _block(enough - accepted, accepted, known)
            block = min(block, first - known)
        else:
            block = min(_block(wanted - accepted, accepted, known), n - known)
        found.append(judge(order[known : known + block]))
        known, accepted = known + block, accepted + int(found[-1][1].sum())
        if total is None and (known >= first or accepted >= enough):
            total = n * accepted / known
            wanted = steps * step_size(total, setup)
        if total is not None and accepted >= wanted:
            break
    places, labels, kept = order[:known], *(torch.cat(parts) for parts in zip(*found, strict=True))
    places, by_place = places.sort()
    return Sampled(places, labels[by_place], kept[by_place], n * accepted / known if total is None else total)


def _block(lacking: int, accepted: int, known: int) -> int:
    """How many images are likely to hold so many accepted ones more."""
    return max(LEAST, -(-lacking * known // max(accepted, 1)))
