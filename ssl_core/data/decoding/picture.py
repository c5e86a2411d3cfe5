"""One image file as pixels: upright, in colour, in one size. PIL is loaded by the functions that need it.

S: side in pixels.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ssl_core.data.part import Images
from ssl_core.system.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "BMP", "DIB", "WEBP", "GIF", "PPM", "TIFF")
"""PIL's names of what is decoded. EPS, which starts a program, and others that can are not among them."""

MAX_PIXELS = 89_478_485
"""Pixels of one image, as PIL's own limit: a file of a few kilobytes can claim more than memory holds."""

DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")
"""PIL's modes of grey images with more than 8 bits."""

_ORIENTATION = 0x0112
_EXIF = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")


@dataclass(frozen=True)
class Shape:
    """What images are made into.

    Attributes:
        side: S; None: as they are.
        resize: see `ssl_core.data.options.Options`.
        background: red, green and blue.
        bits: of grey images with more than 8 bits: values up to 2 ** bits - 1 are scaled to 8 bits.
    """

    side: int | None = None
    resize: Literal["crop", "pad", "stretch"] = "crop"
    background: tuple[int, int, int] = (255, 255, 255)
    bits: int = 16


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of its image before it is decoded: size as it is shown, PIL's mode and format."""

    width: int
    height: int
    mode: str
    format: str
    frames: int = 1
    is_transparent: bool = False


def colour(name: str) -> tuple[int, int, int]:
    """Red, green and blue of a colour's name or code.

    Raises:
        ConfigError: it is none.
    """
    from PIL import ImageColor

    try:
        red, green, blue, *_ = ImageColor.getrgb(name)
    except ValueError:
        raise ConfigError(
            f"data.background = {name!r}: a colour is expected, such as white, black, grey or #336699."
        ) from None
    return red, green, blue


