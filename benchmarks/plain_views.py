"""Views as they are usually made: an image at a time, with PIL and torchvision; a part of `plain_recipe`."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from torch import Tensor

LEVELS = 10
GREY = (127, 127, 127)


def _enhance(kind: Any) -> Callable[[Image.Image, int], Image.Image]:
    return lambda image, level: kind(image).enhance(0.05 + 0.9 * level / LEVELS)


def _affine(matrix: Callable[[float], tuple[float, ...]]) -> Callable[[Image.Image, int], Image.Image]:
    def operation(image: Image.Image, level: int) -> Image.Image:
        amount = 0.3 * level / LEVELS * random.choice((-1, 1))
        return image.transform(image.size, Image.Transform.AFFINE, matrix(amount), fillcolor=GREY)

    return operation


def _translate(along: int) -> Callable[[Image.Image, int], Image.Image]:
    def operation(image: Image.Image, level: int) -> Image.Image:
        pixels = int(0.3 * level / LEVELS * image.size[along]) * random.choice((-1, 1))
        shift = (1, 0, pixels, 0, 1, 0) if along == 0 else (1, 0, 0, 0, 1, pixels)
        return image.transform(image.size, Image.Transform.AFFINE, shift, fillcolor=GREY)

    return operation


OPERATIONS: tuple[Callable[[Image.Image, int], Image.Image], ...] = (
    lambda image, _: image,
    lambda image, _: ImageOps.autocontrast(image),
    lambda image, _: ImageOps.equalize(image),
    lambda image, level: ImageOps.solarize(image, 256 - int(256 * level / LEVELS)),
    lambda image, level: ImageOps.posterize(image, 4 + int(4 * level / LEVELS)),
    _enhance(ImageEnhance.Color),
    _enhance(ImageEnhance.Contrast),
    _enhance(ImageEnhance.Brightness),
    _enhance(ImageEnhance.Sharpness),
    lambda image, level: image.rotate(30 * level / LEVELS * random.choice((-1, 1)), fillcolor=GREY),
    _affine(lambda amount: (1, amount, 0, 0, 1, 0)),
    _affine(lambda amount: (1, 0, 0, amount, 1, 0)),
    _translate(0),
    _translate(1),
)


class PlainRandAugment:
    """Two operations of an image and a grey box.

    Args:
        probability: that a drawn operation is applied; kekmodel and google-research/fixmatch: 1/2, the paper and this
            project: always.
    """

    def __init__(self, probability: float = 0.5) -> None:
        self.probability = probability

    def __call__(self, image: Image.Image) -> Image.Image:
        for operation in random.choices(OPERATIONS, k=2):
            level = random.randint(1, LEVELS - 1)
            if random.random() < self.probability:
                image = operation(image, level)
        return _cut_out(image)


def _cut_out(image: Image.Image) -> Image.Image:
    width, height = image.size
    half = min(width, height) // 4
    x, y = random.randrange(width), random.randrange(height)
    image = image.copy()
    ImageDraw.Draw(image).rectangle((x - half, y - half, x + half - 1, y + half - 1), GREY)
    return image


class PlainViews:
    """Transforms of one image: `weak` alone, or `both` views, normalised (3, H, W)."""

    def __init__(
        self, side: int, mean: Sequence[float], std: Sequence[float], probability: float = 0.5
    ) -> None:
        from torchvision import transforms  # delayed: it loads torch's compiler, which takes seconds

        flip_and_crop = [
            transforms.RandomHorizontalFlip(),
            transforms.RandomCrop(side, padding=side // 8, padding_mode="reflect"),
        ]
        normalise = [transforms.ToTensor(), transforms.Normalize(mean, std)]
        self.weak = transforms.Compose([*flip_and_crop, *normalise])
        self.strong = transforms.Compose([*flip_and_crop, PlainRandAugment(probability), *normalise])
        self.clean = transforms.Compose(normalise)

    def both(self, image: Image.Image) -> tuple[Tensor, Tensor]:
        """Weak and strong view, each with a crop of its own."""
        return self.weak(image), self.strong(image)
