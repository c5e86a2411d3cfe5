"""RandAugment and cutout against Pillow, image by image; the geometry against another resampling."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from scipy import stats
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from ssl_core.augment import operations, randaugment
from ssl_core.augment.operations import GEOMETRIC, GREY, OPERATIONS, PHOTOMETRIC
from ssl_core.augment.randaugment import DRAWN, RANGES, Draws

FILL = (GREY, GREY, GREY)
BLENDS = {"color", "contrast", "brightness", "sharpness"}
"""Computed in float32 and truncated: a compiler that fuses multiply and add may move a value by one level."""
AFFINE = Image.Transform.AFFINE

PILLOW: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda image, _: image,
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "solarize": lambda image, v: ImageOps.solarize(image, v),  # type: ignore[arg-type]
    "posterize": lambda image, v: ImageOps.posterize(image, int(v)),
    "color": lambda image, v: ImageEnhance.Color(image).enhance(v),
    "contrast": lambda image, v: ImageEnhance.Contrast(image).enhance(v),
    "brightness": lambda image, v: ImageEnhance.Brightness(image).enhance(v),
    "sharpness": lambda image, v: ImageEnhance.Sharpness(image).enhance(v),
    "rotate": lambda image, v: image.rotate(v, fillcolor=FILL),
    "shear_x": lambda image, v: image.transform(image.size, AFFINE, (1, v, 0, 0, 1, 0), fillcolor=FILL),
    "shear_y": lambda image, v: image.transform(image.size, AFFINE, (1, 0, 0, v, 1, 0), fillcolor=FILL),
    "translate_x": lambda image, v: image.transform(
        image.size, AFFINE, (1, 0, int(v * image.width), 0, 1, 0), fillcolor=FILL
    ),
    "translate_y": lambda image, v: image.transform(
        image.size, AFFINE, (1, 0, 0, 0, 1, int(v * image.height)), fillcolor=FILL
    ),
}
KINDS = ("noise 32x32", "dull noise 32x32", "flat 16x16", "digits 16x16", "noise 15x17", "smooth 32x32")


def make_images(kind: str, n: int = 12) -> Tensor:
    """(n, H, W, 3) uint8 of one kind, always the same."""
    what, _, size = kind.rpartition(" ")
    height, width = map(int, size.split("x"))
    random = np.random.default_rng(7)
    if what == "digits":
        eight = (load_digits().images[:n] * (255 / 16)).astype(np.uint8)
        tinted = eight.repeat(2, axis=1).repeat(2, axis=2)[..., None] * np.array([1.0, 0.8, 0.5])
        return torch.from_numpy(tinted.astype(np.uint8))
    if what == "flat":
        return torch.from_numpy(random.integers(256, size=(n, 1, 1, 3), dtype=np.uint8)).repeat(
            1, height, width, 1
        )
    if what == "smooth":
        y, x = np.mgrid[:height, :width] / height
        waves = np.sin(6 * (x[..., None] * random.random((n, 1, 1, 3)) + y[..., None] + np.arange(3)))
        return torch.from_numpy((127.5 * (1 + waves)).astype(np.uint8))
    low, high = (90, 140) if what == "dull noise" else (0, 256)
    return torch.from_numpy(random.integers(low, high, size=(n, height, width, 3), dtype=np.uint8))


def magnitudes_of(name: str) -> list[float]:
    """Magnitudes to try, the ends among them, as float32 holds them."""
    low, high = RANGES.get(name, (0.0, 0.0))
    if name == "posterize":
        return [4.0, 5.0, 6.0, 7.0, 8.0]
    return torch.linspace(low, high, 9 if high > low else 1).tolist() + ([0.0, 128.0] if high == 256 else [])


def operate(name: str, images: Tensor, magnitude: float) -> Tensor:
    """One operation of the module on (n, H, W, 3) uint8."""
    planar = images.permute(0, 3, 1, 2).contiguous()
    magnitudes = torch.full((len(images),), magnitude)
    if name in PHOTOMETRIC:
        return PHOTOMETRIC[name](planar, magnitudes).permute(0, 2, 3, 1)
    entries = GEOMETRIC[name](magnitudes, *images.shape[1:3])
    return operations.warp(planar, torch.stack(entries, dim=-1).view(-1, 2, 3)).permute(0, 2, 3, 1)


def pillow_view(image: Tensor, draws: Draws, i: int) -> Tensor:
    """The strong view of one image, operation after operation, by Pillow."""
    view = Image.fromarray(image.numpy())
    for operation, magnitude in zip(draws.operations[i].tolist(), draws.magnitudes[i].tolist(), strict=True):
        view = PILLOW[OPERATIONS[operation]](view, magnitude)
    side = min(view.size) // 2
    top, left = (centre - side // 2 for centre in draws.centres[i].tolist())
    view = view.copy()
    if side:
        ImageDraw.Draw(view).rectangle((left, top, left + side - 1, top + side - 1), FILL)
    return torch.from_numpy(np.array(view))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(n: int, size: tuple[int, int], seed: int = 0) -> Draws:
    return randaugment.draw(n, size, generator(seed))


def fixed(names: tuple[str, str], magnitudes: tuple[float, float], n: int, centre: int = 10**6) -> Draws:
    """The same draw for n images; by default the cut-out box lies far outside."""
    return Draws(
        torch.tensor([[OPERATIONS.index(name) for name in names]]).repeat(n, 1),
        torch.tensor([magnitudes]).repeat(n, 1),
        torch.full((n, 2), centre),
    )


# --- Operations


def test_the_paper_s_fourteen() -> None:
    assert len(OPERATIONS) == 14 and set(OPERATIONS) == set(PILLOW) and DRAWN == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_is_pillow_s(name: str, kind: str) -> None:
    images = make_images(kind)
    before = images.clone()
    for magnitude in magnitudes_of(name):
        ours = operate(name, images, magnitude).int()
        pillow = [PILLOW[name](Image.fromarray(image.numpy()), magnitude) for image in images]
        difference = (ours - torch.from_numpy(np.stack(pillow)).int()).abs()
        assert difference.max() <= (1 if name in BLENDS else 0), magnitude
        assert (difference > 0).float().mean() < 0.01, magnitude  # where one level is allowed, rarely
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", OPERATIONS)
def test_magnitudes_are_per_image(name: str) -> None:
    """One batch of different images and magnitudes = each image alone."""
    images = make_images("noise 32x32", 9).permute(0, 3, 1, 2).contiguous()
    values = torch.tensor((magnitudes_of(name) * 9)[:9])

    def run(images: Tensor, values: Tensor) -> Tensor:
        if name in PHOTOMETRIC:
            return PHOTOMETRIC[name](images, values)
        return operations.warp(images, torch.stack(GEOMETRIC[name](values, 32, 32), dim=-1).view(-1, 2, 3))

    together = run(images, values)
    alone = [run(images[i : i + 1], values[i : i + 1]) for i in range(9)]
    assert torch.equal(together, torch.cat(alone))


# --- Draws


def test_operations_are_uniform_and_independent() -> None:
    n = 20_000
    draws = draw(n, (32, 32))
    first, second = draws.operations.unbind(1)
    for counted, cells in ((first, 14), (second, 14), (first * 14 + second, 196)):
        counts = torch.bincount(counted, minlength=cells).double()
        chi_square = float(((counts - n / cells) ** 2 / (n / cells)).sum())
        assert chi_square < stats.chi2.ppf(0.999, cells - 1)


def test_magnitudes_fill_their_ranges() -> None:
    draws = draw(20_000, (32, 32))
    for number, name in enumerate(OPERATIONS):
        values = draws.magnitudes[draws.operations == number]
        low, high = RANGES.get(name, (0.0, 0.0))
        low32, high32 = torch.tensor([low, high]).tolist()
        assert low32 <= values.min() and values.max() <= high32
        if name == "posterize":
            counts = torch.bincount(values.long(), minlength=9)[4:].double()
            assert torch.equal(values, values.round())
            assert stats.chisquare(counts.numpy()).pvalue > 0.001
        elif high > low:
            share = ((values - low) / (high - low)).double().numpy()
            assert stats.kstest(share, "uniform").pvalue > 0.001
        else:
            assert not values.any()


def test_centres_are_uniform_over_the_image() -> None:
    rows, columns = draw(20_000, (7, 11)).centres.unbind(1)
    assert stats.chisquare(torch.bincount(rows, minlength=7).numpy()).pvalue > 0.001
    assert stats.chisquare(torch.bincount(columns, minlength=11).numpy()).pvalue > 0.001


def test_views_are_the_generator_s() -> None:
    images = make_images("noise 32x32", 30)
    one, geometry = randaugment.strong_view(images, generator(3))
    same, same_geometry = randaugment.strong_view(images, generator(3))
    other, _ = randaugment.strong_view(images, generator(4))
    assert torch.equal(one, same) and torch.equal(geometry.affine, same_geometry.affine)
    assert torch.equal(geometry.cutout, same_geometry.cutout) and not torch.equal(one, other)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    randaugment.strong_view(images, generator(3))
    assert torch.equal(state, torch.get_rng_state())  # the global generator is not touched


def test_a_probability_of_one_half_skips_half_of_the_operations_and_draws_the_rest_alike() -> None:
    always = randaugment.draw(20_000, (32, 32), generator())
    half = randaugment.draw(20_000, (32, 32), generator(), 0.5)
    kept = half.operations == always.operations
    skipped = half.operations[~kept]
    assert (skipped == OPERATIONS.index("identity")).all() and torch.equal(half.centres, always.centres)
    assert torch.equal(half.magnitudes[kept], always.magnitudes[kept])
    # A skipped identity is an identity either way: 13 of 14 skips show. Five standard errors of 40,000 draws.
    assert abs(float((~kept).float().mean()) - 0.5 * 13 / 14) < 5 * 0.5 / 200
    both = (half.operations == OPERATIONS.index("identity")).all(dim=1).float().mean()
    assert (
        abs(float(both) - (0.5 + 0.5 / 14) ** 2) < 0.02
    )  # 29 % of the views, beside 0.5 % where all are applied
    views, _ = randaugment.strong_view(make_images("noise 32x32", 30), generator(3), probability=0.5)
    assert not torch.equal(views, randaugment.strong_view(make_images("noise 32x32", 30), generator(3))[0])


# --- Strong views


@pytest.mark.parametrize("kind", KINDS)
def test_view_is_pillow_s(kind: str) -> None:
    images = make_images(kind, 12).repeat(20, 1, 1, 1)
    draws = draw(len(images), tuple(images.shape[1:3]))  # type: ignore[arg-type]
    before = images.clone()
    views, _ = randaugment.apply(images, draws)
    assert views.dtype == torch.uint8 and views.shape == images.shape
    assert torch.equal(images, before)
    pillow = torch.stack([pillow_view(image, draws, i) for i, image in enumerate(images)])
    # Not bounded by a level: what one blend moved, a following equalize may stretch.
    assert (views != pillow).float().mean() < 0.001


def test_operations_are_applied_in_order() -> None:
    images = make_images("noise 32x32")
    magnitudes = {"translate_x": 0.25, "solarize": 100.0}
    views = {}
    for names in (("translate_x", "solarize"), ("solarize", "translate_x")):
        draws = fixed(names, (magnitudes[names[0]], magnitudes[names[1]]), len(images))
        views[names], _ = randaugment.apply(images, draws)
        assert torch.equal(views[names][0], pillow_view(images[0], draws, 0))
    moved_first, moved_last = views.values()
    assert (moved_first[:, :, -8:] == 255 - GREY).all()  # the grey was solarized too
    assert (moved_last[:, :, -8:] == GREY).all()


def test_a_permuted_batch_is_permuted_views() -> None:
    images = make_images("smooth 32x32", 50)
    draws = draw(50, (32, 32))
    order = torch.randperm(50, generator=generator())
    views, geometry = randaugment.apply(images, draws)
    shuffled = Draws(draws.operations[order], draws.magnitudes[order], draws.centres[order])
    views2, geometry2 = randaugment.apply(images[order], shuffled)
    assert torch.equal(views[order], views2)
    assert torch.equal(geometry.affine[order], geometry2.affine)
    assert torch.equal(geometry.cutout[order], geometry2.cutout)


@pytest.mark.parametrize("size", [(32, 32), (16, 16), (15, 15), (9, 14), (3, 3), (2, 2), (1, 1)])
@pytest.mark.parametrize("n", [0, 1, 100])
def test_sizes(size: tuple[int, int], n: int) -> None:
    images = torch.randint(256, (n, *size, 3), dtype=torch.uint8, generator=generator())
    views, geometry = randaugment.strong_view(images, generator())
    assert views.shape == images.shape and views.dtype == torch.uint8 and views.is_contiguous()
    assert geometry.affine.shape == (n, 2, 3) and geometry.affine.dtype == torch.float32
    assert geometry.cutout.shape == (n, 4) and geometry.cutout.dtype == torch.int64


def test_both_ways_of_selecting_agree() -> None:
    images = make_images("noise 32x32", 200).permute(0, 3, 1, 2).contiguous()
    draws = draw(200, (32, 32))
    matrices = randaugment._matrices(draws, 32, 32)[:, 0]
    arguments = (images, draws.operations[:, 0].clamp(max=len(PHOTOMETRIC)), draws.magnitudes[:, 0], matrices)
    assert torch.equal(randaugment._all_and_pick(*arguments), randaugment._each_on_its_own(*arguments))


@pytest.mark.parametrize("n", [0, 5])
def test_off_the_cpu_nothing_waits_for_the_device(n: int) -> None:
    """The meta device has no values, so reading one, or a shape that depends on one, would raise."""
    images = torch.empty((n, 32, 32, 3), dtype=torch.uint8, device="meta")
    views, geometry = randaugment.apply(images, draw(n, (32, 32)).to(images.device))
    assert views.shape == images.shape and geometry.affine.shape == (n, 2, 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    images = make_images("noise 32x32", 300)
    draws = draw(300, (32, 32))
    views, _ = randaugment.apply(images, draws)
    device = torch.device("cuda")
    on_device, drawn = images.to(device), torch.Generator(device).manual_seed(0)
    randaugment.strong_view(on_device, drawn)  # the table of ranges is copied there once
    torch.cuda.set_sync_debug_mode("error")
    try:
        randaugment.strong_view(on_device, drawn)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    there, _ = randaugment.apply(on_device, draws.to(device))
    assert (there.cpu() != views).float().mean() < 0.01


# --- Geometry


def resample(images: Tensor, affine: Tensor) -> tuple[Tensor, Tensor]:
    """By torch: nearest pixels of (n, H, W, 3) at the affine's positions, and which lie inside the image."""
    planar = images.permute(0, 3, 1, 2).double() + 1  # so that 0, outside, is no level
    grid = functional.affine_grid(affine.double(), list(planar.shape), align_corners=False)
    moved = functional.grid_sample(planar, grid, mode="nearest", align_corners=False).permute(0, 2, 3, 1)
    return moved - 1, (moved > 0).all(dim=-1)


