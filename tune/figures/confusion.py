"""The confusion matrix of a model as a picture, with the error of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from matplotlib.axes import Axes

from ssl_core.measures import balanced_error, errors_by_class, images_and_wrong, matrix_of
from tune.figures.style import BLUE, GREY, Drawing, class_labels, drawing, dress

MOST_WRITTEN = 12
"""With more classes than this the counts do not fit into their cells, and are not written."""


class Counted(Protocol):
    """A report with counts by class (`ssl_core.training.run.Report`)."""

    @property
    def classes(self) -> Mapping[str, Sequence[int]]: ...


def last_matrix(reports: Sequence[Counted]) -> list[list[int]] | None:
    """The confusion matrix on the validation images after a run's last epoch; None where the run has none."""
    cells = reports[-1].classes.get("confusion") if reports else None
    return None if cells is None else matrix_of(cells)


def confusion_matrix(
    matrix: Sequence[Sequence[int]],
    *,
    classes: Sequence[str] = (),
    images: str = "validation",
    title: str = "",
) -> Drawing:
    """How often each class is taken for which, and the error of each class.

    Args:
        matrix: counts, a row for each true class and a column for each predicted one.
        classes: names in the order of the labels; numbers where there are none.
        images: which images they are: validation or test.
        title: title of the whole figure.
    """
    counts = np.array(matrix, dtype=int)
    names = class_labels(classes, len(counts))
    side = min(9.0, 2.6 + 0.42 * len(names))
    figure = drawing(max(10.0, 1.9 * side), side, title)  # the legend needs that width
    cells, bars = figure.subplots(1, 2, width_ratios=(1.25, 1))
    _cells(cells, counts, names, images)
    _bars(bars, counts, names)
    return figure


def _cells(axes: Axes, counts: np.ndarray, names: Sequence[str], images: str) -> None:
    """The matrix, coloured by the share of the true class; a class without an image is left blank."""
    total = counts.sum(axis=1, keepdims=True)
    shares = np.divide(100 * counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    dress(axes, title=f"Confusion matrix, {images} images", x="predicted class", y="true class")
    axes.grid(False)
    places = range(len(names))
    if len(names) <= 2 * MOST_WRITTEN:
        axes.set_xticks(places, names, rotation=45, ha="right")
        axes.set_yticks(places, names)
    if len(names) <= MOST_WRITTEN:
        for row in places:
            for column in places:
                if counts[row, column]:
                    colour = "white" if shares[row, column] > 55 else "black"
                    axes.text(
                        column,
                        row,
                        f"{counts[row, column]}",
                        ha="center",
                        va="center",
                        color=colour,
                        fontsize=9,
                    )
    axes.figure.colorbar(drawn, ax=axes, label="% of the true class", shrink=0.8)


def _bars(axes: Axes, counts: np.ndarray, names: Sequence[str]) -> None:
    """The error of each class, and their mean; no bar for a class without an image."""
    images, wrong = images_and_wrong(counts.tolist())
    errors = errors_by_class(images, wrong)
    mean = balanced_error(images, wrong)
    labels = [f"{name} ({n})" for name, n in zip(names, images, strict=True)]
    axes.barh(range(len(names)), [error or 0.0 for error in errors], color=BLUE, height=0.7)
    axes.axvline(mean, color=GREY, ls="--", lw=1.2, label=f"mean of the classes: {mean:.2f} %")
    dress(axes, title="Error of each class (images)", x="misclassified, %", y="")
    if len(names) <= 2 * MOST_WRITTEN:
        axes.set_yticks(range(len(names)), labels)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xlim(0, max(1.0, 1.08 * max(error or 0.0 for error in errors)))
    axes.legend(fontsize=9, frameon=False, loc="best")
