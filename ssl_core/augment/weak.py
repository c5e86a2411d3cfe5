"""The weak view and normalisation, as tensor operations on batches of uint8 images.

Shapes: N images of the data set, n images of a batch, H = W their side in pixels; images are
(n, H, W, 3) uint8, what a network takes is (n, 3, H, W) floating point in channels-last memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch


def weak_view(
    images: torch.Tensor, indices: torch.Tensor, *, flip: bool, generator: torch.Generator
) -> torch.Tensor:
    """Flip (probability 1/2) and reflect-padded random crop, drawn per image (Sohn et al. 2020, section 2.3).

    The padding is an eighth of the side: 4 pixels at 32. Fetching, cropping and flipping are one gather,
    so no padded copy is made.

    Args:
        images: (N, H, W, 3) uint8, all images of the data set.
        indices: (n,) int64, which of them.
        flip: whether to flip at all (digits are not flipped).
        generator: on the images' device.

    Returns:
        (n, H, W, 3) uint8.
    """
    n, side = len(indices), images.shape[1]
    device = images.device
    padding = side // 8
    shift = torch.randint(-padding, padding + 1, (2, n, 1), generator=generator, device=device)
    flipped = torch.rand((n, 1), generator=generator, device=device) < 0.5
    along = torch.arange(side, device=device)
    rows = reflect(along + shift[0], side)
    columns = reflect(torch.where(flipped & flip, along.flip(0), along) + shift[1], side)
    return images[indices[:, None, None], rows[:, :, None], columns[:, None, :]]


def reflect(position: torch.Tensor, side: int) -> torch.Tensor:
    """Positions outside [0, side) mirrored into it without repeating the border, as reflect padding does."""
    position = position.abs()
    return torch.where(position >= side, 2 * (side - 1) - position, position)


def normalise(
    images: torch.Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """(x / 255 - mean) / std per channel: (n, H, W, 3) uint8 to (n, 3, H, W), channels-last memory.

    Args:
        images: pixels.
        mean, std: per channel, of pixels divided by 255.
        dtype: of the result.
    """
    scale, offset = _scale_and_offset(tuple(mean), tuple(std), dtype, images.device)
    return torch.addcmul(offset, images.to(dtype), scale).permute(0, 3, 1, 2)


@cache  # making a tensor from a list at every step would copy it to the device, and wait
def _scale_and_offset(
    mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    scale = torch.tensor([1 / (255 * s) for s in std], dtype=dtype, device=device)
    offset = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], dtype=dtype, device=device)
    return scale, offset
