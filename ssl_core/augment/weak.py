"""The weak view and normalisation, as tensor operations on batches of uint8 images.

Shapes: N images of the data set, n images of a batch, H = W their side in pixels; images are
(n, H, W, 3) uint8, what a network takes is (n, 3, H, W) floating point in channels-last memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    crops = draw((len(indices),), images.shape[1], generator)
    rows, columns = sources(crops, images.shape[1], flip=flip)
    return images[indices[:, None, None], rows, columns]


@dataclass(frozen=True)
class Crops:
    """The random numbers of weak views, of any shape S of images.

    Attributes:
        shift: by how many pixels rows and columns move, (2, *S) int64.
        flipped: (*S) bool.
    """

    shift: torch.Tensor
    flipped: torch.Tensor


def draw(shape: tuple[int, ...], side: int, generator: torch.Generator) -> Crops:
    """Draw weak views of images of a side, on the generator's device."""
    device, padding = generator.device, side // 8
    shift = torch.randint(-padding, padding + 1, (2, *shape), generator=generator, device=device)
    return Crops(shift, torch.rand(shape, generator=generator, device=device) < 0.5)


def sources(crops: Crops, side: int, *, flip: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Which rows and columns of an image the pixels of its weak view come from.

    Args:
        crops: of shape S.
        side: of the images.
        flip: whether to flip at all.

    Returns:
        Rows (*S, side, 1) and columns (*S, 1, side), int64.
    """
    along = torch.arange(side, device=crops.shift.device)
    turned = torch.where(crops.flipped[..., None] & flip, along.flip(0), along)
    rows, columns = reflect(along + crops.shift[0, ..., None], side), crops.shift[1, ..., None] + turned
    return rows[..., :, None], reflect(columns, side)[..., None, :]


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
    # A GPU converts the pixels while it reads them; a processor is faster if they are converted before.
    pixels = images if images.is_cuda else images.to(dtype)
    return torch.addcmul(offset, pixels, scale).permute(0, 3, 1, 2)


@cache  # making a tensor from a list at every step would copy it to the device, and wait
def _scale_and_offset(
    mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    scale = torch.tensor([1 / (255 * s) for s in std], dtype=dtype, device=device)
    offset = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], dtype=dtype, device=device)
    return scale, offset
