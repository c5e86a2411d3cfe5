"""The attention loss of one image at a time, one position at a time, from the equations alone."""

from __future__ import annotations

import math

from torch import Tensor


def interpolated(weak: list[list[float]], x: float, y: float) -> float:
    """Bilinear value of a map (h rows of w) at (x, y) in [-1, 1], the frame's corners being -1 and 1; beyond
    the outermost centres the value of the nearest."""
    height, width = len(weak), len(weak[0])
    column = min(max((x + 1) * width / 2 - 0.5, 0.0), width - 1.0)
    row = min(max((y + 1) * height / 2 - 0.5, 0.0), height - 1.0)
    value = 0.0
    for r in range(height):
        for c in range(width):
            value += weak[r][c] * max(0.0, 1 - abs(r - row)) * max(0.0, 1 - abs(c - column))
    return value


def compared_positions(
    weak: list[list[float]], affine: list[list[float]], cutout: list[int], side: int
) -> dict[tuple[int, int], float]:
    """Positions of a strong view's map that are compared, and the weak map's value for each."""
    height, width = len(weak), len(weak[0])
    top, left, bottom, right = cutout
    values = {}
    for r in range(height):
        for c in range(width):
            x, y = (2 * c + 1) / width - 1, (2 * r + 1) / height - 1
            source_x, source_y = (a * x + b * y + shift for a, b, shift in affine)
            inside = -1 <= source_x <= 1 and -1 <= source_y <= 1
            pixel_row, pixel_column = (r + 0.5) * side / height, (c + 0.5) * side / width
            cut = top <= pixel_row < bottom and left <= pixel_column < right
            if inside and not cut:
                values[r, c] = interpolated(weak, source_x, source_y)
    return values


def divergence(target: dict[tuple[int, int], float], strong: Tensor) -> Tensor:
    """KL(softmax(target) || softmax(strong)) over the target's positions; 0 for fewer than two."""
    if len(target) < 2:
        return strong.sum() * 0
    highest, total = max(target.values()), 0.0
    for value in target.values():
        total += math.exp(value - highest)
    scores = [strong[place] for place in target]
    most = max(score.item() for score in scores)
    log_sum = sum(((score - most).exp() for score in scores[1:]), (scores[0] - most).exp()).log() + most
    result = strong.sum() * 0
    for value, score in zip(target.values(), scores, strict=True):
        log_p = value - highest - math.log(total)
        result = result + math.exp(log_p) * (log_p - (score - log_sum))
    return result


def similarity(maps: Tensor) -> Tensor:
    """Mean pairwise cosine of one image's maps (M, h, w), each a softmax over its positions."""
    attention = [one.flatten().exp() / one.exp().sum() for one in maps]
    pairs = []
    for i in range(len(attention)):
        for j in range(i + 1, len(attention)):
            a, b = attention[i], attention[j]
            pairs.append((a @ b) / ((a @ a).sqrt() * (b @ b).sqrt()))
    return sum(pairs[1:], pairs[0]) / len(pairs)
