"""The random numbers of a run's views, drawn on its device for many steps at once.

A step that draws its own numbers asks the device for some twenty small operations a view. So they are drawn for a block
of `STEPS` steps, which begins at a multiple of it. Block, view and number of images say which numbers they are: they do
not depend on the epoch's length, nor on where a run was resumed (invariant 3), nor on the other views (invariant 4).

Shapes: n images of a step, P views of them, H = W their side in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ssl_core.augment import randaugment, weak
from ssl_core.training.rng import generator

STEPS = 32
"""Of a block. A multiple of it would be other random numbers."""
_EXPANDED = 1 << 21
"""Rows and columns that are computed at once, in numbers: 16 MiB. Changes no bit."""
Place = tuple[int, ...]
"""Which stream of the augmentation a view has."""


@dataclass(frozen=True)
class _Sources:
    """Rows and columns of P views, for some steps from `first` on."""

    first: int
    rows: tuple[torch.Tensor, ...]
    columns: tuple[torch.Tensor, ...]


class ViewDraws:
    """Gives each step its part of a block.

    Args:
        seed: the training seed.
        side: of the images.
        flip: whether weak views flip at all.
        probability: of applying each operation of a strong view.
        device: of the images.
    """

    def __init__(self, seed: int, *, side: int, flip: bool, probability: float, device: torch.device) -> None:
        self._seed, self._side, self._flip, self._probability = seed, side, flip, probability
        self._device, self._block = device, -1
        self._crops: dict[tuple[int, Place], weak.Crops] = {}
        self._sources: dict[tuple[int, tuple[Place, ...]], _Sources] = {}
        self._strong: dict[tuple[int, Place], list[randaugment.Draws]] = {}

    def sources(self, step: int, n: int, places: tuple[Place, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Which rows and columns the pixels of P weak views of n images come from.

        Args:
            step: from 0.
            n: images.
            places: the P views' streams.

        Returns:
            (P, n, H, 1) and (P, n, 1, W), int64; of a single view (n, H, 1) and (n, 1, W).
        """
        self._begin(step)
        known = self._sources.get((n, places))
        at = step % STEPS
        if known is None or not 0 <= at - known.first < len(known.rows):
            known = self._sources[n, places] = self._expanded(at, n, places)
        return known.rows[at - known.first], known.columns[at - known.first]

    def strong(self, step: int, n: int, place: Place) -> randaugment.Draws:
        """The draws of n strong views."""
        self._begin(step)
        if (n, place) not in self._strong:
            stream, size = self._stream(place), (self._side, self._side)
            drawn = randaugment.draw(STEPS * n, size, stream, self._probability)
            self._strong[n, place] = drawn.split(n) if n else [drawn] * STEPS
        return self._strong[n, place][step % STEPS]

    def _begin(self, step: int) -> None:
        if step // STEPS != self._block:
            self._block = step // STEPS
            for kept in (self._crops, self._sources, self._strong):
                kept.clear()

    def _expanded(self, at: int, n: int, places: tuple[Place, ...]) -> _Sources:
        """As many steps from `at` on as fit into the memory that is meant for them."""
        several = [self._drawn(n, place) for place in places]
        count = max(1, min(STEPS, _EXPANDED // max(1, 2 * self._side * n * len(places))))
        part = slice(at, at + count)
        shifts, flips = [c.shift[:, part] for c in several], [c.flipped[part] for c in several]
        some = weak.Crops(shifts[0], flips[0])
        if len(several) > 1:
            some = weak.Crops(torch.stack(shifts, dim=2), torch.stack(flips, dim=1))
        rows, columns = weak.sources(some, self._side, flip=self._flip)
        return _Sources(at, rows.unbind(), columns.unbind())

    def _drawn(self, n: int, place: Place) -> weak.Crops:
        if (n, place) not in self._crops:
            self._crops[n, place] = weak.draw((STEPS, n), self._side, self._stream(place))
        return self._crops[n, place]

    def _stream(self, place: Place) -> torch.Generator:
        return generator(self._seed, "augmentation", self._block, *place, device=self._device)
