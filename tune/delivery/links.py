"""Links into MLflow's pages: a study's trials, its five best side by side, its confirmed models. Loads no MLflow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import quote, urlencode

from tune.delivery.mlflow_runs import RUN_ID
from tune.store.event_log import EventLog
from tune.store.study_folder import StudyFolder
from tune.tracking.views import view_key

TRAINING = "machine_learning"
"""MLflow's pages for model training, as its links name them."""


def study_links(folder: StudyFolder, study: str, best: Sequence[str], base: str) -> dict[str, str]:
    """Links by what they show; none where MLflow does not have the study yet.

    Args:
        folder: the study's.
        study: its name.
        best: its best trials, the best first.
        base: where MLflow answers, such as ``http://127.0.0.1:5000``.

    Returns:
        ``trials``; ``best``, where MLflow has two of these at least; ``confirmed``, where something was confirmed.
    """
    if not folder.events_db.exists():
        return {}
    with EventLog(folder.events_db, read_only=True) as log:
        experiment = log.get_meta("experiment_id")
        runs = {key.removeprefix(RUN_ID): run_id for key, run_id in log.metas(RUN_ID)}
        has_views = log.last(study, "experiment") is not None  # it has none from before there were views
    if not has_views or experiment is None or study not in runs:
        return {}
    links = {"trials": _view(base, experiment, study, "trials")}
    compared = [runs[f"{study}/{trial}"] for trial in best if f"{study}/{trial}" in runs]
    if len(compared) > 1:
        asked = {"runs": json.dumps(compared), "experiments": json.dumps([experiment])}
        links["best"] = (
            f"{base}/#/compare-runs?{urlencode(asked | {'workflowType': TRAINING}, quote_via=quote)}"
        )
    if any("/confirm-" in run for run in runs):
        links["confirmed"] = _view(base, experiment, study, "confirmed")
    return links


def _view(base: str, experiment: str, study: str, what: str) -> str:
    asked = {"viewStateShareKey": view_key(study, what), "workflowType": TRAINING}
    return f"{base}/#/experiments/{quote(experiment)}/runs?{urlencode(asked)}"
