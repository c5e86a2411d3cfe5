"""Figures of a run over its epochs: learning curves, and number and accuracy of its pseudo-labels by class.

All errors and accuracies are those of the validation images, and say so; there is no curve of the test set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes

from ssl_core.measures import OVERCONFIDENT
from tune.figures.style import (
    BLACK,
    BLUE,
    CLASSES,
    GREEN,
    LIGHT,
    ORANGE,
    PURPLE,
    VERMILLION,
    Drawing,
    class_labels,
    drawing,
    dress,
    whole_numbers,
)

LINES = (
    ("val/loss", "validation (EMA model)", BLUE, "-"),
    ("train/loss", "training, as minimised", BLACK, "--"),
    ("train/loss_supervised", "its labelled part", GREEN, "-."),
    ("train/loss_unsupervised", "its unlabelled part, unweighted", ORANGE, ":"),
    ("train/loss_attention", "its attention part, unweighted", PURPLE, ":"),
    ("train/loss_entropy", "its entropy part", VERMILLION, ":"),
)
SELECTION = (
    ("train/threshold_highest", "highest threshold", BLACK, "--"),
    ("train/threshold_mean", "mean threshold", ORANGE, "-."),
    ("train/threshold_lowest", "lowest threshold", VERMILLION, ":"),
    ("train/confidence_mean", "mean confidence (mu)", ORANGE, "-."),
    ("train/weight_lowest", "lowest weight", VERMILLION, ":"),
)
"""What decides which pseudo-labels are used, of the methods where that moves during training: shares of 1."""
BALANCED = "val/error_balanced"
SAME = 0.005  # points: with as many validation images of every class the two errors are one curve
FEW_EPOCHS = 40  # a curve of at most this many epochs has a mark at each


class Reported(Protocol):
    """An epoch's report: `ssl_core.training.run.Report` and `tune.store.events.Report` both are."""

    @property
    def epoch(self) -> int: ...
    @property
    def metrics(self) -> Mapping[str, float]: ...
    @property
    def classes(self) -> Mapping[str, Sequence[int]]: ...


def learning_curves(reports: Sequence[Reported], *, title: str = "", warmup: int = 0) -> Drawing:
    """Validation error (and accuracy) and the losses over epochs, as in the published report's figures 1 to 4.

    Args:
        reports: one for each epoch.
        title: title of the whole figure.
        warmup: number of warm-up epochs, which are shaded.
    """
    figure = drawing(12.5, 4.2, title)
    errors, losses = figure.subplots(1, 2)
    _line(errors, reports, "val/error", "validation error (EMA model)", BLUE, "-")
    pairs = [(r.metrics.get(BALANCED), r.metrics.get("val/error")) for r in reports]
    if any(one is not None and other is not None and abs(one - other) > SAME for one, other in pairs):
        _line(errors, reports, BALANCED, "mean of the classes' errors", ORANGE, "--")
    dress(errors, title="Validation error", x="epoch", y="validation images misclassified, %")
    errors.set_ylim(bottom=0)
    accuracy = errors.secondary_yaxis("right", functions=(_complement, _complement))
    accuracy.set_ylabel("validation accuracy, %", fontsize=10)
    accuracy.tick_params(labelsize=9)
    for name, label, colour, style in LINES:
        _line(losses, reports, name, label, colour, style)
    dress(losses, title="Losses", x="epoch", y="nats")
    for axes in (errors, losses):
        _epochs(axes, reports, warmup)
    if errors.get_legend_handles_labels()[0]:  # none of a refit, which has no validation images
        errors.legend(fontsize=9, frameon=False)
    _legend_beside(losses, losses)
    return figure


