"""What a confirmation found, kept: in the study's folder, and in its tracking."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from search_spaces import dump_yaml
from ssl_core.system.files import write_atomically
from tune.confirmation.document import FinalTraining
from tune.confirmation.trainings import Trained
from tune.findings.confirmation import PLAIN, TUNED
from tune.findings.study import Study
from tune.store.layout import CONFIRM_FILE
from tune.tracking.tracker import Tracker
from tune.tracking.views import confirmation_view, experiment_event


def keep(document: dict[str, Any], study: Study, tracker: Tracker) -> None:
    """Write what was found into the study's folder; it is an artifact of the study's run, too."""
    path = study.folder.path / CONFIRM_FILE
    write_atomically(path, json.dumps(document, indent=1).encode())
    tracker.artifact(None, path)
    tracker.log.append_many([experiment_event(study.spec.name, confirmation_view(study.spec))])


def track(tracker: Tracker, task: FinalTraining, outcome: Trained) -> None:
    """Each confirmation is a run below its trial's (the baseline's below the study's), at the time it was trained.

    It is written when the training has ended, or later, by a `confirm` that finds it done.
    """
    run = task.run
    document = task.config.document()
    result = outcome.result or {}
    tracker.trial_started(
        run,
        {"seed": task.config.seed, "data.label_seed": task.config.data.label_seed},
        {k: v for k, v in document.items() if k != "method"},
        dump_yaml(document),
        parent=None if task.who in (PLAIN, TUNED) else task.who,
        tags={"ssl.method": task.config.method, "ssl.split_hash": result.get("split_hash", "")},
        time_ms=outcome.began_ms,
    )
    for report in outcome.reports:
        tracker.report(
            run, report.epoch, report.metrics, time_ms=report.time_ms or None, classes=report.classes
        )
    tracker.trial_ended(
        run,
        "completed" if outcome.problem is None else "nan",
        summary=_test_metrics(result),
        test_confusion=result.get("test_confusion"),
        error=outcome.problem,
        time_ms=outcome.ended_ms,
        warmup=outcome.warmup,
    )


def _test_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """The reading of the test set as metrics of the run; none where the training failed."""
    fields = {"test/error": "test_error", "test/error_balanced": "test_error_balanced"}
    return {name: float(result[field]) for name, field in fields.items() if field in result}
