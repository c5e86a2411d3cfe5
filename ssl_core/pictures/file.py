"""A method's picture as a file: arrays in a `.npz` without pickled objects. Read without loading torch."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core.methods.base import Panel
from ssl_core.system.files import write_atomically

FILE_NAME = "picture.npz"
FORMAT = 1


@dataclass(frozen=True)
class Picture:
    """What a method shows.

    Attributes:
        method: its name.
        epoch: finished epochs of the run.
        truth: the true class of each image.
        panels: rows, in order.
    """

    method: str
    epoch: int
    truth: tuple[str, ...]
    panels: tuple[Panel, ...]


def save(path: Path, picture: Picture) -> None:
    """Write a picture, completely or not at all."""
    arrays: dict[str, Any] = {}
    panels = []
    for number, panel in enumerate(picture.panels):
        arrays[f"values_{number}"] = panel.values.astype(np.float32)
        if panel.beneath is not None:
            arrays[f"beneath_{number}"] = panel.beneath.astype(np.float32)
        panels.append([panel.title, panel.kind, panel.captions, panel.right])
    head = {"format": FORMAT, "method": picture.method, "epoch": picture.epoch, "truth": picture.truth}
    arrays["head"] = np.frombuffer(json.dumps({**head, "panels": panels}).encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())


def load(path: Path) -> Picture:
    """Read a picture that `save` wrote.

    Raises:
        ValueError: written by another version.
    """
    with np.load(path, allow_pickle=False) as arrays:
        head = json.loads(arrays["head"].tobytes())
        if head["format"] != FORMAT:
            raise ValueError(f"{path}: a picture of format {head['format']!r}; this version reads {FORMAT}")
        panels = []
        for number, (title, kind, captions, right) in enumerate(head["panels"]):
            beneath = arrays.get(f"beneath_{number}")
            marks = None if right is None else tuple(right)
            panels.append(Panel(title, kind, arrays[f"values_{number}"], tuple(captions), marks, beneath))
    return Picture(head["method"], head["epoch"], tuple(head["truth"]), tuple(panels))
