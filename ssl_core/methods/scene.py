"""A method's own picture: what it is made of, and what it consists of.

`ssl_core.methods.base` exports both classes, which is where methods import them from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ssl_core.methods.output import Forward
from ssl_core.system.lazy_torch import torch

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ssl_core.augment.randaugment import Geometry


@dataclass(frozen=True)
class Panel:
    """One row of a method's picture, one entry an image.

    Attributes:
        title: what is shown.
        kind: "image": (n, H, W, 3), 0 to 1; "difference": (n, H, W, 3), signed, in the same unit; "map":
            (n, h, w), NaN where there is nothing to show, drawn over the images `beneath`.
        values: float32.
        captions: a line for each image.
        right: whether what a caption says is right, where it says something that can be.
        beneath: (n, H, W, 3), 0 to 1, for a map.
    """

    title: str
    kind: Literal["image", "difference", "map"]
    values: npt.NDArray[np.float32]
    captions: tuple[str, ...]
    right: tuple[bool, ...] | None = None
    beneath: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Scene:
    """What a method gets to make a picture of: n validation images that it never trained on.

    Attributes:
        forward: the evaluated (EMA) network in evaluation mode.
        images: un-augmented, (n, 3, H, W).
        views: as in `Batch`.
        geometry: as in `Batch`.
        pixels: turns what a network takes into what can be shown, (n, H, W, 3); not clipped.
        says: of logits (n, C), class and confidence as text, and whether the class is right.
        generator: noise of the picture's own.
    """

    forward: Forward
    images: torch.Tensor
    views: Mapping[str, torch.Tensor]
    geometry: Geometry | None
    pixels: Callable[[torch.Tensor], npt.NDArray[np.float32]]
    says: Callable[[torch.Tensor], tuple[tuple[str, ...], tuple[bool, ...]]]
    generator: torch.Generator
