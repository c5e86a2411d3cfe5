"""The style of all figures: colours that colour-blind readers can tell apart, readable type, no global state.

Figures are made with matplotlib's object-oriented interface. Nothing here uses pyplot, so figures can be drawn in
any thread and process, and the settings of a notebook stay as they are.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ssl_core.data.inspecting.lettering import readable
from tune.figures.colours import BLACK as BLACK
from tune.figures.colours import BLUE as BLUE
from tune.figures.colours import CLASSES as CLASSES
from tune.figures.colours import GREEN as GREEN
from tune.figures.colours import GREY as GREY
from tune.figures.colours import LIGHT as LIGHT
from tune.figures.colours import ORANGE as ORANGE
from tune.figures.colours import PURPLE as PURPLE
from tune.figures.colours import SKY as SKY
from tune.figures.colours import VERMILLION as VERMILLION

DPI = 110


class Drawing(Figure):
    """A matplotlib figure that a notebook displays."""

    def _repr_png_(self) -> bytes:
        return png(self)


def drawing(width: float, height: float, title: str | None = None) -> Drawing:
    """An empty figure; width and height in inches."""
    figure = Drawing(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize=12, fontweight="bold", x=0.01, ha="left")
    return figure


def dress(axes: Axes, *, title: str, x: str, y: str) -> None:
    """Set the title and the labels, with a light grid and no box."""
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel(x, fontsize=10)
    axes.set_ylabel(y, fontsize=10)
    axes.tick_params(labelsize=9)
    axes.grid(True, color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def class_labels(classes: Sequence[str], count: int) -> list[str]:
    """Names of `count` classes as a figure can draw them; numbers where the names are not known.

    Letters that the font lacks are written as their codes. A dollar sign is a dollar sign, no formula, and a name that
    begins with an underscore stays in the legend.
    """
    if len(classes) != count:
        return [str(number) for number in range(count)]
    labels = [readable(name).replace("$", r"\$") for name in classes]
    return [f"\N{HAIR SPACE}{label}" if label.startswith("_") else label for label in labels]


def whole_numbers(axis: Any) -> None:
    """Put the ticks at whole numbers, for epochs and trials."""
    axis.set_major_locator(MaxNLocator(integer=True))


def png(figure: Figure) -> bytes:
    """A figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG. It is written under another name first, so that no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_bytes(png(figure))
    aside.replace(path)
