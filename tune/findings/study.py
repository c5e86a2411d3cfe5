"""A study as commands and notebooks read it: works while it runs, and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_core.system.errors import counted
from ssl_core.trusted import load_kept
from tune.errors import ServiceError
from tune.findings.doubts import doubts_of
from tune.findings.outlook.expected import expectation
from tune.findings.outlook.rule import outlook
from tune.findings.ranking import best_record, describe_best
from tune.findings.spent import planned_and_actual, seconds_left
from tune.store.event_log import EventLog
from tune.store.events import Event
from tune.store.home import Home
from tune.store.integrity import check_database, damaged
from tune.store.specification import read_spec
from tune.store.study_folder import StudyFolder
from tune.tracking import history

if TYPE_CHECKING:
    import pandas as pd

    from tune.definition.spec import StudySpec
    from tune.trials.record import TrialRecord


class Study:
    """A study, to be read: works while it runs, and after.

    Args:
        folder: the study's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = StudyFolder(folder)
        self.spec = read_spec(folder)

    def load_method(self, *, trust_method: bool = False) -> None:
        """Load the study's own copy of a method that does not come with the package, for whoever trains.

        Args:
            trust_method: it is run also where this user has not run it before (`ssl_core.trusted`).

        Raises:
            ConfigError: it is missing, was changed or is not trusted.
        """
        if digest := self.spec.config.get("method_digest"):
            load_kept(self.folder.path, self.spec.config["method"], digest, trust_method=trust_method)

    def check_whole(self) -> None:
        """Look through what a driver goes on from: state, trials and reports.

        Raises:
            DamagedError: something is damaged.
            ServiceError: the trials' storage does not answer.
        """
        self.folder.state()
        check_reports(self.folder, self.spec, self.records())

    @property
    def name(self) -> str:
        """The study's name."""
        return self.spec.name

    def records(self) -> list[TrialRecord]:
        """The trials in order of creation."""
        from tune.trials.reading import read_records  # loads Optuna and SQLAlchemy

        return read_records(self.folder)

    def trials(self) -> pd.DataFrame:
        """One row a trial, in order of creation.

        Columns: trial, state (completed, stopped_early, failed, running), stop_reason, val_error and
        val_error_balanced (percent), val_loss (nats), epoch, ssl_epoch, seconds, in a study with several folds
        `folds` (how many have finished: the errors are their means), and one for each searched parameter.
        """
        import pandas as pd

        rows = [
            r.row() | ({"folds": len(r.folds)} if self.spec.folds > 1 else {}) | r.params
            for r in self.records()
        ]
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

    def pinned(self) -> str | None:
        """The trial that somebody pinned as the recommendation; None: nobody has."""
        if not self.folder.events_db.exists():
            return None
        with EventLog(self.folder.events_db, read_only=True) as log:
            return history.pinned(history.notes(log, self.name))

    def history(self) -> list[dict[str, Any]]:
        """What was done to the study besides running it: rows of time and what, oldest first."""
        if not self.folder.events_db.exists():
            return []
        with EventLog(self.folder.events_db, read_only=True) as log:
            return history.as_documents(history.notes(log, self.name))

    def taken_over(self) -> list[TrialRecord]:
        """Whole runs of other studies that this one took over instead of training them again."""
        from tune.trials.reading import read_taken_over  # loads Optuna and SQLAlchemy

        return read_taken_over(self.folder)

    def doubts(self, records: Sequence[TrialRecord] | None = None) -> list[str]:
        """Why the best should not be confirmed as it is: sentences; none where nothing is wrong."""
        return doubts_of(self.folder, self.spec, self.records() if records is None else records)

    def status(self, records: Sequence[TrialRecord] | None = None) -> dict[str, Any]:
        """What ``ssl-tune status --json`` prints; `records` are the trials, where they have been read already."""
        return status(self, self.records() if records is None else records)


def check_reports(folder: StudyFolder, spec: StudySpec, records: Sequence[TrialRecord]) -> None:
    """Refuse an event log that is damaged, or that lacks trials of which Optuna knows epochs.

    Raises:
        DamagedError: it is, or does.
    """
    reported = {int(r.trial) for r in records if r.epoch > 0}
    check_database(folder.events_db)
    known: dict[int, bool] = {}
    if folder.events_db.exists():
        with EventLog(folder.events_db, read_only=True) as log:
            known = log.trials(spec.name)
    if lost := sorted(reported - known.keys()):
        there = f"it lacks {counted(len(lost), 'trial')} that Optuna has (the first: {lost[0]})"
        raise damaged(
            folder.events_db, there if folder.events_db.exists() else f"there is no such file; {there}"
        )


def studies_of(home: Home) -> tuple[list[Study], dict[str, ServiceError]]:
    """The studies of a home that can be read, oldest first; and of each other one, by its name, why it cannot be.

    One that is damaged, or that this user may not read, harms no other.
    """
    found, left_out = [], {}
    for name in home.study_names():
        try:
            found.append(Study(home.study_folder(name)))
        except ServiceError as error:
            left_out[name] = error
    return found, left_out


_FIELDS = (
    *("created", "method", "dataset", "protocol", "labels", "objective", "trials", "running"),
    *("seconds_left", "best", "expected", "pinned", "doubts", "outlook", "tracking", "cost"),
)


def studies_status(home: Home) -> list[dict[str, Any]]:
    """The status of each study of a home, as `tune.api.reading.studies` describes it."""
    found = []
    for name in home.study_names():
        try:
            found.append(Study(home.study_folder(name)).status())
        except ServiceError as error:
            found.append({"study": name, "state": "damaged", "problem": str(error), **dict.fromkeys(_FIELDS)})
    return found


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
    noted: list[Event] = []
    check_reports(study.folder, study.spec, records)
    if study.folder.events_db.exists():
        with EventLog(study.folder.events_db, read_only=True) as log:
            pending, refused, problem = log.pending(), log.refused(), log.get_meta("problem")
            noted = history.notes(log, study.name)
    pinned = next((r for r in records if r.trial == history.pinned(noted)), None)
    state, cost = study.folder.state(), planned_and_actual(study.folder, records)
    going_on = state in ("running", "interrupted")
    expected = None if record is None else expectation(records, record, study.spec.config["data"]["valid"])
    return {
        "study": study.name,
        "state": state,
        "created": study.spec.created,
        "method": study.spec.config["method"],
        "dataset": study.spec.config["dataset"],
        "protocol": study.spec.protocol,
        "labels": study.spec.config["labels"],
        "objective": study.spec.objective,
        **({} if study.spec.folds == 1 else {"folds": study.spec.folds}),
        "trials": {
            "total": study.spec.trials,
            **{name: states[name] for name in ("completed", "stopped_early", "failed", "running")},
        },
        "running": [
            {name: getattr(r, name) for name in ("trial", "epoch", "ssl_epoch", "val_error", "params")}
            for r in records
            if r.state == "running"
        ],
        "seconds_left": seconds_left(study.spec, records, cost["planned"]) if going_on else None,
        "best": None if record is None else describe_best(record, full),
        "expected": None if expected is None else expected.document(),
        "pinned": None if pinned is None else describe_best(pinned, pinned.state == "completed"),
        "history": history.as_documents(noted),
        "doubts": doubts_of(study.folder, study.spec, records),
        "outlook": outlook(records, study.spec),
        "tracking": {
            "uri": study.spec.tracking_uri,
            "pending": pending,
            "refused": refused,
            "problem": problem if pending else None,
        },
        "cost": cost,
    }
