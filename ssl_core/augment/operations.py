"""RandAugment's operations on a batch: each computes what Pillow computes on a single RGB image.

A photometric operation takes images and a magnitude per image and returns images. A geometric one takes a
magnitude per image, the height and the width, and returns where each output pixel comes from; `warp` resamples.

Shapes: n images, H height, W width; images (n, 3, H, W) uint8, planar, so that factors of a channel broadcast over
long runs of memory; magnitudes (n,).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

GREY = 127
"""Colour of the cut-out box, and of what rotating, shearing and translating uncover: 0..255."""


def autocontrast(images: Tensor) -> Tensor:
    """Stretch every channel to 0..255; a channel of one value stays. `PIL.ImageOps.autocontrast`, exactly."""
    low = images.amin(dim=(2, 3), keepdim=True).double()
    high = images.amax(dim=(2, 3), keepdim=True).double()
    flat = high <= low
    # In float64 and in this order, because Pillow truncates: rounding differently would cost a level, and so
    # would `255.0 / tensor`, which torch computes by the reciprocal.
    scale = torch.where(flat, 1.0, torch.full_like(low, 255.0) / (high - low))
    offset = torch.where(flat, 0.0, -low * scale)
    return images.double().mul_(scale).add_(offset).clamp_(0, 255).to(torch.uint8)


def equalize(images: Tensor) -> Tensor:
    """Flatten every channel's histogram. `PIL.ImageOps.equalize`, exactly."""
    levels = images.flatten(2).long()
    ones = torch.ones((), dtype=torch.int32, device=images.device).expand_as(levels)
    histogram = torch.zeros((*levels.shape[:2], 256), dtype=torch.int32, device=images.device)
    histogram.scatter_add_(2, levels, ones)
    brightest = histogram.gather(2, levels.amax(dim=2, keepdim=True))
    step = (levels.shape[2] - brightest) // 255
    below = histogram.cumsum(dim=2, dtype=torch.int32) - histogram
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(max=255)
    unchanged = torch.arange(256, dtype=torch.int32, device=images.device)
    table = torch.where(step == 0, unchanged, table).to(torch.uint8)  # too few pixels: Pillow leaves it
    return table.gather(2, levels).view_as(images)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert levels at or above a threshold in 0..256. `PIL.ImageOps.solarize`, exactly."""
    inverted = (images >= per_image(threshold)).to(torch.uint8).mul_(255)
    return images ^ inverted  # flipping all bits is 255 minus the level, far faster than torch.where


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest bits of each level, 1..8 whole bits. `PIL.ImageOps.posterize`, exactly."""
    kept = torch.full_like(bits, 255, dtype=torch.int32).bitwise_left_shift(8 - bits.to(torch.int32))
    return images & per_image(kept.bitwise_and(255).to(torch.uint8))


