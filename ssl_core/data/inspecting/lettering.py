"""Names of classes and files in pictures, whatever their letters are."""

from __future__ import annotations

import unicodedata
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

_LETTERS = 24


def readable(name: str) -> str:
    """A class's name for a picture: cut, and with the codes of letters that the font lacks."""
    short = name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"
    return "".join(letter if _has_shape(letter) else f"U+{ord(letter):04X} " for letter in short).strip()


@cache
def font() -> FreeTypeFont | ImageFont:
    """The font that comes with matplotlib, which knows the alphabets of Europe and the Near East."""
    from PIL import ImageFont

    package = find_spec("matplotlib")
    for folder in (package.submodule_search_locations or ()) if package is not None else ():
        file = Path(folder, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
        if file.is_file():
            return ImageFont.truetype(file, 11)
    return ImageFont.load_default()


def _has_shape(letter: str) -> bool:
    if letter.isspace() or unicodedata.combining(letter):
        return True
    missing, mask = font().getmask("\U0010ffff"), font().getmask(letter)
    return mask.size != missing.size or bytes(mask) != bytes(missing)
