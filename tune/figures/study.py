"""Figures of a study, drawn from its trials: history, importance, slices, learning curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from tune.definition.objective import AXES, BOTH
from tune.figures.curves import Reported
from tune.figures.style import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    VERMILLION,
    Drawing,
    drawing,
    dress,
    whole_numbers,
)
from tune.findings.ranking import best_record
from tune.trials.record import TrialRecord

MARKS = {
    "completed": ("ran the full budget", BLUE, "o"),
    "stopped_early": ("stopped early, its last error", ORANGE, "v"),
    "failed": ("failed, its last error", VERMILLION, "X"),
}
MOST_CURVES = 60


def _axis(records: Sequence[TrialRecord]) -> str:
    """What the axis of the study's objective says."""
    return AXES[records[0].objective]


def _from_zero(axes: Any, records: Sequence[TrialRecord]) -> None:
    """Begin the axis of an objective at 0, where its values are never negative."""
    if records[0].objective != BOTH:
        axes.set_ylim(bottom=0)


def optimisation_history(records: Sequence[TrialRecord], *, title: str = "") -> Drawing | None:
    """The objective's value of every trial in order of creation, and the best so far at full budget.

    Args:
        records: the trials.
        title: title of the whole figure.
    """
    shown = [r for r in records if r.score is not None and r.state in MARKS]
    if not shown:
        return None
    figure = drawing(8.5, 4.2, title)
    axes = figure.subplots()
    for state, (label, colour, mark) in MARKS.items():
        points = [(int(r.trial), r.score) for r in shown if r.state == state]
        if points:
            x, y = zip(*points, strict=True)
            axes.scatter(x, y, color=colour, marker=mark, s=34, label=label, zorder=3)
    completed = [(int(r.trial), r.score) for r in shown if r.state == "completed"]
    if completed:
        numbers, errors = zip(*completed, strict=True)
        best = np.minimum.accumulate(np.array(errors, dtype=float))
        axes.step(numbers, best, where="post", color=BLACK, lw=1.2, label="best so far at full budget")
    dress(axes, title="Optimisation history", x="trial", y=_axis(shown))
    _from_zero(axes, records)
    whole_numbers(axes.xaxis)
    axes.legend(fontsize=9, frameon=False)
    return figure


def parameter_importances(importances: Mapping[str, float], *, title: str = "") -> Drawing | None:
    """How much of the differences in the objective's value each searched parameter explains.

    Args:
        importances: shares by parameter, as `tune.findings.summary.importances` gives them.
        title: title of the whole figure.
    """
    if not importances:
        return None
    names = sorted(importances, key=lambda name: importances[name])
    figure = drawing(7.5, 1.5 + 0.45 * len(names), title)
    axes = figure.subplots()
    bars = axes.barh(names, [100 * importances[name] for name in names], color=BLUE)
    axes.bar_label(bars, fmt="%.0f %%", padding=3, fontsize=9)
    dress(axes, title="Parameter importance (PED-ANOVA, trials at full budget)", x="share, %", y="")
    axes.grid(False)
    axes.set_xlim(0, 112)
    return figure


def slices(records: Sequence[TrialRecord], *, log: Sequence[str] = (), title: str = "") -> Drawing | None:
    """The objective's value against each searched parameter.

    Args:
        records: the trials.
        log: parameters that are searched on a logarithmic scale.
        title: title of the whole figure.
    """
    shown = [r for r in records if r.score is not None and r.state in MARKS and r.params]
    if not shown:
        return None
    names = list(shown[0].params)
    columns = min(4, len(names))
    rows = math.ceil(len(names) / columns)
    figure = drawing(3.6 * columns + 1.2, 3.2 * rows + 0.6, title)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for place, axes in enumerate(grid.flat):
        if place < len(names):
            _slice(axes, shown, names[place], names[place] in log)
            if place % columns:
                axes.set_ylabel("")
        else:
            axes.set_axis_off()
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=3, fontsize=9, frameon=False)
    return figure


def _slice(axes: Axes, records: Sequence[TrialRecord], name: str, log: bool) -> None:
    values = [r.params.get(name) for r in records]
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    choices = [] if numeric else sorted({str(v) for v in values})
    for state, (label, colour, mark) in MARKS.items():
        points: list[tuple[Any, float]] = [
            (v if numeric else choices.index(str(v)), r.score or 0.0)
            for v, r in zip(values, records, strict=True)
            if r.state == state
        ]
        if points:
            x, y = zip(*points, strict=True)
            axes.scatter(x, y, color=colour, marker=mark, s=30, label=label, alpha=0.85, zorder=3)
    dress(axes, title="", x=name, y=_axis(records))
    _from_zero(axes, records)
    if choices:
        axes.set_xticks(range(len(choices)), choices)
    elif log:
        axes.set_xscale("log")


def study_curves(
    records: Sequence[TrialRecord], reports: Mapping[str, Sequence[Reported]], *, title: str = ""
) -> Drawing | None:
    """The objective's value of the trials over their epochs: the best trial, those at full budget, those stopped.

    Args:
        records: the trials.
        reports: the reports of each trial, by its name.
        title: title of the whole figure.
    """
    best, _ = best_record(records)
    drawn = [r for r in records if reports.get(r.trial)]
    if not drawn:
        return None
    figure = drawing(9, 4.4, title)
    axes = figure.subplots()
    labelled = set()
    # Too many curves cannot be told apart: those with the most epochs are drawn.
    for record in sorted(drawn, key=lambda r: -r.epoch)[:MOST_CURVES]:
        if best is not None and record.trial == best.trial:
            continue
        label, colour, mark = MARKS.get(record.state, ("running", GREY, ""))
        label = label.partition(",")[0]
        axes.plot(
            [p.epoch for p in reports[record.trial]],
            [p.metrics[record.objective] for p in reports[record.trial]],
            color=colour,
            lw=0.9,
            alpha=0.6,
            marker=None if record.state == "completed" else mark or None,
            markevery=[-1],  # where it ended
            label=None if label in labelled else label,
        )
        labelled.add(label)
    if best is not None and reports.get(best.trial):
        curve = reports[best.trial]
        epochs, errors = [p.epoch for p in curve], [p.metrics[best.objective] for p in curve]
        axes.plot(epochs, errors, color=BLACK, lw=2.2, label=f"best: trial {best.trial}", zorder=4)
    count = f"{MOST_CURVES} longest of {len(drawn)} trials" if len(drawn) > MOST_CURVES else "all trials"
    dress(axes, title=f"Learning curves ({count})", x="epoch", y=f"{_axis(drawn)} (EMA model)")
    _from_zero(axes, records)
    whole_numbers(axes.xaxis)
    axes.legend(fontsize=9, frameon=False)
    return figure
