"""What the headers of a part's files say, and the size and range that follow from them."""

from __future__ import annotations

import hashlib
import os
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ssl_core.data.decoding.picture import DEEP_MODES, Header, Shape, colour, deep_values, opened, read_header
from ssl_core.data.options import MAX_SIDE, MIN_SIDE, Options
from ssl_core.system.errors import counted

MAX_DEFAULT_SIDE = 96
_KINDS = {
    "1": "black and white",
    "L": "grey",
    "P": "palette",
    "RGB": "RGB",
    "CMYK": "CMYK",
    "YCbCr": "YCbCr",
    **dict.fromkeys(DEEP_MODES, "grey, more than 8 bits"),
}


@dataclass(frozen=True)
class Unreadable:
    """A file whose image cannot be read: its path relative to the data set, why, and its bytes' sha256."""

    file: str
    error: str
    sha256: str


@dataclass(frozen=True)
class Survey:
    """The headers of files, those that can be read, and what is wrong with the others."""

    headers: dict[str, Header]
    unreadable: dict[str, Unreadable]

    def sizes(self) -> Counter[tuple[int, int]]:
        """Width and height of the images, upright, with how many there are."""
        return Counter((h.width, h.height) for h in self.headers.values())

    def kinds(self) -> Counter[str]:
        """Format and kind of pixels, with how many there are, the most frequent first."""
        return Counter(
            f"{h.format} {_KINDS.get(h.mode, h.mode)}{', transparent' * h.is_transparent}"
            for h in self.headers.values()
        )


def survey(root: Path, names: Iterable[str], progress: Callable[[int], None] | None = None) -> Survey:
    """Read the headers of files.

    Args:
        root: the folder that the names are relative to.
        names: of the files.
        progress: called with the number of files read so far, now and then.
    """
    headers: dict[str, Header] = {}
    unreadable: dict[str, Unreadable] = {}
    for count, name in enumerate(names, start=1):
        path = os.path.join(root, name)  # noqa: PTH118 (many files: Path doubles the time)
        try:
            headers[name] = read_header(path)
        except Exception as error:  # decoders raise OSError, SyntaxError, ValueError and more
            unreadable[name] = unreadable_file(root, name, error)
        if progress is not None and count % 1000 == 0:
            progress(count)
    return Survey(headers, unreadable)


def unreadable_file(root: Path, name: str, error: Exception) -> Unreadable:
    """The record of a file that cannot be decoded."""
    # PIL's text names the whole path, which the message names already.
    text = str(error).replace(f" {str(root / name)!r}", "") or type(error).__name__
    return Unreadable(name, text, file_hash(root / name))


def file_hash(path: Path) -> str:
    """sha256 (hex) of a file's bytes; "" where they cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def shape_of(root: Path, surveyed: Survey, options: Options) -> tuple[Shape, list[str]]:
    """What the images of a data set are made into, and sentences that tell what was decided.

    Args:
        root: the folder that the names are relative to.
        surveyed: the training images, those without a label included.
        options: what was asked for. Without `image_size`, images of one size, square, and within 8 to 512
            pixels stay as they are; others get a default (`default_side`).
    """
    notes = []
    side = options.image_size
    sizes = surveyed.sizes()
    if side is None and sizes:
        (width, height), _ = next(iter(sizes.items()))
        if len(sizes) == 1 and width == height and MIN_SIDE <= width <= MAX_SIDE:
            side = width
        else:
            side = default_side(sizes)
            notes.append(
                f"image sizes differ or are not square ({_range(sizes)}): all images become {side}x{side} "
                f"(data.image_size), "
                f"{_WAYS[options.resize]} (data.resize: {options.resize})."
            )
    deep = [name for name, header in surveyed.headers.items() if header.mode in DEEP_MODES]
    bits = bits_of(root, deep) if deep else 16
    if bits < 16:
        notes.append(
            f"{counted(len(deep), 'grey image')} with more than 8 bits: {bits} bits are used (values up to "
            f"{2**bits - 1}), and this range is scaled to 8 bits."
        )
    transparent = sum(header.is_transparent for header in surveyed.headers.values())
    if transparent:
        notes.append(
            f"transparent: {counted(transparent, 'image')}, put on {options.background} (data.background)."
        )
    paged = [name for name, header in surveyed.headers.items() if header.frames > 1]
    if paged:
        notes.append(
            f"several images in one file: {counted(len(paged), 'file')}, for example {paged[0]}; the first image "
            f"is taken."
        )
    return replace(Shape(side, options.resize, colour(options.background)), bits=bits), notes


_WAYS = {
    "crop": "the short side is fitted and the centre kept",
    "pad": "the long side is fitted and the rest filled",
    "stretch": "both sides are fitted",
}


def default_side(sizes: Counter[tuple[int, int]]) -> int:
    """The side that images of these sizes get: the median of their short sides, to the nearest multiple of 8,
    at least 8 and at most 96, up to which a network trains in reasonable time."""
    short = statistics.median_low(sorted(min(size) for size, count in sizes.items() for _ in range(count)))
    return min(max(8 * round(short / 8), MIN_SIDE), MAX_DEFAULT_SIDE)


def _range(sizes: Counter[tuple[int, int]]) -> str:
    if len(sizes) == 1:
        return "{}x{}".format(*next(iter(sizes)))
    by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    return "from {}x{} to {}x{}".format(*by_area[0], *by_area[-1])


def bits_of(root: Path, deep: Sequence[str]) -> int:
    """How many bits the values of grey images with more than 8 bits need, 8 to 16, over all of them.

    Whole bits rather than the largest value itself, so that a few images more rarely change the scale.
    """
    largest = 0
    for name in deep:
        try:
            with opened(root / name) as image:
                largest = max(largest, int(np.max(deep_values(image), initial=0)))
        except Exception:  # named when the images are decoded
            continue
    return min(max(largest.bit_length(), 8), 16)
