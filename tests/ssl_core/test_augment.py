"""The weak view against NumPy, image by image; normalisation against torchvision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssl_core.augment.weak import normalise, reflect, weak_view

SIDES = [8, 15, 16, 32]


def pixels(n: int, side: int, seed: int = 0) -> torch.Tensor:
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.integers(0, 256, (n, side, side, 3), dtype=np.uint8))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(n: int, side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The shifts (2, n) and flips (n,) that a view with this generator draws."""
    random, padding = seeded(seed), side // 8
    shift = torch.randint(-padding, padding + 1, (2, n, 1), generator=random)
    flips = torch.rand((n, 1), generator=random) < 0.5
    return shift[..., 0].numpy(), flips[:, 0].numpy()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("flip", [True, False])
def test_the_weak_view_is_pad_crop_flip_of_each_image(side: int, flip: bool) -> None:
    images, indices = pixels(20, side), torch.tensor([3, 3, 0, 19, 7, 8, 3, 11, 5, 2] * 4)
    view = weak_view(images, indices, flip=flip, generator=seeded(4))

    padding = side // 8
    (down, right), flips = drawn(len(indices), side, 4)
    assert 0 < flips.sum() < len(flips)
    for i, index in enumerate(indices.tolist()):
        padded = np.pad(images[index].numpy(), ((padding, padding), (padding, padding), (0, 0)), "reflect")
        top, left = padding + down[i], padding + right[i]
        slow = padded[top : top + side, left : left + side]
        slow = slow[:, ::-1] if flip and flips[i] else slow
        assert np.array_equal(view[i].numpy(), slow)
    assert view.dtype == torch.uint8 and view.shape == (len(indices), side, side, 3)


@pytest.mark.parametrize(("side", "padding"), [(8, 1), (16, 2), (32, 4)])
def test_the_padding_is_an_eighth_of_the_side_and_every_offset_occurs(side: int, padding: int) -> None:
    # A ramp down and one across: the view's middle tells the crop's offset.
    ramp = torch.arange(side, dtype=torch.uint8)
    image = torch.stack((*torch.meshgrid(ramp, ramp, indexing="ij"), torch.zeros(side, side)), dim=-1)
    view = weak_view(
        image[None].byte(), torch.zeros(2000, dtype=torch.int64), flip=False, generator=seeded(0)
    )
    middle = side // 2
    offsets = view[:, middle, middle, :2].long() - middle
    pairs = {tuple(pair) for pair in offsets.tolist()}
    wanted = range(-padding, padding + 1)
    assert pairs == {(a, b) for a in wanted for b in wanted}


def test_half_of_the_images_are_flipped_and_none_where_flipping_is_off() -> None:
    image = torch.zeros(1, 16, 16, 3, dtype=torch.uint8)
    image[:, :, 8:] = 255  # bright on the right
    indices = torch.zeros(2000, dtype=torch.int64)
    is_flipped = {
        flip: weak_view(image, indices, flip=flip, generator=seeded(1))[:, 8, 2, 0] == 255
        for flip in (True, False)
    }
    assert 900 < int(is_flipped[True].sum()) < 1100  # 4.5 standard deviations
    assert int(is_flipped[False].sum()) == 0


@pytest.mark.parametrize("side", SIDES)
def test_positions_outside_are_reflected_as_numpy_pads(side: int) -> None:
    padding = side - 1  # as far as reflection goes
    position = torch.arange(-padding, side + padding)
    assert reflect(position, side).tolist() == np.pad(np.arange(side), padding, "reflect").tolist()


def test_the_images_themselves_are_not_changed() -> None:
    images = pixels(4, 16)
    before = images.clone()
    weak_view(images, torch.arange(4), flip=True, generator=seeded(0))
    assert torch.equal(images, before)


def test_no_image_gives_no_view() -> None:
    view = weak_view(pixels(4, 16), torch.empty(0, dtype=torch.int64), flip=True, generator=seeded(0))
    assert view.shape == (0, 16, 16, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normalisation_equals_torchvision_s(dtype: torch.dtype) -> None:
    from torchvision.transforms.v2 import functional as vision  # loads torch's compiler: seconds

    images = pixels(5, 16)
    mean, std = [0.4914, 0.4822, 0.4465], [0.2471, 0.2435, 0.2616]
    ours = normalise(images, mean, std, dtype)
    theirs = vision.normalize(images.permute(0, 3, 1, 2).double() / 255, mean, std)
    assert ours.dtype == dtype and ours.shape == (5, 3, 16, 16)
    torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-14)


def test_normalised_images_lie_channels_last() -> None:
    ours = normalise(pixels(5, 16), [0.5] * 3, [0.25] * 3)
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_normalisation_by_hand() -> None:
    image = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    ours = normalise(image, [0.0, 0.5, 0.25], [1.0, 0.5, 0.25], torch.float64)
    assert ours.flatten().tolist() == pytest.approx([0.0, (128 / 255 - 0.5) / 0.5, 3.0], abs=1e-14)
