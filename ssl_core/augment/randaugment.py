"""RandAugment and cutout: the strong view of the FixMatch family, for a whole batch, random per image.

Sohn et al. 2020 (arXiv:2001.07685), appendix D; Cubuk et al. 2020 (arXiv:1909.13719); DeVries & Taylor 2017
(arXiv:1708.04552). Each operation computes what Pillow computes on a single RGB image.

Where the public implementations differ:
- ranges: the paper's table, as kekmodel/FixMatch-pytorch has them (enhancements 0.05..0.95, posterize 4..8
  bits, translation by a share of the side). google-research/fixmatch itself takes AutoAugment's: 0.1..1.9,
  1..4 bits, whole pixels;
- drawn operations are always applied, as the paper says; both codes skip each with probability 1/2;
- magnitudes are continuous, as in the paper; both codes draw one of nine levels;
- what a geometric operation uncovers is grey, as google-research/fixmatch has it (kekmodel's: black), and
  nearest neighbour resampling, Pillow's default, as in both. Grey is laid before the second operation;
- the cut-out box is google-research/fixmatch's: a whole-pixel centre anywhere in the image, half a side to
  both sides, clipped (kekmodel's is a pixel larger and is moved inwards at the top and the left).

Shapes: n images, H height, W width. Operations take planar images (n, 3, H, W) uint8, so that factors of a
channel broadcast over long runs of memory. Nothing waits for the device: off the CPU all operations run on
all images and a mask picks; on the CPU each runs on its own images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

GREY = 127
"""Colour of the cut-out box, and of what rotating, shearing and translating uncover: 0..255."""
DRAWN = 2
"""Operations per image."""


@dataclass(frozen=True)
class Draws:
    """Everything random about n strong views; `apply` itself draws nothing.

    Attributes:
        operations: (n, DRAWN) int64, places in OPERATIONS, first applied first.
        magnitudes: (n, DRAWN) float32, in the operation's own unit (see RANGES), signed.
        centres: (n, 2) int64, row and column of the cut-out box's centre.
    """

    operations: Tensor
    magnitudes: Tensor
    centres: Tensor

    def to(self, device: torch.device) -> Draws:
        """The same draws on a device."""
        parts = (self.operations, self.magnitudes, self.centres)
        return Draws(*(part.to(device, non_blocking=True) for part in parts))


@dataclass(frozen=True)
class Geometry:
    """Where a strong view's pixels come from, to compare maps of both views position by position.

    Attributes:
        affine: (n, 2, 3) float32; takes positions of the strong view to positions of the weak one, both in
            [-1, 1], as `torch.nn.functional.affine_grid` with align_corners=False wants it. The identity
            where no geometric operation was drawn, else the drawn ones composed. The view itself is
            resampled once per operation, to the nearest pixel each time.
        cutout: (n, 4) int64; top, left, bottom, right (the last two exclusive), clipped to the image.
    """

    affine: Tensor
    cutout: Tensor


# --- Photometric operations: (n, 3, H, W) uint8 and a magnitude per image (n,) -> (n, 3, H, W) uint8.


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
    inverted = (images >= _per_image(threshold)).to(torch.uint8).mul_(255)
    return images ^ inverted  # flipping all bits is 255 minus the level, far faster than torch.where


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest bits of each level, 1..8 whole bits. `PIL.ImageOps.posterize`, exactly."""
    kept = torch.full_like(bits, 255, dtype=torch.int32).bitwise_left_shift(8 - bits.to(torch.int32))
    return images & _per_image(kept.bitwise_and(255).to(torch.uint8))


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
    return images.float().mul_(_per_image(factor)).to(torch.uint8)


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
    return images.float().sub_(towards).mul_(_per_image(factor)).add_(towards).to(torch.uint8)


def _luminance(images: Tensor) -> Tensor:
    """(n, 3, H, W) -> (n, 1, H, W) int32 in 0..255, by Pillow's fixed-point weights for RGB to L."""
    red, green, blue = images.to(torch.int32).unbind(1)
    luminance = (red * 19595).add_(green * 38470).add_(blue * 7471).add_(0x8000)
    return luminance.bitwise_right_shift_(16)[:, None]


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


# --- Geometric operations: a magnitude per image (n,), H, W -> six (n,) float64: where output position (x, y)
# comes from, in pixels with (0, 0) the image's corner: (a x + b y + c, d x + e y + f), Pillow's AFFINE data.

Affine = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def rotate(degrees: Tensor, height: int, width: int) -> Affine:
    """Counter-clockwise about the middle: `Image.rotate(degrees)`."""
    angle = degrees.double().deg2rad()
    cos, sin, x, y = angle.cos(), angle.sin(), width / 2, height / 2
    return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y


def shear_x(shear: Tensor, height: int, width: int) -> Affine:
    """Rows are shifted in proportion to their distance from the top: `AFFINE (1, shear, 0, 0, 1, 0)`."""
    one, zero = _one_zero(shear)
    return one, shear.double(), zero, zero, one, zero


