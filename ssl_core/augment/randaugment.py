"""RandAugment and cutout: the strong view of the FixMatch family, for a whole batch, random per image.

Sohn et al. 2020 (arXiv:2001.07685), appendix D; Cubuk et al. 2020 (arXiv:1909.13719); DeVries & Taylor 2017
(arXiv:1708.04552). The operations themselves are in `ssl_core.augment.operations`.

Where the public implementations differ:
- ranges: the paper's table, as kekmodel/FixMatch-pytorch has them (enhancements 0.05..0.95, posterize 4..8
  bits, translation by a share of the side). google-research/fixmatch itself takes AutoAugment's: 0.1..1.9,
  1..4 bits, whole pixels;
- both codes skip each drawn operation with probability 1/2, of which the paper says nothing: `probability` is that of
  applying it, 1 or theirs;
- magnitudes are continuous, as in the paper; both codes draw one of nine levels;
- pixels that a geometric operation uncovers are grey, as in google-research/fixmatch (kekmodel's: black), before the
  second operation is applied; resampling is nearest neighbour, Pillow's default, as in both;
- the cut-out box is google-research/fixmatch's: a whole-pixel centre anywhere in the image, half a side to
  both sides, clipped (kekmodel's is a pixel larger and is moved inwards at the top and the left).

Nothing waits for the device: off the CPU every operation runs on every image and a mask selects the result; on the
CPU each operation runs on the images that drew it.

Shapes: n images, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ssl_core.augment.operations import (
    GEOMETRIC,
    OPERATIONS,
    PHOTOMETRIC,
    Affine,
    grey_where,
    one_zero,
    per_image,
    warp,
)

DRAWN = 2
"""Operations per image."""


@dataclass(frozen=True)
class Draws:
    """The random numbers of n strong views; `apply` draws none.

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

    def split(self, n: int) -> list[Draws]:
        """The draws of several batches of n images, batch by batch, without a copy."""
        parts = (self.operations, self.magnitudes, self.centres)
        batches = zip(*(part.view(-1, n, *part.shape[1:]).unbind() for part in parts), strict=True)
        return [Draws(*each) for each in batches]


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


# --- Geometric operations: a magnitude per image (n,), H, W -> six (n,) float64: where output position (x, y)
# comes from, in pixels with (0, 0) the image's corner: (a x + b y + c, d x + e y + f), Pillow's AFFINE data.


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


@cache  # making a tensor from a list at every step would copy it to the device, and wait
def _ranges(device: torch.device) -> tuple[Tensor, Tensor]:
    """Lowest magnitude and width of the range of every operation, (14,) float32 each."""
    pairs = torch.tensor([RANGES.get(name, (0.0, 0.0)) for name in OPERATIONS], dtype=torch.float32)
    low, high = pairs.unbind(1)
    return low.to(device), (high - low).to(device)


def draw(n: int, size: tuple[int, int], generator: torch.Generator, probability: float = 1.0) -> Draws:
    """Draw n strong views for images of a size (H, W), on the generator's device.

    Operations are uniform and independent, so an image may get the same one twice. Each is kept with a probability;
    one that is not becomes the identity. What is drawn besides does not depend on the probability.
    """
    device = generator.device
    operations = torch.randint(len(OPERATIONS), (n, DRAWN), generator=generator, device=device)
    uniform = torch.rand((n, DRAWN), generator=generator, device=device)
    sides = [torch.randint(side, (n,), generator=generator, device=device) for side in size]
    if probability < 1:
        kept = torch.rand((n, DRAWN), generator=generator, device=device) < probability
        operations = torch.where(kept, operations, OPERATIONS.index("identity"))
    low, span = (part[operations] for part in _ranges(device))
    bits = (uniform * (span + 1)).floor_().minimum(span)
    magnitudes = low + torch.where(operations == OPERATIONS.index("posterize"), bits, uniform * span)
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
    probability: float = 1.0,
) -> tuple[Tensor, Geometry]:
    """Two random operations and a cut-out box for every image.

    Args:
        images: the weak view, (n, H, W, 3) uint8, on any device.
        generator: of all random numbers, on any device; on the images' device it saves a copy.
        apply: the function `apply`, or its compiled version.
        probability: of applying each operation; a cut-out box there is always.

    Returns:
        The strong view, (n, H, W, 3) uint8, and where its pixels come from.
    """
    height, width = images.shape[1:3]
    draws = draw(len(images), (height, width), generator, probability)
    return apply(images, draws.to(images.device))


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
    """Every operation on the images that drew it. Shapes depend on the draws, which costs nothing on a CPU."""
    order = kinds.argsort()
    counts = torch.bincount(kinds, minlength=len(PHOTOMETRIC) + 1).tolist()
    groups = [torch.split(part.index_select(0, order), counts) for part in (images, magnitudes, matrices)]
    results = [_run(kind, *parts) for kind, parts in enumerate(zip(*groups, strict=True))]
    return torch.cat(results).index_select(0, order.argsort())  # faster than index_copy_ group by group


def _all_and_pick(images: Tensor, kinds: Tensor, magnitudes: Tensor, matrices: Tensor) -> Tensor:
    """Every operation on every image, so that no shape depends on the draws."""
    result = images
    for kind in range(1, len(PHOTOMETRIC) + 1):
        chosen = per_image(kinds == kind)
        result = torch.where(chosen, _run(kind, images, magnitudes, matrices), result)
    return result


def _matrices(draws: Draws, height: int, width: int) -> Tensor:
    """The drawn geometric operations, (n, DRAWN, 2, 3) float64 in pixels; photometric ones are identities."""
    one, zero = one_zero(draws.magnitudes)
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
    # The last operation produced the pixel, so it is undone first, and the first operation last.
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
    return grey_where(images, inside.to(torch.uint8).mul_(255))
