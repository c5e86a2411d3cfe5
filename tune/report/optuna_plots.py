"""Optuna's own plots, drawn by its matplotlib backend and brought to the page's size."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import optuna
from optuna.trial import TrialState

from tune.spec import read_spec
from tune.storage import open_storage
from tune.study import StudyFolder

ENOUGH = 4
"""Full-budget trials from which on importance and contours say anything."""
CONTOURS = 4
"""Parameters in a contour plot at most: it draws every pair."""


def load(folder: StudyFolder, name: str) -> optuna.Study:
    """The study as Optuna has it, with its full-budget trials only."""
    storage = open_storage(folder, read_spec(folder.path).storage)
    whole = optuna.load_study(study_name=name, storage=storage)
    trials = whole.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    study = optuna.create_study(direction="minimize")
    study.add_trials(trials)
    return study


def importance(study: optuna.Study) -> bytes | None:
    """Parameter importance; None where the trials do not differ enough to tell."""
    try:
        return _drawn(
            lambda plot: plot.plot_param_importances(study), 8.0, 0.6 * len(study.best_params) + 1.3
        )
    except (ValueError, RuntimeError, ZeroDivisionError):  # all values or all parameters equal
        return None


def contour(study: optuna.Study, names: Sequence[str]) -> bytes:
    """Contours of the error over pairs of parameters, the most important ones where there are many."""
    shown = list(names)[:CONTOURS]
    side = 4.2 if len(shown) == 2 else 2.6 * len(shown)
    return _drawn(lambda plot: plot.plot_contour(study, params=shown), side + 2.6, side)


def _drawn(draw: Any, width: float, height: float) -> bytes:
    """What a plotting function draws, as PNG, without touching anyone's backend or style for good."""
    before = mpl.get_backend()
    mpl.use("Agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as plot

    try:
        with warnings.catch_warnings(), pyplot.rc_context():
            warnings.simplefilter("ignore")  # they are marked experimental, and say where points coincide
            drawn = draw(plot)
            axes = drawn if hasattr(drawn, "figure") else drawn.flat[0]
            figure = axes.figure
            figure.set_size_inches(width, height)
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight", facecolor="white")
            pyplot.close(figure)
    finally:
        mpl.use(before)
    return buffer.getvalue()
