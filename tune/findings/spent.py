"""What a study has cost so far, beside what was expected."""

from __future__ import annotations

from collections.abc import Sequence

from tune.definition.spec import StudySpec
from tune.store.event_log import EventLog
from tune.store.integrity import read_json, whole
from tune.store.layout import PLAN_FILE
from tune.store.study_folder import StudyFolder
from tune.trials.record import TrialRecord


def planned_and_actual(
    folder: StudyFolder, records: Sequence[TrialRecord]
) -> dict[str, dict[str, float] | None]:
    """Epochs, seconds and bytes on disk that were expected of a study, and those it has taken so far.

    `shared_epochs` of the epochs are warm-ups that other trainings have trained. They took `seconds_saved` there, and
    no time here.
    """
    names = ("epochs", "seconds", "disk_bytes")
    planned, elapsed = None, 0.0
    if (folder.path / PLAN_FILE).exists():
        document = read_json(folder.path / PLAN_FILE)
        with whole(folder.path / PLAN_FILE):
            planned = {name: round(document[name], 1) for name in names}
            planned["shared_epochs"] = round(document.get("shared_epochs", 0.0), 1)  # not in earlier studies
    if folder.events_db.exists():
        with EventLog(folder.events_db, read_only=True) as log:
            elapsed = float(log.get_meta("elapsed") or 0)
    epochs = sum(r.epoch for r in records)
    used = sum(p.stat().st_size for p in folder.trials.rglob("*.ckpt"))
    actual = {
        "epochs": epochs,
        "seconds": elapsed,
        "disk_bytes": used,
        "shared_epochs": sum(r.shared for r in records),
        "seconds_saved": round(sum(r.seconds_saved for r in records), 1),
    }
    return {"planned": planned, "actual": actual}


def seconds_left(
    spec: StudySpec, records: Sequence[TrialRecord], planned: dict[str, float] | None
) -> float | None:
    """How long a study will go on, in seconds, at the speed that its epochs had; None where nothing tells.

    The trials that are left are taken to train as many epochs as those that ended, on average; where none has, as many
    as planned. Epochs that were taken over from other trainings count neither as work nor for the speed. Trials run
    side by side as the study allows.

    Args:
        spec: the study.
        records: its trials.
        planned: as `planned_and_actual` gives it.
    """
    epochs = sum(r.trained for r in records)
    ended = [r for r in records if r.state != "running"]
    if ended:
        mean = sum(r.trained for r in ended) / len(ended)
    elif planned is not None and spec.trials:
        mean = (planned["epochs"] - planned.get("shared_epochs", 0.0)) / spec.trials
    else:
        return None
    if not epochs:
        return None if planned is None else planned["seconds"]
    under_way = sum(max(0.0, mean - r.trained) for r in records if r.state == "running")
    left = mean * max(0, spec.trials - len(records)) + under_way
    return left * sum(r.seconds for r in records) / epochs / spec.concurrent