def coordinates(n: int, height: int, width: int) -> Tensor:
    """Images whose colour is the pixel's own place: (column, row, 200)."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack((x, y, torch.full_like(x, 200)), dim=-1).to(torch.uint8).repeat(n, 1, 1, 1)


@pytest.mark.parametrize("size", [(32, 32), (16, 16), (15, 17)])
@pytest.mark.parametrize("name", GEOMETRIC)
def test_affine_resamples_as_the_operation_did(name: str, size: tuple[int, int]) -> None:
    images = coordinates(1, *size)
    for magnitude in (*magnitudes_of(name), 0.123, -0.277):
        for names in ((name, "identity"), ("identity", name), (name, "brightness")):
            draws = fixed(names, (magnitude, 1.0 if names[1] == "brightness" else magnitude), 1)
            views, geometry = randaugment.apply(images, draws)
            expected, inside = resample(images, geometry.affine)
            # Exact halves between two pixels may be rounded either way; there are few.
            assert (((views[..., 2] == 200) == inside).float().mean()) > 0.97
            both = inside & (views[..., 2] == 200)
            assert (views == expected)[both].float().mean() > 0.97
            assert (views.double() - expected)[both].abs().max() <= 1


def test_affine_composes_both_operations() -> None:
    """Each of two resamplings rounds by half a pixel; the first's is stretched by what follows."""
    height, width = 32, 28
    draws = draw(2000, (height, width))
    geometric = len(PHOTOMETRIC) + torch.randint(len(GEOMETRIC), (2000, DRAWN), generator=generator())
    ranges = torch.tensor([RANGES[OPERATIONS[k]] for k in geometric.flatten().tolist()]).view(-1, DRAWN, 2)
    magnitudes = ranges[..., 0] + torch.rand(2000, DRAWN, generator=generator()) * ranges.diff(dim=-1)[..., 0]
    draws = Draws(geometric, magnitudes, torch.full_like(draws.centres, 10**6))
    views, geometry = randaugment.apply(coordinates(2000, height, width), draws)
    grid = functional.affine_grid(geometry.affine, [2000, 3, height, width], align_corners=False)
    source = ((grid + 1) * torch.tensor([width, height]) - 1) / 2
    kept = views[..., 2] == 200
    error = (views[..., :2] - source)[kept].abs()
    worst = 0.5 + 0.5 * max(1 + 0.3, math.cos(math.pi / 6) + math.sin(math.pi / 6))
    assert error.max() < worst + 0.01
    assert error.mean() < 0.4
    assert kept.float().mean() > 0.5


