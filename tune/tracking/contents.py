"""What runs hold besides parameters, metrics and states, as events of the log: figures, tables, a description.

A figure event says `figure` (what), `file` (its name among the run's artifacts) and what drawing needs besides the
log and the study's folder. The sender has it drawn (`tune.delivery.drawing`), when nothing else is owed.
Nothing is drawn here.

Thousands of trials stay cheap: one that was stopped or failed has its learning curves alone, and from the thousandth on
no figure; one that ran its whole budget also the health of its pseudo-labels and its method's own picture.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence

from ssl_core.training.warmups.names import is_shared
from tune.store.event_log import EventLog
from tune.store.events import NewEvent, Report
from tune.tracking.text import flat, parameter_text

FOLDER = "figures"
STUDY_FIGURES = ("optimisation_history", "parameter_importances", "slices", "learning_curves")

CURVES_OF_ALL = 1000
"""Trials of a study whose learning curves are drawn however they ended; of later ones only if they are completed."""


def is_drawn(trial: str, *, completed: bool) -> bool:
    """Whether an ended trial gets figures by itself: `ssl-tune figures NAME --trial T` draws any trial's."""
    return completed or not trial.isdigit() or int(trial) < CURVES_OF_ALL


def run_figures(
    run: str,
    reports: Sequence[Report],
    *,
    completed: bool,
    picture: str | None,
    warmup: int,
    test_confusion: Sequence[Sequence[int]] | None = None,
) -> list[NewEvent]:
    """The figures of a trial, or of a confirmation, that has ended.

    Args:
        run: its key.
        reports: what it reported; without any there is nothing to draw.
        completed: whether it ran its whole budget.
        picture: the file that `ssl_core.pictures.file` wrote, if any.
        warmup: epochs of its warm-up.
        test_confusion: the confusion matrix on the test images, where they were read.
    """
    if not reports or not _wanted():
        return []
    figures: list[dict[str, object]] = []
    if len(reports) > 1:  # a curve of one epoch is a point
        figures.append({"figure": "learning_curves", "warmup": warmup})
    if completed and any("accepted" in report.classes for report in reports):
        figures.append({"figure": "pseudo_labels", "warmup": warmup})
    if completed and any("confusion" in report.classes for report in reports):
        figures.append({"figure": "confusion"})
    if test_confusion is not None:
        figures.append({"figure": "confusion_test", "matrix": [list(row) for row in test_confusion]})
    if completed and picture is not None:
        figures.append({"figure": "picture", "path": picture})
    return [_event(run, figure) for figure in figures]


def shared_tags(reports: Sequence[Report]) -> dict[str, str]:
    """The tag of a run that took over a part of its warm-up: how many epochs. None of other runs."""
    shared = sum(is_shared(report.metrics) for report in reports)
    return {"ssl.warmup_shared": str(shared)} if shared else {}


def tell_summary(
    log: EventLog,
    study: str,
    *,
    best: Mapping[str, object],
    texts: Mapping[str, str],
    weights: Mapping[str, float],
    description: str,
) -> None:
    """What a study has come to, with its figures: told at the end of each sitting, and only where it is news.

    Args:
        log: the study's event log.
        study: its name.
        best: parameters of the best trial once the study is finished, logged as best.NAME.
        texts: files of the study's run by name, such as the table of its trials.
        weights: the share of each searched parameter in the differences between trials.
        description: see `describe`.
    """
    news = []
    for file, text in texts.items():
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        news.append(log.append("text", study, {"file": file, "text": text}, f"{study}:{file}:{digest}"))
    if any(news) and _wanted():
        # They take seconds to compute: whoever draws them need not do so once more.
        more: dict[str, dict[str, object]] = {"parameter_importances": {"shares": dict(weights)}}
        log.append_many([_event(study, {"figure": name, **more.get(name, {})}) for name in STUDY_FIGURES])
    if best:
        pairs = [[f"best.{name}", parameter_text(value)] for name, value in flat(best)]
        log.append("params", study, {"params": pairs}, f"{study}:best")
    describe(log, study, description)


def describe(log: EventLog, run: str, text: str) -> None:
    """Describe a run in words (Markdown): what the UI shows at its head; as for `tell_summary`, only news."""
    tags = {"mlflow.note.content": text}
    last = log.last(run, "tags")
    if last is None or last.payload["tags"] != tags:
        log.append("tags", run, {"tags": tags})


def _wanted() -> bool:
    """Whether figures are drawn for MLflow: SSL_TUNE_FIGURES=0 leaves them out."""
    return os.environ.get("SSL_TUNE_FIGURES", "1") != "0"


def _event(run: str, figure: dict[str, object]) -> NewEvent:
    return NewEvent("figure", run, {**figure, "file": f"{figure['figure']}.png"})
