"""Figures by the data on their axes: curves, classes, pictures, and those of a whole study."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ssl_core.methods.base import Panel
from ssl_core.pictures.file import Picture
from tune.figures.confusion import confusion_matrix, last_matrix
from tune.figures.curves import learning_curves, pseudo_label_health
from tune.figures.gallery import gallery
from tune.figures.study import optimisation_history, parameter_importances, slices, study_curves
from tune.figures.style import VERMILLION, png
from tune.store.events import Report
from tune.trials.record import TrialRecord


def reports(classes: int = 2) -> list[Report]:
    """A warm-up of one epoch, then two with pseudo-labels; class 1 gets none at first."""
    rows = [
        ({"val/error": 50.0, "val/loss": 1.5, "train/loss": 2.0}, {}),
        (
            {"val/error": 40.0, "val/loss": 1.2, "train/loss": 1.0, "ssl/mask_rate": 0.25},
            {"accepted": [8] + [0] * (classes - 1), "right": [6] + [0] * (classes - 1)},
        ),
        (
            {"val/error": 30.0, "val/loss": 1.0, "train/loss": 0.5, "ssl/mask_rate": 0.5},
            {"accepted": [10] + [10] * (classes - 1), "right": [9] + [5] * (classes - 1)},
        ),
    ]
    return [Report(epoch, 0, *row) for epoch, row in enumerate(rows, 1)]


def lines(axes: object) -> dict[str, tuple[list[float], list[float]]]:
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.get_lines()  # type: ignore[attr-defined]
    }


def test_learning_curves_show_validation_error_and_losses_by_epoch() -> None:
    figure = learning_curves(reports(), title="a title", warmup=1)
    errors, losses = figure.axes[:2]
    assert lines(errors) == {"validation error (EMA model)": ([1, 2, 3], [50.0, 40.0, 30.0])}
    assert "validation" in errors.get_title("left").lower() and errors.get_ylabel().endswith("%")
    assert lines(losses) == {
        "validation (EMA model)": ([1, 2, 3], [1.5, 1.2, 1.0]),
        "training, as minimised": ([1, 2, 3], [2.0, 1.0, 0.5]),
    }
    (accuracy,) = errors.child_axes
    figure.canvas.draw()
    low, high = errors.get_ylim()
    assert sorted(accuracy.get_ylim()) == pytest.approx([100 - high, 100 - low])
    at = [axes.transData.transform((0, value))[1] for axes, value in ((errors, 30.0), (accuracy, 70.0))]
    assert at[0] == pytest.approx(at[1])
    (shaded,) = errors.patches
    assert (shaded.get_x(), shaded.get_width()) == (0.5, 1.0)
    assert figure.get_suptitle() == "a title"
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_pseudo_labels_are_shown_in_all_and_class_by_class() -> None:
    figure = pseudo_label_health(reports(), classes=["cat", "dog"], warmup=1)
    assert figure is not None
    overall, counts, shares = figure.axes
    assert lines(overall) == {
        "unlabelled images used": ([2, 3], [25.0, 50.0]),
        "of those, right": ([2, 3], [75.0, 70.0]),
    }
    assert lines(counts) == {"cat": ([2, 3], [8.0, 10.0]), "dog": ([2, 3], [0.0, 10.0])}
    drawn = lines(shares)
    assert drawn["cat"] == ([2, 3], [75.0, 90.0])
    assert np.isnan(drawn["dog"][1][0]) and drawn["dog"][1][1] == 50.0  # none accepted: no accuracy


def test_what_decides_which_pseudo_labels_are_used_is_drawn_beside_them() -> None:
    rows = [
        Report(n, n, {"ssl/mask_rate": 0.5, "train/threshold_mean": t}, {"accepted": [1, 1]})
        for n, t in ((1, 0.25), (2, 0.75))
    ]
    figure = pseudo_label_health(rows)
    assert figure is not None
    assert lines(figure.axes[0])["mean threshold"] == ([1, 2], [25.0, 75.0])


@pytest.mark.parametrize(("beyond", "said"), [(17.2, ": overconfident by 17 points"), (9.9, "")])
def test_pseudo_labels_are_shown_with_the_calibration_error_and_a_warning(beyond: float, said: str) -> None:
    measured = {"ssl/mask_rate": 0.8, "val/ece": 18.0, "val/overconfidence": beyond}
    figure = pseudo_label_health([Report(n, n, measured, {"accepted": [1, 1]}) for n in (1, 2)])
    assert figure is not None
    assert lines(figure.axes[0])["calibration error (validation)"] == ([1, 2], [18.0, 18.0])
    assert figure.axes[0].get_title("left") == f"All pseudo-labels{said}"


def test_the_balanced_error_has_a_line_where_it_is_another_curve() -> None:
    rows = [Report(n, 0, {"val/error": 50.0, "val/error_balanced": v}) for n, v in ((1, 50.0), (2, 60.0))]
    drawn = lines(learning_curves(rows).axes[0])
    assert drawn["mean of the classes' errors"] == ([1, 2], [50.0, 60.0])
    assert len(lines(learning_curves(rows[:1]).axes[0])) == 1


def test_a_confusion_matrix_shows_counts_shares_and_the_error_of_each_class() -> None:
    figure = confusion_matrix([[3, 1, 0], [0, 4, 0], [0, 0, 0]], classes=["cat", "dog", "fox"], images="test")
    cells, bars = figure.axes[:2]
    shares = cells.get_images()[0].get_array()
    assert shares[:2].tolist() == [[75.0, 25.0, 0.0], [0.0, 100.0, 0.0]]
    assert np.isnan(np.array(shares[2], dtype=float)).all()  # no image of this class
    assert [text.get_text() for text in cells.texts] == ["3", "1", "4"]
    assert [text.get_text() for text in cells.get_yticklabels()] == ["cat", "dog", "fox"]
    assert cells.get_title("left") == "Confusion matrix, test images"
    assert [bar.get_width() for bar in bars.patches] == [25.0, 0.0, 0.0]
    (mean,) = bars.get_lines()
    assert mean.get_label() == "mean of the classes: 12.50 %"
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_hundred_classes_are_drawn_without_names_and_counts() -> None:
    figure = confusion_matrix((7 * np.eye(100, dtype=int)).tolist())
    assert not figure.axes[0].texts and figure._repr_png_().startswith(b"\x89PNG")


def test_a_class_may_be_called_anything(recwarn: pytest.WarningsRecorder) -> None:
    names = ["猫", "$5_a and $6", "_hidden"]
    figure = confusion_matrix([[5, 1, 0], [2, 4, 0], [1, 0, 3]], classes=names)
    png(figure)  # a formula that cannot be read would raise here, and a letter without a shape would warn
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [
        "U+732B",
        r"\$5_a and \$6",
        "\N{HAIR SPACE}_hidden",
    ]
    lines = pseudo_label_health(reports(3), classes=names)
    assert lines is not None
    png(lines)
    (legend,) = [axes.get_legend() for axes in lines.axes[1:] if axes.get_legend() is not None]
    assert len(legend.get_texts()) == 3  # matplotlib leaves out names that begin with an underscore
    assert not [warning for warning in recwarn if "lyph" in str(warning.message)]


def test_the_matrix_is_that_of_the_last_epoch() -> None:
    earlier = Report(1, 0, {}, {"confusion": [1, 0, 0, 1]})
    assert last_matrix([earlier, Report(2, 0, {}, {"confusion": [2, 1, 0, 3]})]) == [[2, 1], [0, 3]]
    assert last_matrix([earlier, Report(2, 0, {}, {})]) is None and last_matrix([]) is None


def test_many_classes_are_rows_of_a_map() -> None:
    figure = pseudo_label_health(reports(30))
    assert figure is not None
    counts, shares = (figure.axes[place].get_images()[0].get_array() for place in (1, 2))
    assert counts.shape == (30, 2)
    assert counts[:, 0].tolist() == [8.0] + [0.0] * 29 and set(counts[:, 1].tolist()) == {10.0}
    assert shares[0].tolist() == [75.0, 90.0] and shares[1][1] == 50.0


def test_a_method_without_pseudo_labels_has_no_figure_of_them() -> None:
    assert pseudo_label_health(reports()[:1]) is None


def test_a_gallery_shows_every_panel_of_every_image() -> None:
    random = np.random.default_rng(0)
    images = random.random((2, 4, 4, 3)).astype(np.float32)
    difference = np.zeros((2, 4, 4, 3), np.float32)
    difference[0, 0, 0, 0], difference[1, 1, 1, 1] = 0.2, -0.1
    attention = np.array([[[0.5, np.nan], [0.25, 0.25]], [[1.0, 0.0], [0.0, 0.0]]], np.float32)
    panels = (
        Panel("original", "image", images, ("cat 0.90", "cat 0.60"), (True, False)),
        Panel("perturbation", "difference", difference, ("KL 1", "KL 2")),
        Panel("attention", "map", attention, ("", ""), beneath=images),
    )
    figure = gallery(Picture("vat", 3, ("cat", "dog"), panels))
    grid = np.array(figure.axes).reshape(3, 2)
    for column in range(2):
        assert np.array_equal(grid[0, column].get_images()[0].get_array(), images[column])
        assert grid[0, column].get_title() == f"true: {('cat', 'dog')[column]}"
        expected = 0.5 + difference[column] / 0.4  # the largest change of all reaches white or black
        assert np.allclose(grid[1, column].get_images()[0].get_array(), expected)
        beneath, drawn = grid[2, column].get_images()
        assert np.allclose(beneath.get_array(), images[column].mean(axis=2))
        assert np.allclose(np.ma.filled(drawn.get_array(), np.nan), attention[column], equal_nan=True)
        assert drawn.get_extent() == [-0.5, 3.5, 3.5, -0.5]
    assert [axes.get_xlabel() for axes in grid[0]] == ["cat 0.90", "cat 0.60"]
    assert grid[0, 1].xaxis.label.get_color() == VERMILLION != grid[0, 0].xaxis.label.get_color()


def record(number: int, state: str, error: float | None, **params: object) -> TrialRecord:
    reason = {"completed": "completed", "stopped_early": "asha", "failed": "nan"}.get(state)
    return TrialRecord(str(number), state, reason, error, 1.0, 3, 2, 1.0, params)


RECORDS = [
    record(0, "completed", 30.0, lr=0.1, kind="a"),
    record(1, "stopped_early", 60.0, lr=0.001, kind="b"),
    record(2, "completed", 20.0, lr=0.01, kind="b"),
    record(3, "failed", None, lr=1.0, kind="a"),
    record(4, "completed", 25.0, lr=0.02, kind="a"),
]


def offsets(axes: object) -> dict[str, list[tuple[float, float]]]:
    return {
        drawn.get_label(): [(float(x), float(y)) for x, y in np.asarray(drawn.get_offsets())]
        for drawn in axes.collections  # type: ignore[attr-defined]
    }


def test_the_history_marks_how_trials_ended_and_the_best_so_far() -> None:
    figure = optimisation_history(RECORDS)
    assert figure is not None
    (axes,) = figure.axes
    assert offsets(axes) == {
        "ran the full budget": [(0, 30.0), (2, 20.0), (4, 25.0)],
        "stopped early, its last error": [(1, 60.0)],
    }
    assert lines(axes) == {"best so far at full budget": ([0, 2, 4], [30.0, 20.0, 20.0])}
    assert optimisation_history(RECORDS[3:4]) is None


def test_values_below_zero_are_within_the_axes() -> None:
    """Log odds plus log loss of a good trial is negative."""
    values = {"0": -2.5, "1": 0.5, "2": -3.0}
    records = [
        replace(r, objective="val/error_and_loss", val_error_and_loss=values[r.trial])
        for r in RECORDS
        if r.trial in values
    ]
    for figure in (optimisation_history(records), slices(records)):
        assert figure is not None
        assert all(axes.get_ylim()[0] < -3.0 for axes in figure.axes)
    plain = optimisation_history(RECORDS)
    assert plain is not None and plain.axes[0].get_ylim()[0] == 0


def test_slices_show_errors_by_parameter_on_its_own_scale() -> None:
    figure = slices(RECORDS, log=["lr"])
    assert figure is not None
    rate, kind = figure.axes
    assert rate.get_xscale() == "log" and kind.get_xscale() == "linear"
    assert offsets(rate)["ran the full budget"] == [(0.1, 30.0), (0.01, 20.0), (0.02, 25.0)]
    assert offsets(kind)["stopped early, its last error"] == [(1.0, 60.0)]
    assert [label.get_text() for label in kind.get_xticklabels()] == ["a", "b"]


def test_importances_are_bars_in_percent() -> None:
    figure = parameter_importances({"lr": 0.75, "kind": 0.25})
    assert figure is not None
    (axes,) = figure.axes
    bars = {
        label.get_text(): bar.get_width()
        for label, bar in zip(axes.get_yticklabels(), axes.patches, strict=True)
    }
    assert bars == {"lr": 75.0, "kind": 25.0}
    assert parameter_importances({}) is None


def test_a_study_s_curves_set_off_the_best_trial() -> None:
    figure = study_curves(RECORDS, {r.trial: reports() for r in RECORDS if r.trial != "3"})
    assert figure is not None
    drawn = lines(figure.axes[0])
    assert drawn["best: trial 2"] == ([1, 2, 3], [50.0, 40.0, 30.0])
    assert len(figure.axes[0].get_lines()) == 4
