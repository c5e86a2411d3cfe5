"""Where a study's events go: noted in its event log, for the sender and for a later `ssl-tune sync`."""

from __future__ import annotations

import uuid
from pathlib import Path

from tune.store.event_log import EventLog
from tune.store.layout import ARTIFACTS
from tune.tracking.uri import absolute_uri, check_tracking_uri, sqlite_path


def has_moved(noted: str | None, uri: str) -> bool:
    """Whether a database's file was moved with its home: it has all that was delivered before."""
    before, now = sqlite_path(noted or ""), sqlite_path(uri)
    return before is not None and now is not None and not before.exists() and now.exists()


def note_destination(
    log: EventLog,
    tracking_uri: str,
    experiment: str,
    artifact_root: Path | None = None,
    study_id: str | None = None,
) -> None:
    """Note where a study's events are to be delivered. Where that has changed, every event is owed again.

    Args:
        log: the study's event log.
        tracking_uri: where MLflow is.
        experiment: the MLflow experiment.
        artifact_root: where artifacts go in a local sqlite store; None: beside the database. Servers and other
            databases decide for themselves.
        study_id: what tells the study's runs in MLflow from those of another study of the same name, where the log has
            none yet; None: a random one.

    Raises:
        ConfigError: this cannot be a tracking URI.
    """
    check_tracking_uri(tracking_uri)
    uri = absolute_uri(tracking_uri)
    if log.get_meta("tracking_uri") not in (None, uri) and not has_moved(log.get_meta("tracking_uri"), uri):
        # Another store knows nothing of this study. Where it is the same one under a new name, sending
        # everything again changes nothing: runs are found by their keys, points are kept once.
        log.mark_all_undelivered()
        for note in ("experiment_id", "run_id:", "doubtful:"):
            log.drop_meta(note)
    database = sqlite_path(uri) if uri.startswith("sqlite") else None
    if artifact_root is None and database is not None:
        artifact_root = database.parent / ARTIFACTS
    log.set_meta("tracking_uri", uri)
    log.set_meta("experiment", experiment)
    log.set_meta("artifact_root", str(artifact_root.absolute()) if artifact_root and database else None)
    if log.get_meta("study_id") is None:
        # Two studies of one name (another home, or a folder thrown away) must not share MLflow runs.
        log.set_meta("study_id", study_id or uuid.uuid4().hex[:12])
