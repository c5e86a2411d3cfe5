"""Errors by class, their mean and the confusion matrix, from counts; how far confidences are off.

Loads no torch unless predictions are counted.

Shapes: C classes, n images. A confusion matrix is C rows of C counts: a row for each true class, a column for each
predicted one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

OVERCONFIDENT = 10.0
"""From so many points of confidence beyond accuracy on there is a warning: two standard errors of an accuracy on 100
images or, of three such runs, more than three."""
Matrix = Sequence[Sequence[int]]
BINS = 15
"""Equally wide bins of confidence (Guo et al. 2017, section 5)."""


def count_confusion(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """How often each class was predicted for each true class, (C * C,) int64, row by row, on the logits' device.

    Nothing waits for the device.

    Args:
        logits: (n, C).
        labels: (n,) int64.
    """
    classes = logits.shape[1]
    pairs = labels * classes + logits.argmax(dim=1)
    return pairs.new_zeros(classes * classes).scatter_add_(0, pairs, pairs.new_ones(len(pairs)))


def matrix_of(counts: Sequence[int]) -> list[list[int]]:
    """The confusion matrix of its C * C counts, row by row."""
    classes = math.isqrt(len(counts))
    return [list(counts[row * classes : (row + 1) * classes]) for row in range(classes)]


def images_and_wrong(matrix: Matrix) -> tuple[list[int], list[int]]:
    """Images of each true class, and how many of them are misclassified."""
    images = [sum(row) for row in matrix]
    return images, [n - row[label] for label, (n, row) in enumerate(zip(images, matrix, strict=True))]


def errors_by_class(images: Sequence[int], wrong: Sequence[int]) -> list[float | None]:
    """Percent of each class's images that are misclassified; None for a class without an image."""
    return [100 * w / n if n else None for n, w in zip(images, wrong, strict=True)]


def balanced_error(images: Sequence[int], wrong: Sequence[int]) -> float:
    """The mean of the classes' errors in percent, over classes with an image: each class counts the same.

    With as many images in every class it is the share of misclassified images, but for rounding.
    """
    errors = [error for error in errors_by_class(images, wrong) if error is not None]
    return math.fsum(errors) / len(errors)


def balanced_deviation(images: Sequence[int], wrong: Sequence[int]) -> float:
    """Standard deviation in points of the balanced error, as far as it comes from the choice of the images.

    Each class's error is binomial, and the classes are independent: Var = sum_c e_c (1 - e_c) / n_c / C^2. An error of
    0 or 1 is not known exactly either: it is taken as 1 / n_c away from it, as in `tune.findings.ranking.resolution`.
    """
    variance, classes = 0.0, 0
    for n, w in zip(images, wrong, strict=True):
        if n:
            share = min(max(w / n, 1 / n), 1 - 1 / n) if n > 1 else 0.5
            variance += share * (1 - share) / n
            classes += 1
    return 100 * math.sqrt(variance) / classes


def expected_calibration_error(logits: torch.Tensor, labels: torch.Tensor, temperature: float = 1.0) -> float:
    """The mean gap between confidence and accuracy over bins of confidence, in points (0 to 100).

    Args:
        logits: (n, C), n at least 1.
        labels: (n,) int64.
        temperature: that logits are divided by.
    """
    confidence, right = _confidence_and_right(logits, labels, temperature)
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1  # (lower, upper]
    gaps = confidence.new_zeros(BINS).scatter_add_(0, bins, confidence - right)
    return 100 * float(gaps.abs().sum()) / len(labels)


def overconfidence(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean confidence minus accuracy, in points: above 0 where the network is surer than it is right.

    Args:
        logits: (n, C), n at least 1.
        labels: (n,) int64.
    """
    confidence, right = _confidence_and_right(logits, labels)
    return 100 * float((confidence - right).mean())


def _confidence_and_right(
    logits: torch.Tensor, labels: torch.Tensor, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The highest probability of each image and 1 where that class is right, 0 elsewhere: (n,) float64 on the CPU."""
    confidence, predicted = (logits.detach().double().cpu() / temperature).softmax(dim=1).max(dim=1)
    return confidence, (predicted == labels.cpu()).double()
