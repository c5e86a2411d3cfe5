"""A contact sheet: images of each class as the network will see them, with their weak and strong views.

S: side of an image in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ssl_core.augment.randaugment import strong_view
from ssl_core.augment.weak import weak_view
from ssl_core.data.assembly import TRAINING
from ssl_core.data.datasets import listing_of, load_train
from ssl_core.data.decoding.headers import shape_of, survey
from ssl_core.data.decoding.picture import decode
from ssl_core.data.inspecting.lettering import font, readable
from ssl_core.data.layouts.listing import Listing
from ssl_core.data.options import Options
from ssl_core.data.part import UNLABELLED, Images, Labels
from ssl_core.system.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image

_SIZES_SURVEYED = 2000
_SHOWN_SIDE, _GAP, _LABEL_WIDTH, _HEAD = 64, 4, 180, 22
_VIEWS = ("image", "weak", "strong")


@dataclass(frozen=True, eq=False)
class Sample:
    """Some images of each class.

    Attributes:
        titles: of the rows: class names, and "unlabelled" where there are images without a label.
        rows: for each title (n, S, S, 3) uint8.
        flip: whether images are mirrored.
    """

    titles: tuple[str, ...]
    rows: tuple[Images, ...]
    flip: bool


def sample(
    name: str,
    *,
    root: Path | None = None,
    cache: Path | None = None,
    options: Options | None = None,
    each: int = 4,
    classes: int = 20,
) -> Sample:
    """The first readable images of each class, spread over its files; damaged ones are passed over.

    Args:
        name, root, cache, options: as for `ssl_core.data.datasets.load_train`.
        each: images of a class.
        classes: at most so many classes, the first ones.

    Raises:
        ConfigError: as for `describe`; not one readable image.
    """
    options = options or Options()
    listing = listing_of(name, options)
    if listing is not None:
        return _of_files(listing, options, each, classes)
    data = load_train(name, root=root, cache=cache, options=options)
    titles, rows = [], []
    for label, title in _wanted(data.classes, data.labels, classes):
        members = _spread(np.flatnonzero(data.labels == label), each)
        titles.append(title)
        rows.append(np.asarray(data.images[members]))
    return Sample(tuple(titles), tuple(rows), data.flip)


def _wanted(names: tuple[str, ...], labels: Labels, classes: int) -> list[tuple[int, str]]:
    chosen = list(enumerate(names))[:classes]
    return chosen + ([(UNLABELLED, "unlabelled")] if (labels == UNLABELLED).any() else [])


def _spread(members: Any, each: int) -> Any:
    """Some of the members, evenly over all."""
    return members[np.linspace(0, len(members) - 1, min(each, len(members))).round().astype(int)]


def _of_files(listing: Listing, options: Options, each: int, classes: int) -> Sample:
    parts = [listing.parts[part] for part in TRAINING if part in listing.parts and part != "valid"]
    names = np.asarray([name for part in parts for name in part.names], dtype=object)
    labels = np.concatenate([part.labels for part in parts])
    surveyed = survey(listing.root, _spread(names, _SIZES_SURVEYED))
    shape, _ = shape_of(listing.root, surveyed, options)
    if shape.side is None:
        raise ConfigError(f"{listing.what}: no image can be read.")
    titles, rows = [], []
    for label, title in _wanted(listing.classes, labels, classes):
        pictures: list[Images] = []
        for name in _spread(names[labels == label], 4 * each):
            try:
                pictures.append(decode(listing.root / name, shape)[0])
            except Exception:  # `inspect` counts and names it
                continue
            if len(pictures) == each:
                break
        titles.append(title)
        rows.append(np.stack(pictures) if pictures else np.zeros((0, shape.side, shape.side, 3), np.uint8))
    return Sample(tuple(titles), tuple(rows), options.flips(True))


def draw_sheet(found: Sample, *, seed: int = 0) -> Image.Image:
    """The sheet: a row for each class, for each image the image itself, a weak view and a strong view.

    Args:
        found: the images.
        seed: of the views.
    """
    from PIL import Image, ImageDraw

    most = max(len(row) for row in found.rows)
    cell = _SHOWN_SIDE + _GAP
    width = _LABEL_WIDTH + most * (len(_VIEWS) * cell + _GAP)
    sheet = Image.new("RGB", (width, _HEAD + len(found.rows) * cell), "white")
    pen = ImageDraw.Draw(sheet)
    for column in range(most):
        for view, title in enumerate(_VIEWS):
            x = _LABEL_WIDTH + column * (len(_VIEWS) * cell + _GAP) + view * cell
            pen.text((x, 5), title, fill="black", font=font())
    for number, (title, images) in enumerate(zip(found.titles, found.rows, strict=True)):
        y = _HEAD + number * cell
        pen.text((_GAP, y + _SHOWN_SIDE // 2 - 6), readable(title), fill="black", font=font())
        for view, pictures in enumerate(_views(images, found.flip, seed + number)):
            for column, pixels in enumerate(pictures):
                x = _LABEL_WIDTH + column * (len(_VIEWS) * cell + _GAP) + view * cell
                shown = Image.fromarray(pixels).resize((_SHOWN_SIDE, _SHOWN_SIDE), Image.Resampling.NEAREST)
                sheet.paste(shown, (x, y))
    return sheet


def _views(images: Images, flip: bool, seed: int) -> tuple[Images, Images, Images]:
    """The images, a weak view and a strong view of each, as training makes them."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.from_numpy(np.array(images))
    if not len(pixels):
        return images, images, images
    weak = weak_view(pixels, torch.arange(len(pixels)), flip=flip, generator=generator)
    strong, _ = strong_view(weak, generator)
    return images, weak.numpy(), strong.numpy()
