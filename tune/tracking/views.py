"""How MLflow's pages show a study: the experiment's kind, and saved views of its table of runs.

MLflow keeps a saved view as a tag of the experiment, ``mlflow.sharedViewState.KEY``, in JSON; a link names its KEY.
MLflow 3.17 reads from it what the table is filtered and sorted by, and its columns.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from tune.definition.objective import DEFAULT
from tune.definition.spec import StudySpec
from tune.store.events import NewEvent, now_ms

KIND_TAG, KIND = "mlflow.experimentKind", "custom_model_development"
"""Makes MLflow open the experiment on model training, not on chat traces."""
VIEW_TAG = "mlflow.sharedViewState."
MOST_SEARCHED = 12
"""Columns for searched parameters: a tag holds 5,000 characters."""


def view_key(study: str, what: str) -> str:
    """The key of a study's view: of its ``trials``, or of what was ``confirmed``."""
    return f"ssl-{hashlib.sha256(f'{study}/{what}'.encode()).hexdigest()[:16]}"


def study_views(spec: StudySpec) -> dict[str, str]:
    """Tags of a study's experiment: its kind, and the view of the study's trials."""
    searched = [p.name for p in spec.search_space().parameters]
    searched = ["warmup_epochs" if name == "warmup_share" else name for name in searched]
    params = list(dict.fromkeys(searched))[:MOST_SEARCHED]
    errors = ["val/error", *([spec.objective] if spec.objective != DEFAULT else [])]
    trials = _view(
        f"tags.ssl.study = '{spec.name}' AND tags.ssl.kind = 'trial'",
        order=spec.objective,
        tags=["ssl.stop_reason"],
        metrics=errors,
        params=params,
    )
    return {KIND_TAG: KIND, VIEW_TAG + view_key(spec.name, "trials"): trials}


def confirmation_view(spec: StudySpec) -> dict[str, str]:
    """The tag of the view of a study's confirmation, once there is one: nothing of a search speaks of test errors."""
    confirmed = _view(
        f"tags.ssl.study = '{spec.name}' AND tags.ssl.kind = 'confirm'",
        order="test/error",
        tags=["ssl.method"],
        metrics=["test/error", "val/error"],
        params=["seed"],
    )
    return {VIEW_TAG + view_key(spec.name, "confirmed"): confirmed}


def experiment_event(study: str, tags: Mapping[str, str]) -> NewEvent:
    """The event that sets tags of a study's experiment; the same tags make one event, however often they are told."""
    digest = hashlib.sha256(json.dumps(dict(tags), sort_keys=True).encode()).hexdigest()[:16]
    return NewEvent("experiment", study, {"tags": dict(tags)}, f"{study}:experiment:{digest}", now_ms())


def _view(
    searched: str, *, order: str, tags: Sequence[str], metrics: Sequence[str], params: Sequence[str]
) -> str:
    columns = [
        "attributes.`Duration`",
        *[f"tags.`{name}`" for name in tags],
        *[f"metrics.`{name}`" for name in metrics],
        *[f"params.`{name}`" for name in params],
    ]
    view = {
        "searchFilter": searched,
        "orderByKey": f"metrics.`{order}`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "columnOrder": columns,
    }
    return json.dumps(view, separators=(",", ":"))
