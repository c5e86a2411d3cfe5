"""A study's trials in Optuna, made again from its event log."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from search_spaces import load_yaml
from search_spaces.ranges import EPOCHS, SHARE
from ssl_core.registry import get_method
from tune.definition.points import check_points
from tune.definition.spec import StudySpec
from tune.store.event_log import EventLog
from tune.store.events import Report
from tune.store.integrity import whole
from tune.store.study_folder import StudyFolder
from tune.trials.handover import warm_trials
from tune.trials.optuna_storage import open_storage
from tune.trials.record import ENQUEUED, deviation_so_far, folds_so_far, shared_so_far
from tune.trials.stored import own_study, verdict


def remake_trials(folder: StudyFolder, spec: StudySpec, log: EventLog) -> int:
    """Put the trials that the event log knows into a new storage; returns how many there are.

    A number that the log does not know (a trial that was asked for and had not begun) is taken by an empty trial that
    counts for nothing: another one is asked for.

    Args:
        folder: the study's folder, without a storage.
        spec: the study.
        log: its event log.

    Raises:
        DamagedError: the log does not hold what a trial began with.
    """
    begun = log.trials(spec.name)
    storage = open_storage(folder, shared=spec.address is not None)
    try:
        study_id = own_study(storage, spec)
        distributions = spec.search_space().distributions(spec.config["epochs"])
        if spec.warm_start is not None:
            for trial in warm_trials(folder, spec, distributions):
                storage.create_new_trial(study_id, trial)
        for number in range(storage.get_n_trials(study_id), max(begun, default=-1) + 1):
            with whole(log.path):
                made = _trial(spec, log, number) if number in begun else create_trial(state=TrialState.FAIL)
            _put(storage, study_id, made)
    finally:
        storage.engine.dispose()
    return len(begun)


def _put(storage: RDBStorage, study_id: int, trial: FrozenTrial) -> None:
    storage.create_new_trial(study_id, trial)


def _trial(spec: StudySpec, log: EventLog, number: int) -> FrozenTrial:
    run = f"{spec.name}/{number}"
    config = log.find(f"{run}:config")
    if config is None:
        raise ValueError(f"trial {number} has no configuration")
    document = load_yaml(str(config.payload["text"]), f"{log.path}: trial {number}")
    params = _searched(spec, document, number)
    reports, reason = log.reports(run), _end(log, run)
    warmup = int(document["warmup_epochs"]) if _has_warmup(spec) else 0
    values = {r.epoch - warmup: r.metrics[spec.objective] for r in reports if r.epoch > warmup}
    known = {step: value for step, value in values.items() if math.isfinite(value)}
    attributes: dict[str, Any] = {}
    if reports:
        attributes["last"] = _last(reports, warmup, reason, int(spec.config["epochs"]))
    start = log.find(f"{run}:start")
    tags: Any = {} if start is None else start.payload["tags"]
    if tags.get("ssl.origin") == "user":
        attributes[ENQUEUED] = True
    if reason is not None:
        attributes["stop_reason"] = reason
        if (error := log.last_text(run, "error.txt")) is not None:
            attributes["error"] = error[-4000:]
    trial = create_trial(
        state=TrialState.RUNNING,
        params=params,
        distributions=spec.search_space().distributions(spec.config["epochs"]),
        user_attrs=attributes,
        intermediate_values=known,
    )
    if reason is None:
        return trial
    state, end = verdict(trial, reason, spec.objective, trial.distributions)
    ended = create_trial(
        state=state,
        values=end,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs=attributes,
        intermediate_values=known,
    )
    for name, value in trial.constraints.items():
        ended.set_constraint(name, value)
    return ended


def _searched(spec: StudySpec, document: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The searched values in a trial's configuration, in the space's own names."""
    space = spec.search_space()
    point: dict[str, Any] = {}
    for parameter in space.parameters:
        name = EPOCHS if parameter.name == SHARE else parameter.name
        section, dot, key = name.partition(".")
        point[name] = document[section][key] if dot else document[name]
    return check_points([point], space, spec.config["epochs"], f"trial {number}")[0]


def _has_warmup(spec: StudySpec) -> bool:
    return get_method(spec.config["method"], spec.config.get("method_digest")).has_warmup


def _end(log: EventLog, run: str) -> str | None:
    """Why a trial has ended for good; None where it waits to be carried on."""
    last = log.last(run, "status")
    tags: Any = {} if last is None else last.payload["tags"]
    reason: str | None = tags.get("ssl.stop_reason")
    return reason


def _last(reports: list[Report], warmup: int, reason: str | None, epochs: int) -> dict[str, Any]:
    """What `tune.engine.recorder` notes of a trial's last epoch."""
    last = reports[-1]
    shared: dict[str, Any] = {}
    folds: dict[str, Any] = {}
    for report in reports:
        shared = shared_so_far(shared, report.metrics)
        folds = folds_so_far(folds, report.metrics, epoch=report.epoch, epochs=epochs)
    summary = {
        "epoch": last.epoch,
        "ssl_epoch": last.epoch - warmup if last.epoch > warmup else None,
        "val_error": last.metrics["val/error"],
        "val_error_balanced": last.metrics.get("val/error_balanced"),
        "deviation": deviation_so_far(last.classes, len(folds.get("folds", ()))),
        "val_loss": last.metrics["val/loss"],
        "val_error_and_loss": last.metrics.get("val/error_and_loss"),
        "seconds": sum(r.metrics.get("time/epoch_seconds", 0.0) for r in reports),
        **shared,
        **folds,
        "stop_reason": reason,
    }
    json.dumps(summary)  # as Optuna keeps it
    return summary
