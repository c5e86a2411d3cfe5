"""A study as commands and notebooks read it: works while it runs, and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune.findings.ranking import best_record, describe_best
from tune.findings.spent import planned_and_actual
from tune.store.event_log import EventLog
from tune.store.home import Home
from tune.store.study_folder import StudyFolder, read_spec

if TYPE_CHECKING:
    import pandas as pd

    from tune.trials.record import TrialRecord


class Study:
    """A study, to be read: works while it runs, and after.

    Args:
        folder: the study's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = StudyFolder(folder)
        self.spec = read_spec(folder)

    @property
    def name(self) -> str:
        return self.spec.name

    def records(self) -> list[TrialRecord]:
        """The trials in order of creation."""
        from tune.trials.reading import read_records  # loads Optuna and SQLAlchemy

        return read_records(self.folder)

    def trials(self) -> pd.DataFrame:
        """One row a trial, in order of creation.

        Columns: trial, state (completed, stopped_early, failed, running), stop_reason, val_error and
        val_error_balanced (percent), val_loss (nats), epoch, ssl_epoch, seconds, and one for each searched parameter.
        """
        import pandas as pd

        rows = [r.row() | r.params for r in self.records()]
        return pd.DataFrame(rows, columns=None if rows else ["trial", "state", "stop_reason", "val_error"])

    def curves(self) -> pd.DataFrame:
        """One row for each trial and finished epoch: trial, epoch and every metric logged."""
        import pandas as pd

        if not self.folder.events_db.exists():
            return pd.DataFrame(columns=["trial", "epoch"])
        with EventLog(self.folder.events_db, read_only=True) as log:
            rows = [
                {"trial": r.trial, "epoch": report.epoch, **report.metrics}
                for r in self.records()
                for report in log.reports(f"{self.name}/{r.trial}")
            ]
        return pd.DataFrame(rows)

    def best(self) -> dict[str, Any] | None:
        """The best trial as `status` shows it, or None where no trial has reported."""
        record, full = best_record(self.records())
        return None if record is None else describe_best(record, full)

    def status(self, records: Sequence[TrialRecord] | None = None) -> dict[str, Any]:
        """What ``ssl-tune status --json`` prints; `records` are the trials, where they have been read already."""
        return status(self, self.records() if records is None else records)


def load_study(name: str, *, home: Path | str | None = None) -> Study:
    """A study by its name.

    Args:
        name: the study's name.
        home: the home folder; None: SSL_TUNE_HOME, else ./ssl-tune-home.

    Raises:
        ConfigError: if there is no such study, or its folder is damaged.
    """
    return Study(Home(home).existing_study_folder(name))


def status(study: Study, records: Sequence[TrialRecord]) -> dict[str, Any]:
    """What ``ssl-tune status NAME --json`` prints, of a study and its trials."""
    states = Counter(r.state for r in records)
    record, full = best_record(records)
    pending, refused, problem = 0, 0, None
    if study.folder.events_db.exists():
        with EventLog(study.folder.events_db, read_only=True) as log:
            pending, refused, problem = log.pending(), log.refused(), log.get_meta("problem")
    return {
        "study": study.name,
        "state": study.folder.state(),
        "method": study.spec.config["method"],
        "dataset": study.spec.config["dataset"],
        "protocol": study.spec.protocol,
        "labels": study.spec.config["labels"],
        "objective": study.spec.objective,
        "trials": {
            "total": study.spec.trials,
            **{name: states[name] for name in ("completed", "stopped_early", "failed", "running")},
        },
        "best": None if record is None else describe_best(record, full),
        "tracking": {
            "uri": study.spec.tracking_uri,
            "pending": pending,
            "refused": refused,
            "problem": problem if pending else None,
        },
        "cost": planned_and_actual(study.folder, records),
    }