def opened(path: str | Path | IO[bytes]) -> Image.Image:
    """An image, of a file or of its bytes, whose header was read. The caller closes it.

    Raises:
        ValueError: more than MAX_PIXELS.
        Exception: whatever PIL raises for a file that it cannot read.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the same limit, checked here
        image = Image.open(path, formats=FORMATS)
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        image.close()
        raise ValueError(f"{image.width}x{image.height} are more than {MAX_PIXELS} pixels")
    return image


def read_header(path: str | Path) -> Header:
    """The header of an image file.

    Raises:
        Exception: whatever PIL raises for a file that it cannot read.
    """
    with opened(path) as image:
        return _header_of(image)


def _header_of(image: Image.Image) -> Header:
    width, height = image.size
    if _turns(image):
        width, height = height, width
    frames = int(getattr(image, "n_frames", 1)) if image.format in ("TIFF", "GIF", "WEBP") else 1
    return Header(width, height, image.mode, image.format or "", frames, _has_alpha(image))


def _turns(image: Image.Image) -> bool:
    # A TIFF is turned by PIL itself, its size already in the header.
    return image.format != "TIFF" and _orientation(image) in (5, 6, 7, 8)


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF" or not any(key in image.info for key in _EXIF):
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # the data beside the pixels is damaged, the pixels need not be
        return 1
    return value if isinstance(value, int) else 1


def decode(path: str | Path | IO[bytes], shape: Shape) -> tuple[Images, bytes]:
    """One image, of a file or of its bytes, and the hash of its pixels.

    The image is (S, S, 3) uint8, or (height, width, 3) without `shape.side`. The hash (16 bytes, xxh3_128: sha256 would
    take a sixth of the decoding's time) is that of the pixels before they are composited, scaled and resized, so it
    depends on the picture alone. Where the file holds several images, the first is taken.

    Raises:
        Exception: whatever PIL raises for a file that it cannot read; ValueError for pixels that have no
            fixed range, or too many of them.
    """
    pixels, digest, _ = decode_with_header(path, shape)
    return pixels, digest


def decode_with_header(path: str | Path | IO[bytes], shape: Shape) -> tuple[Images, bytes, Header]:
    """What `decode` gives, and the file's header, for one opening of the file.

    Raises:
        Exception: as for `decode`.
    """
    with opened(path) as image:
        header = _header_of(image)
        picture, digest = _picture_and_hash(image, shape)
        return resized(picture, shape), digest, header


def made(image: Image.Image, shape: Shape) -> Images:
    """An image that is in memory as `decode` makes a file's: (S, S, 3) uint8.

    Raises:
        ValueError: as for `decode`.
    """
    return resized(_picture_and_hash(image, shape)[0], shape)


def examine(path: str | Path) -> tuple[Header, bytes]:
    """The header of an image file and the hash of its pixels, as `decode` gives it.

    Raises:
        Exception: as for `decode`.
    """
    with opened(path) as image:
        header = _header_of(image)
        return header, _picture_and_hash(image, Shape())[1]


def _picture_and_hash(image: Image.Image, shape: Shape) -> tuple[Image.Image, bytes]:
    image.load()
    picture, pixels = _as_rgb(_upright(image), shape)
    return picture, _hash_of(b"%d %d " % picture.size, pixels)


def check_hashing() -> None:
    """Refuse to read a data set without the package that hashes pixels; a model that predicts needs no hashes.

    Raises:
        ConfigError: xxhash is not installed, as where this package was installed without what it depends on.
    """
    if find_spec("xxhash") is None:
        raise ConfigError("data sets need the package xxhash: pip install xxhash.")


def _hash_of(size: bytes, pixels: Any) -> bytes:
    """16 bytes; zeros where `check_hashing` would refuse to read a data set."""
    try:
        from xxhash import xxh3_128  # delayed: whoever gets a model need not have it
    except ImportError:
        return bytes(16)
    digest = xxh3_128(size)
    digest.update(pixels)
    return bytes(digest.digest())


def _upright(image: Image.Image) -> Image.Image:
    """The image as a viewer shows it."""
    from PIL import ImageOps

    return ImageOps.exif_transpose(image) if _orientation(image) in range(2, 9) else image


def _as_rgb(image: Image.Image, shape: Shape) -> tuple[Image.Image, Any]:
    """The image in mode RGB, and the bytes that tell it from others."""
    from PIL import Image

    if image.mode in DEEP_MODES:
        values = deep_values(image)
        grey = np.minimum(values, 2**shape.bits - 1) >> (shape.bits - 8)
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB"), np.ascontiguousarray(values)
    if image.mode == "F":
        raise ValueError("pixels of mode 'F' have no fixed range; save it with 8 or 16 bits")
    if _has_alpha(image):
        image = image.convert("RGBA")
        pixels = np.array(image)
        if pixels[..., 3].min() == 255:
            opaque = image.convert("RGB")
            return opaque, opaque.tobytes()
        pixels[pixels[..., 3] == 0] = 0  # what lies below is arbitrary
        below = Image.new("RGBA", image.size, (*shape.background, 255))
        return Image.alpha_composite(below, image).convert("RGB"), pixels
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    return rgb, rgb.tobytes()


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def deep_values(image: Image.Image) -> npt.NDArray[np.uint16]:
    """The values of a grey image with more than 8 bits.

    Raises:
        ValueError: values outside 0 to 65535.
    """
    values = np.asarray(image)
    if image.mode == "I" and values.size and (values.min() < 0 or values.max() > 65_535):
        raise ValueError(
            "pixels of mode 'I' outside 0 to 65535 have no fixed range; save it with 8 or 16 bits"
        )
    return values.astype(np.uint16)


def resized(picture: Image.Image, shape: Shape) -> Images:
    """An RGB picture as (S, S, 3) uint8, or as it is where `shape.side` is None.

    PIL's bilinear filter widens with the factor of reduction, so fine patterns do not alias.
    """
    from PIL import Image

    side = shape.side
    width, height = picture.size
    if side is None or (width, height) == (side, side):
        return np.asarray(picture, dtype=np.uint8)
    bilinear = Image.Resampling.BILINEAR
    if width == height or shape.resize == "stretch":
        return np.asarray(picture.resize((side, side), bilinear), dtype=np.uint8)
    if shape.resize == "crop":
        short = min(width, height)
        left, top = (width - short) / 2, (height - short) / 2
        box = (left, top, left + short, top + short)
        return np.asarray(picture.resize((side, side), bilinear, box=box), dtype=np.uint8)
    scale = side / max(width, height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    whole = _canvas(side, shape.background).copy()
    whole.paste(picture.resize(inner, bilinear), ((side - inner[0]) // 2, (side - inner[1]) // 2))
    return np.asarray(whole, dtype=np.uint8)


@lru_cache(maxsize=4)
def _canvas(side: int, background: tuple[int, int, int]) -> Image.Image:
    from PIL import Image

    return Image.new("RGB", (side, side), background)
