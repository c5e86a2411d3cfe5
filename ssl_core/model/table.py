"""Predictions, and a pandas table of them. pandas is loaded by the function that makes one.

Shapes: n images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Predictions:
    """What was predicted for some images, those that can be read and those that cannot.

    Attributes:
        names: paths or numbers, of all.
        labels: (n, K) int64, the K most likely classes of each image that can be read, the most likely one first.
        confidences: (n, K), their probabilities, calibrated.
        raw: (n,), the probability of the first one with a temperature of 1.
        errors: why an image cannot be read, by its index among the names.
    """

    names: Sequence[str]
    labels: npt.NDArray[np.int64]
    confidences: npt.NDArray[np.float64]
    raw: npt.NDArray[np.float64]
    errors: dict[int, str]


def columns_of(top: int) -> list[str]:
    """The columns of a table with the `top` most likely classes."""
    more = [name for k in range(2, top + 1) for name in (f"label_{k}", f"confidence_{k}")]
    return ["file", "label", "confidence", "confidence_raw", *more, "error"]


def table_of(parts: Sequence[Predictions], classes: Sequence[str], top: int) -> pd.DataFrame:
    """The table of some predictions: see `ssl_core.model.model.Model.predict`.

    Args:
        parts: the predictions.
        classes: names, in the order of the outputs.
        top: how many of the most likely classes; no more than there are.
    """
    import pandas as pd

    top = min(top, len(classes))
    frames = [pd.DataFrame(_columns(part, classes, top), columns=columns_of(top)) for part in parts]
    texts = ["file", "error", *(name for name in columns_of(top) if name.startswith("label"))]
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns_of(top))
    return table.astype(dict.fromkeys(texts, "str"))


def _columns(part: Predictions, classes: Sequence[str], top: int) -> dict[str, Any]:
    count = len(part.names)
    readable = np.setdiff1d(np.arange(count), list(part.errors))
    names = np.asarray(classes, dtype=object)
    columns: dict[str, Any] = {"file": list(part.names)}
    for k in range(top):
        end = "" if k == 0 else f"_{k + 1}"
        label = np.full(count, None, dtype=object)
        confidence = np.full(count, np.nan)
        label[readable], confidence[readable] = names[part.labels[:, k]], part.confidences[:, k]
        columns |= {f"label{end}": label, f"confidence{end}": confidence}
    raw = np.full(count, np.nan)
    raw[readable] = part.raw
    errors = [part.errors.get(index) for index in range(count)]
    return columns | {"confidence_raw": raw, "error": errors}
