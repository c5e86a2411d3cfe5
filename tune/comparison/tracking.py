"""The one run in MLflow below which those of a comparison's studies lie."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from search_spaces import dump_yaml
from tune.comparison.record import Comparison, Record
from tune.definition.spec import StudySpec
from tune.engine.sitting import Sitting
from tune.store.event_log import EventLog
from tune.tracking.opening import ABOVE, BELOW, note_where
from tune.tracking.sender_process import SenderProcess
from tune.tracking.tracker import Tracker

_SHARED = ("dataset", "labels", "network", "epochs", "steps_per_epoch", "batch_size", "mu")


def tracker_of(comparison: Comparison, log: EventLog) -> Tracker:
    """What writes to the comparison's event log; its sender is not at work yet.

    Args:
        comparison: held by this process.
        log: the log, in its folder.
    """
    spec = comparison.spec_of_run()
    note_where(log, spec, comparison.home)
    return Tracker(
        log,
        study=comparison.name,
        tracking_uri=spec.tracking_uri,
        experiment=spec.experiment,
        common_tags={
            "ssl.dataset": spec.dataset_tag,
            "ssl.protocol": spec.protocol,
            "ssl.labels": str(spec.config["labels"]),
            "ssl.split_hash": spec.split_hash or "",
        },
        artifact_root=comparison.home.artifacts,
        sender=SenderProcess(log),
    )


@contextmanager
def tracked(comparison: Comparison, sittings: Sequence[Sitting]) -> Iterator[Tracker]:
    """The comparison's run for the block, with a sender at work; the logs of the studies are told of it.

    Args:
        comparison: held by this process.
        sittings: of its studies.
    """
    with EventLog(comparison.folder.events_db) as log:
        tracker = tracker_of(comparison, log)
        log.set_meta(BELOW, json.dumps([_run_key(sitting, comparison) for sitting in sittings]))
        for sitting in sittings:
            sitting.log.set_meta(ABOVE, f"{log.get_meta('study_id')}:{comparison.name}")
        spec, record = sittings[0].spec, comparison.record
        tracker.comparison_started(_parameters(record, spec), dump_yaml(_document(record)))
        tracker.sender.start()
        try:
            yield tracker
        finally:
            tracker.sender.kill()


def _run_key(sitting: Sitting, comparison: Comparison) -> str:
    """The key of the run of a sitting's study, whose log may not have been written to yet."""
    note_where(sitting.log, sitting.spec, comparison.home)
    return f"{sitting.log.get_meta('study_id')}:{sitting.spec.name}"


def _parameters(record: Record, spec: StudySpec) -> dict[str, object]:
    """What all of the studies share."""
    methods = [member.method for member in record.members]
    shared = {name: spec.config[name] for name in _SHARED if name in spec.config}
    seeds = {"confirm_seeds": record.confirm_seeds, "seed": spec.seed}
    amount: dict[str, object] = {} if spec.ends_by_epochs else {"trials": spec.trials}
    if record.epochs_budget is not None:
        amount |= {"epochs_budget": record.epochs_budget, "race": record.race}
    return {"methods": methods, **amount, "concurrent": spec.concurrent, **seeds, **shared}


def _document(record: Record) -> dict[str, Any]:
    return {
        "comparison": record.name,
        "studies": {member.method: member.study for member in record.members},
        "confirm_seeds": record.confirm_seeds,
        "epochs_budget": record.epochs_budget,
        "race": record.race,
    }
