"""Images to predict: files found and decoded a chunk at a time while the chunk before is predicted.

S: side in pixels.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssl_core.data.decoding.picture import Shape, decode, made
from ssl_core.data.decoding.stream import decode_files
from ssl_core.data.layouts.listing import Walker, left_out_sentence
from ssl_core.data.part import Images
from ssl_core.system.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image

_FILES_PER_THREAD = 256
_CHUNK_BYTES = 2**26


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some images, in the order that they were asked for.

    Attributes:
        names: of all, also of those that cannot be read.
        pixels: (n, S, S, 3) uint8, of those that can.
        errors: why an image cannot be read, by its index among the names.
    """

    names: Sequence[str]
    pixels: Images
    errors: dict[int, str]


@dataclass(frozen=True)
class Found:
    """Files to predict.

    Attributes:
        files: paths, in order.
        notes: sentences about what was left out.
    """

    files: list[str]
    notes: list[str]


def find_files(places: Iterable[str | Path]) -> Found:
    """The image files that paths name: a file is taken as it is, a folder with the folders inside it.

    Raises:
        ConfigError: a path that does not exist, or folders without an image.
    """
    files: list[str] = []
    notes: list[str] = []
    for place in places:
        path = Path(place).expanduser()
        if path.is_dir():
            walker = Walker(path, f"folder {path}")
            files += [os.path.normpath(path / name) for name in walker.images(".")]
            sentence = left_out_sentence(walker.left_out)
            notes += [] if sentence is None else [f"folder {path}: {sentence}"]
        elif path.exists():
            files.append(str(path))
        else:
            raise ConfigError(f"image {path} does not exist. Name image files, or folders of them.")
    if not files:
        raise ConfigError("there is no image to predict: name image files, or folders of them.")
    return Found(files, notes)


def chunk_size(batch: int, side: int) -> int:
    """Images that are decoded together: whole batches, enough for every core, within about 64 MiB."""
    cores = len(os.sched_getaffinity(0))
    wanted = min(_FILES_PER_THREAD * cores, _CHUNK_BYTES // (3 * side * side))
    return batch * max(1, round(wanted / batch))


def decoded_files(files: Sequence[str], shape: Shape, batch: int) -> Iterator[Chunk]:
    """Decode files; memory holds two chunks, however many files there are.

    Args:
        files: paths.
        shape: what images are made into.
        batch: images of a batch: a chunk has whole batches.
    """
    assert shape.side is not None
    size = chunk_size(batch, shape.side)
    chunks = [files[start : start + size] for start in range(0, len(files), size)]
    with ThreadPoolExecutor(max_workers=1) as pool:
        following = pool.submit(_decode, chunks[0], shape) if chunks else None
        for place in range(len(chunks)):
            assert following is not None
            chunk = following.result()
            following = pool.submit(_decode, chunks[place + 1], shape) if place + 1 < len(chunks) else None
            yield chunk


def _decode(files: Sequence[str], shape: Shape) -> Chunk:
    decoded = decode_files(Path(), files, shape)
    errors = {index: bad.error for index, bad in decoded.damaged.items()}
    pixels = decoded.images
    if errors:
        pixels = np.delete(pixels, list(errors), axis=0)
    return Chunk(files, pixels, errors)


def decoded_arrays(
    images: Any, shape: Shape, batch: int, names: Sequence[str] | None = None
) -> Iterator[Chunk]:
    """Images that are in memory, in the network's size.

    Args:
        images: (n, S, S, 3) uint8, which is taken as it is; or PIL images, (H, W, 3) uint8 arrays of any size, and
        bytes of
            image files.
        shape: what images are made into.
        batch: images of a batch: a chunk has whole batches.
        names: of the images; None: their numbers.

    Raises:
        ConfigError: something that is no image.
    """
    assert shape.side is not None
    size = chunk_size(batch, shape.side)
    for start in range(0, len(images), size):
        part = images[start : start + size]
        numbers = range(start, start + len(part))
        called = [str(n) if names is None else names[n] for n in numbers]
        if isinstance(part, np.ndarray) and part.shape[1:] == (shape.side, shape.side, 3):
            if part.dtype != np.uint8:
                raise ConfigError(_NO_IMAGE.format(f"an array of {part.dtype}"))
            yield Chunk(called, part, {})
        else:
            yield _made_one_by_one(part, shape, called)


def _made_one_by_one(part: Any, shape: Shape, names: Sequence[str]) -> Chunk:
    """Images of any kind and size; bytes that cannot be decoded are errors, as files are."""
    pixels: list[Images] = []
    errors: dict[int, str] = {}
    for index, image in enumerate(part):
        if not isinstance(image, bytes):
            pixels.append(made(picture_of(image), shape))
            continue
        try:
            pixels.append(decode(io.BytesIO(image), shape)[0])
        except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, zlib.error and more
            errors[index] = re.sub(r" <_io\.BytesIO object at \w+>", "", str(error)) or type(error).__name__
    side = shape.side or 0
    return Chunk(names, np.stack(pixels) if pixels else np.zeros((0, side, side, 3), np.uint8), errors)


_NO_IMAGE = (
    "{}: an image is a path, the bytes of a file, a PIL image or an array (H, W, 3) of uint8, red, green and blue from "
    "0 to 255."
)


def picture_of(image: Any) -> Image.Image:
    """A PIL image of a PIL image or an array.

    Raises:
        ConfigError: neither of them.
    """
    from PIL import Image

    if isinstance(image, Image.Image):
        return image
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        what = f"an array {array.shape} of {array.dtype}" if array.dtype != object else repr(image)
        raise ConfigError(_NO_IMAGE.format(what))
    return Image.fromarray(array)
