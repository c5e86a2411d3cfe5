"""What must be the same on every machine that runs a study's code."""

from __future__ import annotations

import sys
from importlib import metadata

from tune.revision import ROOT, code_digest

PACKAGES = ("ray", "torch", "torchvision", "numpy")


def identity() -> dict[str, str]:
    """What must be the same wherever a study's code runs."""
    found = {"python": ".".join(map(str, sys.version_info[:2]))}
    for name in PACKAGES:
        found[name] = metadata.version(name)
    found["ssl-tune"] = f"code {code_digest(ROOT)}"
    return found
