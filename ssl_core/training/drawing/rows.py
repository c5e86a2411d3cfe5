"""Which images the steps of a run take, moved to its device for many steps at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ssl_core.training.drawing.views import STEPS
from ssl_core.training.rng import Balanced, Shuffled


@dataclass(frozen=True)
class Rows:
    """The images of a step.

    Attributes:
        on_host: their indices, (n,) int64 on the CPU.
        indices: the same on the device.
        places: the indices again, (n, 1, 1): they broadcast over an image's rows and columns.
        labels: (n,) int64 on the device.
    """

    on_host: torch.Tensor
    indices: torch.Tensor
    places: torch.Tensor
    labels: torch.Tensor


class Order:
    """An endless order of images, cut into steps of n.

    Args:
        images: indices of the images, int64 on the CPU.
        order: of their places.
        size: n.
        labels: of all images, on the device.
        to_device: moves a tensor there.
    """

    def __init__(
        self,
        images: torch.Tensor,
        order: Shuffled | Balanced,
        size: int,
        labels: torch.Tensor,
        to_device: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        self.order, self._images, self._size = order, images, size
        self._labels, self._to_device = labels, to_device
        self._block, self._rows = -1, list[Rows]()

    def at(self, step: int) -> Rows:
        """The images of a step, from 0."""
        if step // STEPS != self._block:
            self._block = step // STEPS
            places = self.order.batch(self._block, STEPS * self._size)
            on_host = self._images[places].view(STEPS, self._size)
            indices = self._to_device(on_host)
            parts = (on_host, indices, indices[..., None, None], self._labels[indices])
            self._rows = [Rows(*each) for each in zip(*(part.unbind() for part in parts), strict=True)]
        return self._rows[step % STEPS]