def test_affine_is_the_identity_without_geometric_operations() -> None:
    draws = draw(300, (32, 32))
    _, geometry = randaugment.apply(make_images("noise 32x32", 300), draws)
    still = (draws.operations < len(PHOTOMETRIC)).all(dim=1)
    assert 0 < still.sum() < 300
    assert torch.equal(geometry.affine[still], torch.eye(2, 3).expand(int(still.sum()), 2, 3))
    assert not torch.equal(geometry.affine[~still], torch.eye(2, 3).expand(int((~still).sum()), 2, 3))


@pytest.mark.parametrize("size", [(32, 32), (16, 16), (15, 15), (9, 14)])
def test_cutout_is_the_grey_box(size: tuple[int, int]) -> None:
    height, width = size
    every = torch.cartesian_prod(torch.arange(height), torch.arange(width))
    n = len(every)
    still = fixed(("identity", "identity"), (0.0, 0.0), n)
    views, geometry = randaugment.apply(
        torch.zeros((n, height, width, 3), dtype=torch.uint8),
        Draws(still.operations, still.magnitudes, every),
    )
    side = min(size) // 2
    for view, box, centre in zip(views, geometry.cutout.tolist(), every.tolist(), strict=True):
        top, left, bottom, right = box
        assert 0 <= top < bottom <= height and 0 <= left < right <= width
        wanted = [centre[0] - side // 2, centre[1] - side // 2]
        assert box == [
            max(wanted[0], 0),
            max(wanted[1], 0),
            min(wanted[0] + side, height),
            min(wanted[1] + side, width),
        ]
        assert (view[top:bottom, left:right] == GREY).all()
        assert int((view == GREY).all(dim=-1).sum()) == (bottom - top) * (right - left)
        assert int(view.any(dim=-1).sum()) == (bottom - top) * (right - left)
    areas = (geometry.cutout[:, 2] - geometry.cutout[:, 0]) * (geometry.cutout[:, 3] - geometry.cutout[:, 1])
    assert areas.max() == side * side and areas.min() < side * side
