"""A study's event log, made again: from what can still be read of the old one, from Optuna and from checkpoints."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_spaces import dump_yaml
from tune.errors import DamagedError
from tune.findings.study import Study
from tune.store.event_log import EventLog
from tune.store.events import unpacked
from tune.store.home import Home
from tune.store.layout import STUDY_FILE
from tune.tracking.opening import open_log, open_tracker
from tune.tracking.text import study_parameters
from tune.tracking.tracker import Tracker
from tune.tracking.views import study_views
from tune.trials.reading import all_records
from tune.trials.record import TrialRecord


@dataclass(frozen=True)
class Salvaged:
    """What could be read of a damaged event log: rows of its events, and its notes."""

    rows: tuple[tuple[object, ...], ...] = ()
    notes: tuple[tuple[object, ...], ...] = ()


_ROW = "id, key, kind, run, payload, time_ms, delivered_at, error"


def salvaged(path: Path) -> Salvaged:
    """Read what can be read of a damaged event log, row by row."""
    if not path.exists() or path.stat().st_size == 0:
        return Salvaged()
    rows: list[tuple[object, ...]] = []
    notes: list[tuple[object, ...]] = []
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as old:
        old.text_factory = _Text
        with contextlib.suppress(sqlite3.Error):
            notes = [_as_text(row) for row in old.execute("SELECT key, value FROM meta NOT INDEXED")]
        last = 0
        with contextlib.suppress(sqlite3.Error):
            last = int(old.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()[0])
        for id in range(1, last + 1):
            with contextlib.suppress(sqlite3.Error, ValueError):
                if row := old.execute(f"SELECT {_ROW} FROM events WHERE id = ?", [id]).fetchone():
                    rows.append(_as_text(row))
    return Salvaged(tuple(row for row in rows if _is_event(row)), tuple(notes))


class _Text(bytes):
    """A text of a damaged database, before it is known whether it is one; what is compressed comes as plain bytes."""


def _as_text(row: tuple[object, ...]) -> tuple[object, ...]:
    """A row with its texts decoded; raises ValueError where one is none."""
    return tuple(value.decode("utf-8") if isinstance(value, _Text) else value for value in row)


def _is_event(row: tuple[object, ...]) -> bool:
    """Whether a row is what was written: its columns have their types, and its payload can be read."""
    _, key, kind, run, payload, time_ms, *_ = row
    if not all(isinstance(value, str) for value in (kind, run)) or not isinstance(time_ms, int):
        return False
    try:
        unpacked(payload)
    except (ValueError, RecursionError):
        return False
    return isinstance(key, str | None)


def remake_log(study: Study, home: Home, kept: Salvaged) -> list[int]:
    """Write a new event log.

    Args:
        study: the study; its trials are whole.
        home: the home folder.
        kept: what was read of the old log.

    Returns:
        The trials whose curves are known in part only.
    """
    spec = study.spec
    with open_log(study.folder, shared=spec.address is not None) as log:
        log.take(kept.rows, kept.notes)
        tracker = open_tracker(log, spec, home)
        text = (study.folder.path / STUDY_FILE).read_text()
        tracker.study_started(study_parameters(spec), text, study_views(spec))
        records = all_records(study.folder, spec)
        partly = [int(r.trial) for r in records if not _tell(study, tracker, log, r)]
        tracker.study_ended(_state(study), {})
        return partly


def _state(study: Study) -> str:
    """How the study ended its last sitting, as far as that is known; this process holds its lock."""
    try:
        state = study.folder.state()
    except DamagedError:
        return "interrupted"
    return "interrupted" if state == "running" else state


def _tell(study: Study, tracker: Tracker, log: EventLog, record: TrialRecord) -> bool:
    """Tell of a trial what the log lacks; whether its whole curve is known."""
    spec, trial = study.spec, record.trial
    if record.epoch == 0 and record.state == "running":
        return True
    document = spec.trial_config(record.values).document()
    fixed = {name: value for name, value in document.items() if name != "method"}
    tracker.trial_started(trial, record.params, fixed, dump_yaml(document))
    known = {report.epoch for report in log.reports(tracker.run_key(trial))}
    history = (
        _history(study.folder.trials / trial) if spec.repeats == 1 and spec.folds == 1 else []
    )  # else it is one replicate's, or one fold's, alone
    for report in history:
        if report["epoch"] <= record.epoch and report["epoch"] not in known:
            tracker.report(
                trial,
                report["epoch"],
                report["metrics"],
                time_ms=report.get("time_ms") or None,
                classes=report.get("classes"),
                again=True,
            )
            known.add(report["epoch"])
    missing = set(range(1, record.epoch + 1)) - known
    for epoch, metrics in _of_optuna(record).items():
        if epoch in missing:
            tracker.report(trial, epoch, metrics, again=True)
    if record.stop_reason is not None:
        warmup = record.epoch - (record.ssl_epoch or 0)
        tracker.trial_ended(trial, record.stop_reason, error=record.error, warmup=warmup)
    return not missing


def _history(folder: Path) -> list[Mapping[str, Any]]:
    """Every report of a trial that has a checkpoint."""
    if not folder.is_dir():
        return []
    from ssl_core.training import checkpoint  # loads torch

    state = checkpoint.load_newest(folder)
    return [] if state is None else list(state.get("history", []))


def _of_optuna(record: TrialRecord) -> dict[int, dict[str, float]]:
    """What Optuna knows of a trial's epochs: the objective, and of the last one error and loss."""
    warmup = record.epoch - (record.ssl_epoch or 0)
    found = {warmup + step: {record.objective: value} for step, value in record.intermediate.items()}
    if record.val_error is not None and record.val_loss is not None:
        last = {"val/error": record.val_error, "val/loss": record.val_loss}
        if record.val_error_balanced is not None:
            last["val/error_balanced"] = record.val_error_balanced
        if record.val_error_and_loss is not None:
            last["val/error_and_loss"] = record.val_error_and_loss
        found[record.epoch] = {**found.get(record.epoch, {}), **last}
    return found
