"""A study's event log and tracker, as its driver opens them. Loads neither torch, Ray nor MLflow."""

from __future__ import annotations

from tune.definition.spec import StudySpec
from tune.store.event_log import EventLog
from tune.store.home import Home
from tune.store.study_folder import StudyFolder
from tune.tracking.destination import note_destination
from tune.tracking.sender_process import SenderProcess
from tune.tracking.text import dataset_input
from tune.tracking.tracker import Tracker

ABOVE = "above"
"""A note in the log of a study that takes part in a comparison: the key of the comparison's run in MLflow."""
BELOW = "below"
"""A note in the log of a comparison: the keys of its studies' runs in MLflow, a list in JSON."""


def open_log(folder: StudyFolder, shared: bool | None = None) -> EventLog:
    """The study's event log, to be written by its driver; `shared` where other machines read it meanwhile."""
    return EventLog(folder.events_db, shared=shared)


def note_where(log: EventLog, spec: StudySpec, home: Home) -> None:
    """Note in the log where the study's sender delivers, before anything else is known."""
    # The study's own id, so that a log that is made again finds the runs that MLflow has.
    note_destination(log, spec.tracking_uri, spec.experiment, home.artifacts, spec.uid[:12] or None)


def open_tracker(log: EventLog, spec: StudySpec, home: Home, sender: SenderProcess | None = None) -> Tracker:
    """The driver's side of tracking, with the tags that every run of the study bears.

    Args:
        log: the study's event log.
        spec: the study; its split, where it has one yet, is a tag.
        home: the home folder.
        sender: as for `Tracker`.
    """
    note_where(log, spec, home)
    return Tracker(
        log,
        study=spec.name,
        tracking_uri=spec.tracking_uri,
        experiment=spec.experiment,
        common_tags={
            "ssl.study": spec.name,
            "ssl.method": spec.config["method"],
            "ssl.dataset": spec.dataset_tag,
            "ssl.protocol": spec.protocol,
            "ssl.labels": str(spec.config["labels"]),
            "ssl.split_hash": spec.split_hash or "",
            **_of_folds(spec),
        },
        dataset=dataset_input(
            spec.dataset_tag,
            spec.config["dataset"],
            labelled=spec.config["labels"],
            valid=spec.config["data"]["valid"],
        ),
        artifact_root=home.artifacts,
        sender=sender,
    )


def _of_folds(spec: StudySpec) -> dict[str, str]:
    """Tags of a study with several folds: how many, and the split of each further one."""
    if spec.folds == 1:
        return {}
    hashes = {f"ssl.split_hash_fold_{fold}": one for fold, one in enumerate(spec.fold_hashes, start=1)}
    return {"ssl.folds": str(spec.folds), **hashes}
