"""Pictures that only the page has, as PNG: trials at each rung, test errors of the final models, Optuna's contours."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import optuna

from tune.figures.style import BLUE, GREY, ORANGE, drawing, dress, png, whole_numbers
from tune.findings.confirmation import title
from tune.findings.rungs import rung_counts
from tune.trials.record import TrialRecord

CONTOURS = 4
"""The largest number of parameters in a contour plot, which draws every pair."""


def rungs(records: Sequence[TrialRecord], places: Sequence[int], fold_ends: Sequence[int] = ()) -> bytes:
    """How many trials reached each rung, and how many of them were stopped there (`tune.findings.rungs`)."""
    counts = rung_counts(records, places, fold_ends)
    names = [rung.name for rung in counts]
    came, ended = [rung.reached for rung in counts], [rung.stopped for rung in counts]
    went_on = [c - e for c, e in zip(came, ended, strict=True)]
    figure = drawing(8.5, 0.5 * len(names) + 1.1)
    axes = figure.subplots()
    axes.barh(names, went_on, color=BLUE, height=0.62, label="reached this rung and continued")
    if any(ended):
        axes.barh(names, ended, left=went_on, color=ORANGE, height=0.62, label="stopped here")
        axes.legend(fontsize=9, frameon=False, loc="lower right")
    for row, count in enumerate(came):
        axes.text(count, row, f" {count}", va="center", fontsize=9)
    axes.invert_yaxis()
    dress(axes, title="Trials at each rung, in epochs", x="trials", y="")
    axes.grid(False, axis="y")
    whole_numbers(axes.xaxis)
    axes.set_xlim(right=1.08 * max(came))
    return png(figure)


def seeds(confirmation: Mapping[str, Any], named: Callable[[str], str] = title) -> bytes | None:
    """Test error of every final model; a line joins the models of one seed. None if there is no final model.

    Args:
        confirmation: as ``confirm.json`` has it.
        named: what a row is called.
    """
    rows = [row for row in confirmation["rows"] if row["test_error"]]
    if not rows:
        return None
    figure = drawing(8.5, 0.55 * len(rows) + 1.3)
    axes = figure.subplots()
    by_seed: dict[int, list[tuple[float, int]]] = {}
    for place, row in enumerate(rows):
        for seed, error in zip(row["seeds"], row["test_error"], strict=True):
            by_seed.setdefault(seed, []).append((error, place))
    for points in by_seed.values():
        axes.plot([x for x, _ in points], [y for _, y in points], color="#CCCCCC", lw=1, zorder=1)
    for place, row in enumerate(rows):
        colour = GREY if row["who"] == confirmation["baseline"] else BLUE
        axes.scatter(row["test_error"], [place] * len(row["test_error"]), color=colour, s=24, zorder=3)
        axes.plot(row["test_mean"], place, "|", color=colour, ms=22, mew=2.5, zorder=2)
        if row["test_interval"] is not None:
            low, high = (min(max(end, 0.0), 100.0) for end in row["test_interval"])
            axes.plot([low, high], [place, place], color=colour, lw=5, alpha=0.25, zorder=2)
    axes.set_yticks(range(len(rows)), [named(row["who"]) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    dress(axes, title="", x="test images misclassified, % (bar: 95 % interval of the mean)", y="")
    axes.grid(False, axis="y")
    return png(figure)


def contours(
    trials: Sequence[optuna.trial.FrozenTrial], names: Sequence[str], axis: str = "validation error, %"
) -> bytes:
    """The objective's value over pairs of parameters, drawn by Optuna.

    Optuna draws with pyplot. Its backend and settings are put back afterwards, for the sake of notebooks.

    Args:
        trials: trials at full budget.
        names: the parameters; the first `CONTOURS` of them are drawn.
        axis: what the objective is called.
    """
    shown = list(names)[:CONTOURS]
    study = optuna.create_study(direction="minimize")
    study.add_trials(trials)
    before = mpl.get_backend()
    mpl.use("Agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as optuna_plots

    try:
        with warnings.catch_warnings(), pyplot.rc_context():
            warnings.simplefilter("ignore")  # Optuna marks them as experimental, and warns of equal points
            drawn: Any = optuna_plots.plot_contour(
                study,
                params=shown,
                target=lambda trial: trial.value or 0.0,
                target_name=axis,
            )
            axes = drawn if hasattr(drawn, "figure") else drawn.flat[0]
            side = 4.2 if len(shown) == 2 else 2.7 * len(shown)
            axes.figure.set_size_inches(side + 2.6, side)
            axes.figure.suptitle("")
            axes.set_title("")
            buffer = io.BytesIO()
            axes.figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight", facecolor="white")
            pyplot.close(axes.figure)
    finally:
        mpl.use(before)
    return buffer.getvalue()