def color(images: Tensor, factor: Tensor) -> Tensor:
    """Towards the grey image: 0 is grey, 1 unchanged. `PIL.ImageEnhance.Color`, to 1 level."""
    return _blend(_luminance(images), images, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Towards the image's mean luminance: 0 is flat, 1 unchanged. `PIL.ImageEnhance.Contrast`, to 1 level."""
    pixels = images.shape[2] * images.shape[3]
    total = _luminance(images).sum(dim=(2, 3), keepdim=True)
    return _blend((2 * total + pixels) // (2 * pixels), images, factor)  # the mean, rounded half up


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Towards black: 0 is black, 1 unchanged. `PIL.ImageEnhance.Brightness`, to 1 level."""
    return images.float().mul_(per_image(factor)).to(torch.uint8)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Towards the smoothed image: 0 is smooth, 1 unchanged. `PIL.ImageEnhance.Sharpness`, to 1 level."""
    wide = images.to(torch.int16)
    rows = wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]
    inner = wide[:, :, 1:-1, 1:-1]
    # Pillow's SMOOTH: weights 1 around 5, over 13, rounded. A sum over 13 is never halfway between levels.
    total = rows[:, :, :, :-2] + rows[:, :, :, 1:-1] + rows[:, :, :, 2:] + 4 * inner
    smooth = total.float().add_(6.5).div_(13).floor_()
    sharpened = images.clone()  # the outermost pixels have no neighbourhood and stay, as in Pillow
    sharpened[:, :, 1:-1, 1:-1] = _blend(smooth, inner, factor)
    return sharpened


def _blend(towards: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """towards + factor * (images - towards), truncated, factor in 0..1: as Pillow blends, in float32."""
    towards = towards.float()
    return images.float().sub_(towards).mul_(per_image(factor)).add_(towards).to(torch.uint8)


def _luminance(images: Tensor) -> Tensor:
    """(n, 3, H, W) -> (n, 1, H, W) int32 in 0..255, by Pillow's fixed-point weights for RGB to L."""
    red, green, blue = images.to(torch.int32).unbind(1)
    luminance = (red * 19595).add_(green * 38470).add_(blue * 7471).add_(0x8000)
    return luminance.bitwise_right_shift_(16)[:, None]


def per_image(values: Tensor) -> Tensor:
    """(n,) to (n, 1, 1, 1), which broadcasts over images."""
    return values.view(-1, 1, 1, 1)


# Where output position (x, y) comes from, in pixels with (0, 0) the image's corner: (a x + b y + c, d x + e y + f),
# Pillow's AFFINE data, as six (n,) float64.
Affine = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def rotate(degrees: Tensor, height: int, width: int) -> Affine:
    """Counter-clockwise about the middle: `Image.rotate(degrees)`."""
    angle = degrees.double().deg2rad()
    cos, sin, x, y = angle.cos(), angle.sin(), width / 2, height / 2
    return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y


def shear_x(shear: Tensor, height: int, width: int) -> Affine:
    """Rows are shifted in proportion to their distance from the top: `AFFINE (1, shear, 0, 0, 1, 0)`."""
    one, zero = one_zero(shear)
    return one, shear.double(), zero, zero, one, zero


def shear_y(shear: Tensor, height: int, width: int) -> Affine:
    """Columns are shifted in proportion to their distance from the left: `AFFINE (1, 0, 0, shear, 1, 0)`."""
    one, zero = one_zero(shear)
    return one, zero, zero, shear.double(), one, zero


def translate_x(share: Tensor, height: int, width: int) -> Affine:
    """Sideways by a share of the width, towards zero to whole pixels: `AFFINE (1, 0, pixels, 0, 1, 0)`."""
    one, zero = one_zero(share)
    return one, zero, (share.double() * width).trunc(), zero, one, zero


def translate_y(share: Tensor, height: int, width: int) -> Affine:
    """Up or down by a share of the height, towards zero to whole pixels: `AFFINE (1, 0, 0, 0, 1, pixels)`."""
    one, zero = one_zero(share)
    return one, zero, zero, zero, one, (share.double() * height).trunc()


def one_zero(like: Tensor) -> tuple[Tensor, Tensor]:
    """Ones and zeros of a tensor's shape, float64."""
    return torch.ones_like(like, dtype=torch.float64), torch.zeros_like(like, dtype=torch.float64)


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Resample to the nearest pixel; grey outside: `Image.transform` with AFFINE data, exactly.

    Args:
        images: (n, 3, H, W) uint8, sides below 16384.
        matrices: (n, 2, 3) float64, in pixels: Pillow's AFFINE data of each image, as rows (a, b, c) and (d, e, f).
    """
    height, width = images.shape[2:]
    # Pillow's own arithmetic, 16 bits behind the point: rounding alike keeps ties between pixels alike.
    start = matrices[:, :, 2] + 0.5 * (matrices[:, :, 0] + matrices[:, :, 1])
    parts = torch.stack((matrices[:, :, 0], matrices[:, :, 1], start)).mul_(65536).add_(0.5).floor_()
    per_column, per_row, start = parts.to(torch.int32)[..., None, None].unbind()  # each (n, 2, 1, 1)
    column = torch.arange(width, dtype=torch.int32, device=images.device)
    row = torch.arange(height, dtype=torch.int32, device=images.device)[:, None]
    x, y = ((per_row * row + start) + per_column * column).bitwise_right_shift_(16).unbind(1)
    # All bits set where x, y or their distance to the far side is negative.
    outside = (x | y | (width - 1 - x) | (height - 1 - y)).bitwise_right_shift_(31)
    source = (y * width).add_(x).bitwise_and_(~outside).flatten(1).long()
    moved = images.flatten(2).gather(2, source[:, None].expand(-1, 3, -1)).view_as(images)
    return grey_where(moved, outside.to(torch.uint8)[:, None])


def grey_where(images: Tensor, mask: Tensor) -> Tensor:
    """Grey where the mask (n, 1, H, W) uint8 is 255, not 0: in place, and far faster than masked_fill_."""
    return images.bitwise_and_(~mask).bitwise_or_(mask & GREY)


# --- The operations by name. Photometric ones first: `ssl_core.augment.randaugment` relies on it.
Photometric = Callable[[Tensor, Tensor], Tensor]
Geometric = Callable[[Tensor, int, int], Affine]

PHOTOMETRIC: dict[str, Photometric] = {
    "identity": lambda images, _: images,
    "autocontrast": lambda images, _: autocontrast(images),
    "equalize": lambda images, _: equalize(images),
    "solarize": solarize,
    "color": color,
    "contrast": contrast,
    "brightness": brightness,
    "sharpness": sharpness,
    "posterize": posterize,
}

GEOMETRIC: dict[str, Geometric] = {
    "rotate": rotate,
    "shear_x": shear_x,
    "shear_y": shear_y,
    "translate_x": translate_x,
    "translate_y": translate_y,
}

OPERATIONS: tuple[str, ...] = (*PHOTOMETRIC, *GEOMETRIC)
