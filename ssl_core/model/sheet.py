"""A contact sheet of the images that a model is least certain of: those that are worth a person's label."""

from __future__ import annotations

import heapq
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

from ssl_core.data.inspecting.lettering import font, readable
from ssl_core.data.part import Images
from ssl_core.model.images import Chunk
from ssl_core.model.table import Predictions

if TYPE_CHECKING:
    from PIL import Image

COUNT, _COLUMNS = 48, 8
_SIDE, _GAP, _TEXT, _LETTERS = 112, 8, 30, 17


class LeastCertain:
    """Remembers the images with the lowest confidence, the pixels of no others.

    Args:
        classes: names, in the order of the outputs.
        count: how many.
    """

    def __init__(self, classes: tuple[str, ...], count: int = COUNT) -> None:
        self._classes, self._count = classes, count
        self._kept: list[tuple[float, int, str, str, Images]] = []
        self._seen = 0

    def see(self, chunk: Chunk, found: Predictions) -> None:
        """Look at some predictions."""
        readable_names = [name for place, name in enumerate(chunk.names) if place not in chunk.errors]
        for place, name in enumerate(readable_names):
            self._seen += 1
            confidence = float(found.confidences[place, 0])
            label = self._classes[int(found.labels[place, 0])]
            # A heap has its smallest item first: of negated confidences, the one to go.
            item = (-confidence, -self._seen, name, label, np.array(chunk.pixels[place]))
            if len(self._kept) < self._count:
                heapq.heappush(self._kept, item)
            elif item > self._kept[0]:
                heapq.heapreplace(self._kept, item)

    def names(self) -> list[str]:
        """Names of the images, the least certain one first; among equals in the order they were seen."""
        return [name for _, _, name, _, _ in sorted(self._kept, reverse=True)]

    def draw(self) -> Image.Image:
        """The sheet: each image with its label, its confidence and its name, the least certain one first."""
        from PIL import Image, ImageDraw

        items = sorted(self._kept, reverse=True)
        rows = max(1, -(-len(items) // _COLUMNS))
        width, height = _SIDE + _GAP, _SIDE + _TEXT + _GAP
        sheet = Image.new("RGB", (_COLUMNS * width + _GAP, rows * height + _GAP), "white")
        pen = ImageDraw.Draw(sheet)
        for number, (negated, _, name, label, pixels) in enumerate(items):
            x, y = _GAP + number % _COLUMNS * width, _GAP + number // _COLUMNS * height
            shown = Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
            sheet.paste(shown, (x, y))
            short = label if len(label) <= 11 else f"{label[:10]}…"
            pen.text(
                (x, y + _SIDE + 2), f"{readable(short)} {-100 * negated:.0f} %", fill="black", font=font()
            )
            file = PurePath(name).name
            file = file if len(file) <= _LETTERS else f"…{file[1 - _LETTERS :]}"
            pen.text((x, y + _SIDE + 15), readable(file), fill="gray", font=font())
        return sheet
