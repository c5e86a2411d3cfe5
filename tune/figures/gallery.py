"""A method's own picture as a figure: a row for each kind of panel, a column for each image."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ssl_core.methods.base import Panel
from ssl_core.pictures.file import Picture
from ssl_core.system.errors import counted
from tune.figures.style import BLUE, GREY, VERMILLION, Drawing, class_labels, drawing

MAP_COLOURS = "viridis"


def gallery(picture: Picture, *, title: str = "") -> Drawing:
    """VAT's original, perturbation and perturbed images (the published report's figure 5), or attention maps.

    Perturbations are drawn around grey, all on one scale, which the row's title names. Attention is drawn over its
    view in grey; nothing is drawn over parts where the views are not compared.

    Args:
        picture: see `ssl_core.pictures.panels`.
        title: title of the whole figure.
    """
    rows, columns = len(picture.panels), len(picture.truth)
    figure = drawing(1.45 * columns + 1.2, 1.75 * rows + 0.9, title)
    grid = figure.subplots(rows, columns, squeeze=False)
    for row, panel in enumerate(picture.panels):
        label, show = _shower(panel)
        for column in range(columns):
            axes = grid[row, column]
            show(axes, column)
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(False)
            _caption(axes, panel, column)
        grid[row, 0].set_ylabel(label, fontsize=10)
    for column, truth in enumerate(class_labels(picture.truth, columns)):
        grid[0, column].set_title(f"true: {truth}", fontsize=10)
    figure.supxlabel(
        f"validation images after {counted(picture.epoch, 'epoch')} (EMA model); below an image the "
        "predicted class and its probability, blue where right, red-orange where wrong",
        fontsize=9,
        color=GREY,
    )
    return figure


def _shower(panel: Panel) -> tuple[str, Any]:
    """The title of a row, and the function that draws one of its images."""
    if panel.kind == "difference":
        largest = float(np.abs(panel.values).max()) or 1.0
        around_grey = 0.5 + panel.values / (2 * largest)

        def difference(axes: Axes, column: int) -> None:
            axes.imshow(around_grey[column], interpolation="nearest")

        return f"{panel.title}\n(x {0.5 / largest:.2g})", difference
    if panel.kind == "map":
        assert panel.beneath is not None
        highest = float(np.nanmax(panel.values)) if not np.isnan(panel.values).all() else 1.0
        beneath = panel.beneath

        def attention(axes: Axes, column: int) -> None:
            """Draw the map of an image over the image in grey."""
            height, width = beneath.shape[1:3]
            grey = beneath[column].mean(axis=2)
            axes.imshow(grey, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            extent = (-0.5, width - 0.5, height - 0.5, -0.5)
            axes.imshow(
                panel.values[column],
                cmap=MAP_COLOURS,
                vmin=0,
                vmax=highest,
                # Where there is little attention, or none is compared, the image beneath shows through.
                alpha=np.nan_to_num(0.1 + 0.7 * panel.values[column] / highest),
                extent=extent,
                interpolation="nearest",
            )

        return f"{panel.title}\n(yellow: {highest:.2g})", attention

    def image(axes: Axes, column: int) -> None:
        axes.imshow(panel.values[column], interpolation="nearest")

    return panel.title, image


def _caption(axes: Axes, panel: Panel, column: int) -> None:
    if not panel.captions[column]:
        return
    colour = GREY
    if panel.right is not None:
        colour = BLUE if panel.right[column] else VERMILLION
    axes.set_xlabel(panel.captions[column], fontsize=9, color=colour)
