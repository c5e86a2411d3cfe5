"""The page's pictures, as PNG. Errors are percent of validation images misclassified unless they say test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from search_spaces import SearchSpace
from tune.events import Report
from tune.figures import curves as run_curves
from tune.figures.style import BLUE, GREY, ORANGE, VERMILLION, drawing, dress, png, whole_numbers
from tune.records import TrialRecord
from tune.rungs import rungs as rung_places
from tune.study import StudyFolder

ERROR = "validation images misclassified, %"
_STATES = (
    ("completed", "full budget", "o", BLUE),
    ("stopped_early", "stopped early", "x", ORANGE),
    ("failed", "failed", "v", VERMILLION),
    ("running", "under way", "d", GREY),
)
SLICE_COLUMNS = 3


def history(records: Sequence[TrialRecord]) -> bytes:
    """Every trial's last error by its number, and the best at full budget so far."""
    figure = drawing(9, 3.6)
    axes = figure.subplots()
    _by_state(axes, records, lambda r: int(r.trial))
    done = [r for r in records if r.state == "completed" and r.val_error is not None]
    if done:
        best = np.minimum.accumulate([r.val_error or 0.0 for r in done])
        places = [int(r.trial) for r in done]
        axes.step(
            [*places, len(records) - 1],
            [*best, best[-1]],
            where="post",
            color=BLUE,
            lw=1.4,
            label="best so far",
        )
    dress(axes, title="", x="trial", y=ERROR)
    whole_numbers(axes.xaxis)
    axes.legend(fontsize=9, frameon=False, ncols=4)
    return png(figure)


def _by_state(axes: Axes, records: Sequence[TrialRecord], place: Any) -> None:
    for state, label, marker, colour in _STATES:
        mine = [r for r in records if r.state == state and r.val_error is not None and place(r) is not None]
        if mine:
            values = [r.val_error or 0.0 for r in mine]
            axes.scatter(
                [place(r) for r in mine], values, marker=marker, color=colour, s=26, label=label, zorder=3
            )


def rungs(records: Sequence[TrialRecord], epochs: int) -> bytes:
    """How many trials came to each rung, and how many were stopped there."""
    places = rung_places(epochs)
    reached = [sum((r.ssl_epoch or 0) >= place for r in records) for place in places]
    stopped = [sum(r.stop_reason == "asha" and r.ssl_epoch == place for r in records) for place in places]
    finished = sum(r.state == "completed" for r in records)
    names = ["begun", *[f"epoch {place}" for place in places], "full budget"]
    came, ended = [len(records), *reached, finished], [0, *stopped, 0]
    figure = drawing(9, 0.55 * len(names) + 1.1)
    axes = figure.subplots()
    axes.barh(names, came, color=BLUE, height=0.62, label="came here")
    axes.barh(
        names,
        ended,
        left=[c - e for c, e in zip(came, ended, strict=True)],
        color=ORANGE,
        height=0.62,
        label="stopped here",
    )
    for row, count in enumerate(came):
        axes.text(count, row, f" {count}", va="center", fontsize=9)
    axes.invert_yaxis()
    dress(axes, title="", x="trials", y="")
    axes.grid(False, axis="y")
    whole_numbers(axes.xaxis)
    axes.set_xlim(right=1.08 * max(came))
    if any(ended):
        axes.legend(fontsize=9, frameon=False)
    return png(figure)


def slices(records: Sequence[TrialRecord], space: SearchSpace) -> bytes:
    """The error against each searched parameter."""
    names = list(dict.fromkeys(name for r in records for name in r.params))
    logarithmic = {p.name for p in space.parameters if getattr(p.distribution, "log", False)}
    if "warmup_share" in logarithmic:  # searched as a share, shown in whole epochs
        logarithmic.discard("warmup_share")
    columns = min(SLICE_COLUMNS, max(1, len(names)))
    rows = -(-len(names) // columns) if names else 1
    figure = drawing(4.0 * columns if columns > 1 else 6.0, 3.1 * rows)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for place, name in enumerate(names):
        axes = grid[place // columns][place % columns]
        _by_state(axes, records, lambda r, name=name: _number_or_text(r.params.get(name)))
        dress(axes, title="", x=name, y=ERROR if place % columns == 0 else "")
        if name in logarithmic:
            axes.set_xscale("log")
    for place in range(len(names), rows * columns):
        grid[place // columns][place % columns].set_visible(False)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return png(figure)


def _number_or_text(value: object) -> Any:
    return (
        value
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool))
        else str(value)
    )


def curves(
    best: TrialRecord, others: Sequence[TrialRecord], points: Mapping[str, Sequence[tuple[int, float]]]
) -> bytes:
    """Validation error over epochs: the best trial in front, the others behind it."""
    figure = drawing(9, 4.2)
    axes = figure.subplots()
    for record in others:
        if not points[record.trial]:
            continue
        epochs, values = zip(*points[record.trial], strict=True)
        early = record.state != "completed"
        colour = ORANGE if early else "#9DB8D2"
        label = "stopped early" if early else "full budget"
        axes.plot(epochs, values, color=colour, lw=1, alpha=0.75, label=label)
        if early and record.state != "running":
            axes.plot(epochs[-1], values[-1], "x", color=colour, ms=6)
    if points[best.trial]:
        epochs, values = zip(*points[best.trial], strict=True)
        axes.plot(epochs, values, color=BLUE, lw=2.4, label=f"best: trial {best.trial}", zorder=4)
    dress(axes, title="", x="epoch", y=ERROR)
    whole_numbers(axes.xaxis)
    axes.set_ylim(bottom=0)
    handles, labels = axes.get_legend_handles_labels()
    shown = dict(zip(labels, handles, strict=True))
    axes.legend(shown.values(), shown.keys(), fontsize=9, frameon=False)
    return png(figure)


def best_run(reports: Sequence[Report], warmup: int, trial: str) -> bytes:
    """The best trial's error and losses."""
    return png(run_curves.learning_curves(reports, warmup=warmup))


def health(reports: Sequence[Report], warmup: int) -> bytes | None:
    """The best trial's pseudo-labels, class by class; None where its method makes none."""
    figure = run_curves.pseudo_label_health(reports, warmup=warmup)
    return None if figure is None else png(figure)


def seeds(confirmation: Mapping[str, Any]) -> bytes | None:
    """Test error of every final model, the models of one seed joined; None where there is none."""
    from tune.confirm import title

    rows = [row for row in confirmation["rows"] if row["test_error"]]
    if not rows:
        return None
    figure = drawing(9, 0.55 * len(rows) + 1.3)
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
            axes.plot(row["test_interval"], [place, place], color=colour, lw=5, alpha=0.25, zorder=2)
    axes.set_yticks(range(len(rows)), [title(row["who"]) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    dress(axes, title="", x="test images misclassified, % (bar: 95 % interval of the mean)", y="")
    axes.grid(False, axis="y")
    return png(figure)


def method_picture(folder: StudyFolder, record: TrialRecord) -> bytes | None:
    """What the method does to some validation images, as its trial kept it; None where it shows nothing."""
    return None
