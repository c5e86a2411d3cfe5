"""The runs of a study taken out of MLflow: marked as deleted there, as a click on "Delete" does."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ssl_core.system.faults import fault
from tune.delivery.mlflow_runs import RUN_ID
from tune.delivery.refusals import AwayError, RejectedError, judged
from tune.delivery.sender import _only_sender, configure_mlflow
from tune.errors import Exit, ServiceError
from tune.store.event_log import EventLog
from tune.store.layout import EVENTS_DB
from tune.tracking.destination import has_moved
from tune.tracking.uri import absolute_uri, sqlite_path
from tune.tracking.views import VIEW_TAG, view_key

SENDER_SECONDS = 30.0
"""How long a sender that still delivers is waited for: it would bring back what is deleted under its hands."""


def delete_runs(study_folder: Path, uri: str | None = None) -> int:
    """Delete a study's runs in MLflow, those of its confirmations included; returns how many were there.

    Doing it again deletes what is left. The study must not be driven meanwhile.

    Args:
        study_folder: its folder.
        uri: where it is tracked now: the log of a home that was copied still names the place of the other home's;
            None: where the log says.

    Raises:
        ServiceError: MLflow does not answer or refuses; or the study's sender is still at work.
    """
    if not (study_folder / EVENTS_DB).exists():
        return 0
    deadline = time.monotonic() + SENDER_SECONDS
    with _only_sender(study_folder, lambda: time.monotonic() < deadline) as alone:
        if not alone:
            raise ServiceError(
                f"the study {study_folder.name!r} is still being delivered to MLflow: nothing was deleted. Try again "
                "later.",
                Exit.IN_USE,
            )
        with EventLog(study_folder / EVENTS_DB, read_only=True) as log:
            before, experiment = log.get_meta("tracking_uri"), log.get_meta("experiment_id")
            key, noted = log.get_meta("study_id"), [run_id for _, run_id in log.metas(RUN_ID)]
            name = log.get_meta("experiment")
        if before is None or experiment is None:
            return 0
        now = before if uri is None else absolute_uri(uri)
        configure_mlflow()
        try:
            if now != before and not has_moved(before, now):
                experiment, noted = _experiment_named(now, name or ""), []
            return 0 if experiment is None else _delete(now, experiment, study_folder.name, f"{key}:", noted)
        except (AwayError, RejectedError) as error:
            raise ServiceError(
                f"the runs of {study_folder.name!r} cannot be deleted in MLflow ({error}). The study is still there; "
                "without --tracking it is deleted alone.",
                Exit.UNREACHABLE,
            ) from None


def _experiment_named(uri: str, name: str) -> str | None:
    """The id of an experiment; None where there is none, or no database yet."""
    from mlflow.tracking import MlflowClient  # loads MLflow

    file = sqlite_path(uri)
    if file is not None and not file.exists():
        return None
    with judged():
        experiment = MlflowClient(tracking_uri=uri).get_experiment_by_name(name)
    return None if experiment is None else str(experiment.experiment_id)


def _delete(uri: str, experiment: str, study: str, key: str, noted: list[str]) -> int:
    from mlflow.tracking import MlflowClient  # loads MLflow

    client = MlflowClient(tracking_uri=uri)
    deleted, tagged = 0, _tagged(client, experiment, study, key)
    for run_id in dict.fromkeys([*noted, *tagged]):
        try:
            if run_id not in tagged and not _is_in_use(client, run_id):
                continue
            with judged():
                client.delete_run(run_id)
                deleted += 1
        except RejectedError as rejection:
            if rejection.code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # gone already
                raise
        fault("delete:run")
    with judged():
        tags = client.get_experiment(experiment).tags
    for what in ("trials", "confirmed"):
        name = VIEW_TAG + view_key(study, what)
        if name in tags:
            with judged():
                client.set_experiment_tag(experiment, name, "{}")
    return deleted


def _is_in_use(client: Any, run_id: str) -> bool:
    """Whether a run has not been deleted; its tags may be gone."""
    with judged():
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")


def _tagged(client: Any, experiment: str, study: str, key: str) -> list[str]:
    """Runs in use that bear the study's name and its own key: also such as the log does not know."""
    found, token = [], None
    while True:
        with judged():
            page = client.search_runs([experiment], f"tags.ssl.study = '{study}'", page_token=token)
        found += [run.info.run_id for run in page if run.data.tags.get("ssl.run_key", "").startswith(key)]
        token = page.token
        if not token:
            return found