def pseudo_label_health(
    reports: Sequence[Reported], *, classes: Sequence[str] = (), title: str = "", warmup: int = 0
) -> Drawing | None:
    """How many pseudo-labels were used and how many were right, in all and for each class; None without any.

    Where the unlabelled images have no true labels, nobody knows which are right, and that part is left out.

    Args:
        reports: one for each epoch.
        classes: names in the order of the labels; numbers where there are none.
        title: title of the whole figure.
        warmup: number of warm-up epochs, which are shaded.
    """
    with_labels = [r for r in reports if "accepted" in r.classes]
    if not with_labels:
        return None
    accepted = np.array([r.classes["accepted"] for r in with_labels], dtype=float)
    known = all("right" in r.classes for r in with_labels)
    right = np.array([r.classes["right"] for r in with_labels], dtype=float) if known else 0 * accepted
    accuracy = 100 * np.divide(right, accepted, out=np.full_like(right, np.nan), where=accepted > 0)
    epochs = [r.epoch for r in with_labels]
    names = class_labels(classes, accepted.shape[1])
    figure = drawing(15, 4.4, title)
    overall, counts, *rest = figure.subplots(1, 3 if known else 2)
    total = accepted.sum(axis=1)
    in_all = 100 * np.divide(right.sum(axis=1), total, out=np.full_like(total, np.nan), where=total > 0)
    mask = [100 * r.metrics["ssl/mask_rate"] for r in with_labels]
    marker = "o" if len(epochs) <= FEW_EPOCHS else None
    overall.plot(epochs, mask, color=BLUE, marker=marker, markersize=3, label="unlabelled images used")
    if known:
        overall.plot(
            epochs, in_all, color=GREEN, ls="--", marker=marker, markersize=3, label="of those, right"
        )
    for name, label, colour, style in SELECTION:
        _line(overall, with_labels, name, label, colour, style, factor=100)
    _line(overall, with_labels, "val/ece", "calibration error (validation)", BLACK, ":")
    beyond = with_labels[-1].metrics.get("val/overconfidence", 0.0)
    warning = f": overconfident by {beyond:.0f} points" if beyond >= OVERCONFIDENT else ""
    dress(overall, title=f"All pseudo-labels{warning}", x="epoch", y="%")
    overall.set_ylim(0, 102)
    _epochs(overall, reports, warmup)
    overall.legend(fontsize=9, frameon=False)
    draw = _class_lines if len(names) <= len(CLASSES) else _class_map
    draw(counts, epochs, accepted, names, "Pseudo-labels of each class", "images", None)
    for shares in rest:
        draw(shares, epochs, accuracy, names, "Right among them", "%", (0, 102))
    if draw is _class_lines:
        for axes in (counts, *rest):
            _epochs(axes, reports, warmup)
        _legend_beside((counts, *rest)[-1], counts)
    return figure


def _legend_beside(axes: Axes, of: Axes) -> None:
    """A legend to the right of `axes`, where it covers no line."""
    handles, labels = of.get_legend_handles_labels()
    axes.legend(handles, labels, fontsize=9, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.02))


def _complement(values: Any) -> Any:
    return 100 - values


def _line(
    axes: Axes,
    reports: Sequence[Reported],
    name: str,
    label: str,
    colour: str,
    style: str,
    factor: float = 1,
) -> None:
    points = [(r.epoch, factor * r.metrics[name]) for r in reports if name in r.metrics]
    if points:
        marker = "o" if len(reports) <= FEW_EPOCHS else None
        epochs, values = zip(*points, strict=True)
        axes.plot(epochs, values, color=colour, ls=style, marker=marker, markersize=3, label=label)


def _epochs(axes: Axes, reports: Sequence[Reported], warmup: int) -> None:
    """The epochs as x axis, the warm-up shaded."""
    last = max((r.epoch for r in reports), default=1)
    shown = min(warmup, last)
    if shown:
        axes.axvspan(0.5, shown + 0.5, color=LIGHT, zorder=0, label="warm-up: labelled images only")
    axes.set_xlim(0.5, last + 0.5)
    whole_numbers(axes.xaxis)


def _class_lines(
    axes: Axes,
    epochs: Sequence[int],
    values: Any,
    names: Sequence[str],
    title: str,
    unit: str,
    limits: tuple[float, float] | None,
) -> None:
    for number, name in enumerate(names):
        style = ("-", "--")[number % 2]
        axes.plot(epochs, values[:, number], color=CLASSES[number], ls=style, lw=1.6, marker=".", label=name)
    dress(axes, title=title, x="epoch", y=unit)
    axes.set_ylim(*(limits or (0, None)))


def _class_map(
    axes: Axes,
    epochs: Sequence[int],
    values: Any,
    names: Sequence[str],
    title: str,
    unit: str,
    limits: tuple[float, float] | None,
) -> None:
    """More classes than lines can be told apart: a row for each."""
    extent = (min(epochs) - 0.5, max(epochs) + 0.5, len(names) - 0.5, -0.5)
    low, high = limits or (0, None)
    drawn = axes.imshow(
        values.T, aspect="auto", cmap="cividis", extent=extent, vmin=low, vmax=high, interpolation="nearest"
    )
    dress(axes, title=title, x="epoch", y="class (number)")
    axes.grid(False)
    whole_numbers(axes.xaxis)
    whole_numbers(axes.yaxis)
    axes.figure.colorbar(drawn, ax=axes, label=unit)
