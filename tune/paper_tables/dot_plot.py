"""A reproduced table as a picture: a dot plot with a line for each cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tune.paper_tables.rendering import CUT, Document


def picture(document: Document, path: Path) -> None:
    """Write the dot plot as PNG: of each cell the error measured here, the published report's, the published
    benchmark's, and that of supervised training here."""
    # Matplotlib loads for half a second; `reproduce --json` of a bad command should not wait for it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = document["rows"]
    figure = Figure(figsize=(8, 1.7 + 0.42 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        _draw_row(axes, place, row)
    axes.set_yticks(range(len(rows)), [f"{r['cell']}{' ' + CUT if r['cut'] else ''}" for r in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("test error, percent of images misclassified (± one standard deviation)")
    cut = next((row["cut"] for row in rows if row["cut"]), None)
    axes.set_title(
        document["title"], loc="left", fontsize=11, pad=18 if cut else 6
    )  # room for the note below it
    axes.spines[["top", "right"]].set_visible(False)
    shown = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        shown.values(), shown.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=8
    )
    if cut:
        axes.annotate(
            f"{CUT} cut budget: {'; '.join(cut[:3])}",
            (0, 1.0),
            xytext=(0, 3),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=7,
            color="0.4",
            va="bottom",
        )
    figure.savefig(path, dpi=110)


def _draw_row(axes: Any, place: int, row: Document) -> None:
    """Draw a cell's values at this height."""
    axes.axhline(place, color="0.92", linewidth=1, zorder=0)
    for values, shift, shape, colour, label in (
        (row["supervised"]["test_error"], 0.12, "s", "0.45", "supervised, here"),
        (row["test_error"], -0.12, "o", "C0", "this method, here"),
    ):
        if values:
            axes.errorbar(
                values["mean"],
                place + shift,
                xerr=values["std"] or 0.0,
                fmt=shape,
                color=colour,
                label=label,
                capsize=3,
                markersize=6,
            )
    if row["report"] is not None:
        axes.plot(row["report"], place, "D", color="C3", markersize=6, label="the report")
    if row["published"]:
        axes.plot(
            row["published"]["error"],
            place,
            "|",
            color="C2",
            markersize=13,
            markeredgewidth=2.5,
            label="published, full budget",
        )