def shear_y(shear: Tensor, height: int, width: int) -> Affine:
    """Columns are shifted in proportion to their distance from the left: `AFFINE (1, 0, 0, shear, 1, 0)`."""
    one, zero = _one_zero(shear)
    return one, zero, zero, shear.double(), one, zero


def translate_x(share: Tensor, height: int, width: int) -> Affine:
    """Sideways by a share of the width, towards zero to whole pixels: `AFFINE (1, 0, pixels, 0, 1, 0)`."""
    one, zero = _one_zero(share)
    return one, zero, (share.double() * width).trunc(), zero, one, zero


def translate_y(share: Tensor, height: int, width: int) -> Affine:
    """Up or down by a share of the height, towards zero to whole pixels: `AFFINE (1, 0, 0, 0, 1, pixels)`."""
    one, zero = _one_zero(share)
    return one, zero, zero, zero, one, (share.double() * height).trunc()


def _one_zero(like: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ones_like(like, dtype=torch.float64), torch.zeros_like(like, dtype=torch.float64)


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Resample to the nearest pixel; grey outside: `Image.transform` with AFFINE data, exactly.

    Args:
        images: (n, 3, H, W) uint8, sides below 16384.
        matrices: (n, 2, 3) float64, in pixels (see above).
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
    return _grey_where(moved, outside.to(torch.uint8)[:, None])


def _grey_where(images: Tensor, mask: Tensor) -> Tensor:
    """Grey where the mask (n, 1, H, W) uint8 is 255, not 0: in place, and far faster than masked_fill_."""
    return images.bitwise_and_(~mask).bitwise_or_(mask & GREY)


# --- The operations together. Photometric ones first: `_operate` counts on it.
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

RANGES: dict[str, tuple[float, float]] = {
    "solarize": (0.0, 256.0),  # threshold, levels
    "color": (0.05, 0.95),  # factors of the original image
    "contrast": (0.05, 0.95),
    "brightness": (0.05, 0.95),
    "sharpness": (0.05, 0.95),
    "posterize": (4.0, 8.0),  # bits kept, whole, both ends as likely as the others
    "rotate": (-30.0, 30.0),  # degrees
    "shear_x": (-0.3, 0.3),  # pixels per pixel
    "shear_y": (-0.3, 0.3),
    "translate_x": (-0.3, 0.3),  # shares of the side
    "translate_y": (-0.3, 0.3),
}
"""Lowest and highest magnitude, uniform between them; absent for operations that have none (drawn as 0)."""


@cache  # a list made into a tensor anew would be a copy to the device, and so a wait, at every step
def _ranges(device: torch.device) -> tuple[Tensor, Tensor]:
    """Lowest magnitude and width of the range of every operation, (14,) float32 each."""
    pairs = torch.tensor([RANGES.get(name, (0.0, 0.0)) for name in OPERATIONS], dtype=torch.float32)
    low, high = pairs.unbind(1)
    return low.to(device), (high - low).to(device)


def draw(n: int, size: tuple[int, int], generator: torch.Generator) -> Draws:
    """Draw n strong views for images of a size (H, W), on the generator's device.

    Operations are uniform and independent, so an image may get the same one twice.
    """
    device = generator.device
    operations = torch.randint(len(OPERATIONS), (n, DRAWN), generator=generator, device=device)
    uniform = torch.rand((n, DRAWN), generator=generator, device=device)
    low, span = (part[operations] for part in _ranges(device))
    bits = (uniform * (span + 1)).floor_().minimum(span)
    magnitudes = low + torch.where(operations == OPERATIONS.index("posterize"), bits, uniform * span)
    sides = [torch.randint(side, (n,), generator=generator, device=device) for side in size]
    return Draws(operations, magnitudes, torch.stack(sides, dim=1))


def apply(images: Tensor, draws: Draws) -> tuple[Tensor, Geometry]:
    """The strong views that were drawn.

    Args:
        images: (n, H, W, 3) uint8.
        draws: for n images of this size, on the same device.

    Returns:
        The views, (n, H, W, 3) uint8, and their geometry.
    """
    height, width = images.shape[1:3]
    matrices = _matrices(draws, height, width)
    views = images.permute(0, 3, 1, 2).contiguous()
    for k in range(DRAWN):
        views = _operate(views, draws.operations[:, k], draws.magnitudes[:, k], matrices[:, k])
    box = _box(draws.centres, height, width)
    affine = _normalised(matrices, height, width).float()
    views = torch.stack(_cutout(views, box).unbind(1), dim=-1)  # faster than a permuted copy
    return views, Geometry(affine, box)


def strong_view(
    images: Tensor,
    generator: torch.Generator,
    apply: Callable[[Tensor, Draws], tuple[Tensor, Geometry]] = apply,
) -> tuple[Tensor, Geometry]:
    """Two random operations and a cut-out box for every image.

    Args:
        images: the weak view, (n, H, W, 3) uint8, on any device.
        generator: of all that is random here, on any device; one on the images' own saves a copy.
        apply: `apply`, or it compiled.

    Returns:
        The strong view, (n, H, W, 3) uint8, and where its pixels come from.
    """
    height, width = images.shape[1:3]
    return apply(images, draw(len(images), (height, width), generator).to(images.device))


def _operate(images: Tensor, operations: Tensor, magnitudes: Tensor, matrices: Tensor) -> Tensor:
    """One operation for each image: (n, 3, H, W) uint8 to the same, `operations` and `magnitudes` (n,)."""
    kinds = operations.clamp(max=len(PHOTOMETRIC))  # all geometric operations are one resampling
    select = _each_on_its_own if images.device.type == "cpu" else _all_and_pick
    return select(images, kinds, magnitudes, matrices)


def _run(kind: int, images: Tensor, magnitudes: Tensor, matrices: Tensor) -> Tensor:
    if kind == len(PHOTOMETRIC):
        return warp(images, matrices)
    return PHOTOMETRIC[OPERATIONS[kind]](images, magnitudes)


def _each_on_its_own(images: Tensor, kinds: Tensor, magnitudes: Tensor, matrices: Tensor) -> Tensor:
    """Every operation on the images that drew it: shapes depend on the draws, which costs the CPU nothing."""
    order = kinds.argsort()
    counts = torch.bincount(kinds, minlength=len(PHOTOMETRIC) + 1).tolist()
    groups = [torch.split(part.index_select(0, order), counts) for part in (images, magnitudes, matrices)]
    results = [_run(kind, *parts) for kind, parts in enumerate(zip(*groups, strict=True))]
    return torch.cat(results).index_select(0, order.argsort())  # faster than index_copy_ group by group


def _all_and_pick(images: Tensor, kinds: Tensor, magnitudes: Tensor, matrices: Tensor) -> Tensor:
    """Every operation on every image: nothing has to be known before it is launched."""
    result = images
    for kind in range(1, len(PHOTOMETRIC) + 1):
        chosen = _per_image(kinds == kind)
        result = torch.where(chosen, _run(kind, images, magnitudes, matrices), result)
    return result


def _matrices(draws: Draws, height: int, width: int) -> Tensor:
    """The drawn geometric operations, (n, DRAWN, 2, 3) float64 in pixels; photometric ones are identities."""
    one, zero = _one_zero(draws.magnitudes)
    entries: Affine = (one, zero, zero, zero, one, zero)
    matrices = torch.stack(entries, dim=-1)
    for name, operation in GEOMETRIC.items():
        chosen = (draws.operations == OPERATIONS.index(name))[..., None]
        drawn = torch.stack(operation(draws.magnitudes, height, width), dim=-1)
        matrices = torch.where(chosen, drawn, matrices)
    return matrices.view(-1, DRAWN, 2, 3)


def _normalised(matrices: Tensor, height: int, width: int) -> Tensor:
    """(n, DRAWN, 2, 3) in pixels, first applied first, to their composition (n, 2, 3) in [-1, 1]."""
    linear, shift = matrices[..., :2], matrices[..., 2:]
    # The last operation made the pixel we look at, so it is undone first and the first operation last.
    turn, move = linear[:, 0], shift[:, 0]
    for k in range(1, DRAWN):
        turn, move = turn @ linear[:, k], turn @ shift[:, k] + move
    # Pixels are (u + 1) * half of a normalised position u: half * (v + 1) = turn (half * (u + 1)) + move.
    half = torch.stack((turn.new_full((), width / 2), turn.new_full((), height / 2)))
    turn = turn * half / half[:, None]
    return torch.cat((turn, turn.sum(-1, keepdim=True) + move / half[:, None] - 1), dim=-1)


def _box(centres: Tensor, height: int, width: int) -> Tensor:
    """The cut-out boxes, (n, 4) int64: half of the shorter side, clipped to the image."""
    side = min(height, width) // 2
    top, left = (centres - side // 2).unbind(1)
    bottom, right = (top + side).clamp(max=height), (left + side).clamp(max=width)
    return torch.stack((top.clamp(min=0), left.clamp(min=0), bottom, right), dim=1)


def _cutout(images: Tensor, box: Tensor) -> Tensor:
    """Grey inside the boxes: (n, 3, H, W) uint8, changed in place."""
    row = torch.arange(images.shape[2], device=images.device)
    column = torch.arange(images.shape[3], device=images.device)
    top, left, bottom, right = box[..., None].unbind(1)
    rows, columns = (row >= top) & (row < bottom), (column >= left) & (column < right)
    inside = rows[:, None, :, None] & columns[:, None, None, :]
    return _grey_where(images, inside.to(torch.uint8).mul_(255))
