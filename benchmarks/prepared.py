"""Many ended trials written straight into a study's storages, so that what comes after them can be measured at once.

Their parameters are drawn at random, their curves as `benchmarks.scale` draws them, and two thirds of those that come
to a rung end there. Rows are of the kinds and sizes that a driver writes.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.samplers import RandomSampler
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import insert

from search_spaces import dump_yaml
from tune.definition.rungs import rungs
from tune.definition.spec import StudySpec
from tune.store.event_log import EventLog
from tune.store.events import NewEvent, row_of
from tune.store.study_folder import StudyFolder
from tune.trials.optuna_storage import open_storage

CHUNK = 2000
"""Trials that are written in one transaction."""
METRICS = 10
FIRST_EVENT = 1000
"""Those of the study itself come before it."""


def prepare(folder: StudyFolder, spec: StudySpec, log: EventLog, count: int, seed: int = 1) -> None:
    """Write `count` ended trials into a study that has none.

    Args:
        folder: the study's, with its tables.
        spec: the study.
        log: its event log.
        count: how many trials.
        seed: of what is drawn.
    """
    storage = open_storage(folder, None, shared=False)
    study_id = storage.get_study_id_from_name(spec.name)
    numbers = itertools.count(FIRST_EVENT)
    drawn, text = _drawn(spec, count, random.Random(seed), seed), dump_yaml(dict(spec.config))
    while chunk := list(itertools.islice(drawn, CHUNK)):
        tables: dict[Any, list[dict[str, Any]]] = {}
        for trial in chunk:
            for model, row in _rows(spec, study_id, trial):
                tables.setdefault(model, []).append(row)
        with storage.engine.begin() as connection:
            for model, rows in tables.items():
                connection.execute(insert(model.__table__), rows)
        events = (event for trial in chunk for event in _events(spec, trial, text))
        log.take(((next(numbers), *row_of(event), None, None) for event in events), [])
    storage.engine.dispose()


def _drawn(spec: StudySpec, count: int, chance: random.Random, seed: int) -> Iterator[dict[str, Any]]:
    """Trials: number, parameters, the warm-up's epochs, errors of their epochs, and why they ended."""
    epochs, space = int(spec.config["epochs"]), spec.search_space()
    distributions, places = space.distributions(epochs), rungs(epochs)
    study = optuna.create_study(sampler=RandomSampler(seed=seed))
    trial = study.ask()
    sampler = RandomSampler(seed=seed)
    for number in range(count):
        frozen = study._storage.get_trial(trial._trial_id)
        params = {
            name: sampler.sample_independent(study, frozen, name, each)
            for name, each in distributions.items()
        }
        resolved = space.resolve(params, epochs)
        warmup = int(resolved["warmup_epochs"])
        floor = 8 + 60 * abs(resolved["pseudo_label.threshold"] - 0.9) + 0.5 * warmup + chance.gauss(0, 1)
        length = next((warmup + place for place in places if chance.random() < 2 / 3), epochs)
        length = min(length, epochs)
        errors = [
            floor + (90 - floor) * math.exp(-0.5 * (n + 1)) + chance.gauss(0, 0.5) for n in range(length)
        ]
        yield {
            "number": number,
            "params": params,
            "distributions": distributions,
            "resolved": resolved,
            "warmup": warmup,
            "errors": errors,
            "reason": "completed" if length == epochs else "asha",
        }


def _rows(spec: StudySpec, study_id: int, trial: Mapping[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A trial's rows in Optuna's tables."""
    identity, errors, warmup = trial["number"] + 1, trial["errors"], trial["warmup"]
    state = TrialState.COMPLETE if trial["reason"] == "completed" else TrialState.PRUNED
    yield (
        models.TrialModel,
        {"trial_id": identity, "number": trial["number"], "study_id": study_id, "state": state},
    )
    for name, value in trial["params"].items():
        kind = trial["distributions"][name]
        row = {"param_value": kind.to_internal_repr(value), "distribution_json": distribution_to_json(kind)}
        yield models.TrialParamModel, {"trial_id": identity, "param_name": name, **row}
    for step, error in enumerate(errors[warmup:], 1):
        kind = models.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE
        row = {"trial_id": identity, "step": step, "intermediate_value": error}
        yield models.TrialIntermediateValueModel, row | {"intermediate_value_type": kind}
    finite = models.TrialValueModel.TrialValueType.FINITE
    yield (
        models.TrialValueModel,
        {"trial_id": identity, "objective": 0, "value": errors[-1], "value_type": finite},
    )
    summary = {
        "epoch": len(errors),
        "ssl_epoch": len(errors) - warmup or None,
        "val_error": errors[-1],
        "val_error_balanced": None,
        "deviation": None,
        "val_loss": errors[-1] / 40,
        "seconds": float(len(errors)),
        "stop_reason": trial["reason"],
    }
    for key, content in (("last", summary), ("stop_reason", trial["reason"])):
        row = {"trial_id": identity, "key": key, "value_json": json.dumps(content)}
        yield models.TrialUserAttributeModel, row


def _events(spec: StudySpec, trial: Mapping[str, Any], text: str) -> Iterator[NewEvent]:
    """A trial's events, as `tune.tracking.tracker` appends them."""
    run = f"{spec.name}/{trial['number']}"
    tags = {"ssl.kind": "trial", "ssl.trial": str(trial["number"]), "ssl.study": spec.name}
    yield NewEvent(
        "start",
        run,
        {"name": f"trial {trial['number']}", "parent": spec.name, "tags": tags},
        f"{run}:start",
        0,
    )
    pairs = [[name, str(value)] for name, value in trial["resolved"].items()]
    yield NewEvent("params", run, {"params": pairs}, f"{run}:params", 0)
    yield NewEvent("text", run, {"file": "config.yaml", "text": text}, f"{run}:config", 0)
    for epoch, error in enumerate(trial["errors"], 1):
        metrics = {"val/error": error, **{f"metric/{n}": 0.5 for n in range(METRICS)}}
        yield NewEvent("metrics", run, {"epoch": epoch, "metrics": metrics}, f"{run}:epoch:{epoch}", 0)
    status = "FINISHED" if trial["reason"] == "completed" else "KILLED"
    ended = {"status": status, "tags": {"ssl.stop_reason": trial["reason"]}, "drop_tags": []}
    yield NewEvent("status", run, ended, f"{run}:status:after-0", 0)
