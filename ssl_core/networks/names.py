"""Names of networks, checked without torch. Whether a library has the network is checked once it is loaded.

A name is one word: ``wrn-28-2``, ``resnet18``, ``torchvision:NAME`` or ``timm:NAME``.
"""

from __future__ import annotations

import difflib
import re

SMALLEST = "wrn-10-1"
RESNETS = ("resnet18", "resnet34", "resnet50")
LIBRARIES = ("torchvision", "timm")
FORMS = (
    "wrn-DEPTH-WIDTH (depth 10, 16, 22, 28, ...), resnet18, resnet34, resnet50, torchvision:NAME or timm:NAME"
)
"""What `network` accepts, in words."""
_COMMON = ("wrn-10-1", "wrn-16-1", "wrn-16-2", "wrn-16-4", "wrn-28-2", "wrn-28-8", "wrn-28-10", *RESNETS)


def parse_network(name: str) -> tuple[int, int]:
    """Depth and widening factor of a WideResNet's name such as ``wrn-28-2``.

    Raises:
        ValueError: if the name has another form, or the depth is not 6n + 4.
    """
    match = re.fullmatch(r"wrn-(\d{1,3})-(\d{1,2})", name)
    if match is None or int(match[1]) < 10 or (int(match[1]) - 4) % 6 or int(match[2]) < 1:
        raise ValueError("a network is wrn-DEPTH-WIDTH with depth 10, 16, 22, 28, ... such as wrn-28-2")
    return int(match[1]), int(match[2])


def library_of(name: str) -> tuple[str, str] | None:
    """Library and name in it of ``torchvision:NAME`` or ``timm:NAME``; None for another name."""
    library, colon, rest = name.partition(":")
    return (library, rest) if colon and library in LIBRARIES and rest else None


def check_name(name: str) -> None:
    """Refuse a name that no network has, as far as its form tells.

    Raises:
        ValueError: says which forms there are, and the nearest common name.
    """
    if name in RESNETS:
        return
    if (found := library_of(name)) is not None:
        if not re.fullmatch(r"[A-Za-z0-9_.\-]+", found[1]):
            raise ValueError(f"{found[1]!r} is no name of a network in {found[0]}")
        return
    if re.fullmatch(r"wrn-(\d{1,3})-(\d{1,2})", name):
        parse_network(name)
        return
    known = [*_COMMON, *(f"{library}:{resnet}" for library in LIBRARIES for resnet in RESNETS)]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(f"a network is {FORMS}{hint}")
