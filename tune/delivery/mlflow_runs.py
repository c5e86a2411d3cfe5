"""The experiment and the runs that events go to: found, made, brought back, or written anew.

A run is looked for by its `ssl.run_key` tag before it is made, and its id is noted in the event log. What
was noted may stop being true: somebody deletes an experiment or a run, or throws the whole database away and
another study begins a new one there. What can be restored is; of what is gone for good, everything is owed
again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tune.delivery.database import file_identity, follow, prepared_database, remove_misread
from tune.delivery.refusals import AwayError, OwedAgainError, RejectedError, introduction, judged
from tune.delivery.transaction import joining, one_transaction
from tune.store.event_log import EventLog
from tune.store.events import Event
from tune.tracking.uri import sqlite_path

RUN_ID, DOUBTFUL = "run_id:", "doubtful:"  # notes in the event log, one for each run
PARENT_TAG = "mlflow.parentRunId"
LATE_SECONDS = 1.0
_GONE = "RESOURCE_DOES_NOT_EXIST"

logger = logging.getLogger("tune.delivery.sender")


class Destination:
    """One study's place in MLflow.

    Args:
        log: the study's event log, with the notes that `tune.tracking.tracker.Tracker` leaves in it.
    """

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self._client: Any = None
        self._experiment: str | None = None
        self._runs: dict[str, str] = {}
        self._lost = False
        self._file: tuple[int, int] | None = None
        self._store: Any = None
        self._is_new = False
        self._made: dict[str, str] | None = None  # within `together`: runs whose ids are not noted yet

    @property
    def client(self) -> Any:
        """MLflow's client; there is none before `connect`."""
        return self._client

    @property
    def experiment(self) -> str:
        """The experiment's id; there is none before `connect`."""
        assert self._experiment is not None
        return self._experiment

    def connect(self) -> None:
        """Find or make the experiment. Nothing can be delivered without it, so no refusal here is final."""
        if self._experiment is not None:
            return
        try:
            with judged():
                uri = self._note("tracking_uri")
                with prepared_database(uri):
                    if self._client is None:
                        from mlflow.tracking import MlflowClient  # loads MLflow

                        self._client = MlflowClient(tracking_uri=uri)
                    self._file = file_identity(uri)
                    remove_misread(uri)
                    self._follow_home(uri)
                    self._experiment = self._find_experiment()
                    self._is_new = not self._has_runs()
                self._store = joining(self._client)
        except RejectedError as rejection:
            raise AwayError(f"no experiment to write to: {rejection}", slow=True) from rejection
        self.log.set_meta("experiment_id", self._experiment)

    def _follow_home(self, uri: str) -> None:
        database, root = sqlite_path(uri), self.log.get_meta("artifact_root")
        if database is not None and root is not None:
            follow(database, Path(root))

    def introduction(self) -> str:
        """What a server says of its version."""
        return introduction(self._note("tracking_uri"))

    @property
    def joins(self) -> bool:
        """Whether `together` can be had: MLflow writes to a SQLite file."""
        return self._store is not None

    @contextmanager
    def together(self) -> Iterator[None]:
        """All that MLflow is asked for in the block is on the disk at its end, or nothing. Ids are noted after that."""
        self._made = made = dict[str, str]()
        try:
            with one_transaction(self._store):
                yield
        except BaseException:
            for run in made:
                self._runs.pop(run, None)
            raise
        finally:
            self._made = None
        for run, run_id in made.items():
            self.log.set_meta(RUN_ID + run, run_id)

    def replaced(self) -> bool:
        """Whether a sqlite database is no longer the file that was opened: MLflow would go on with the old one."""
        return self._file is not None and file_identity(self._note("tracking_uri")) != self._file

    def begin(self, run: str) -> None:
        """See that a run is there, below its parent."""
        made = run not in self._runs and self._identify(run)
        _, parent = self._started(run)
        if parent is None or made:
            return
        # Its parent may have been lost, and made anew.
        tags = self._client.get_run(self._runs[run]).data.tags
        if tags.get(PARENT_TAG) != self.run_id(parent):
            self._client.set_tag(self._runs[run], PARENT_TAG, self.run_id(parent))

    def run_id(self, run: str) -> str:
        """The MLflow run of a run key: known, found by its tag, or made from its start event."""
        if run not in self._runs:
            self._identify(run)
        return self._runs[run]

    def doubt(self, run: str) -> None:
        """Note that a request about a run may still be carried out by a server that was only slow."""
        self.log.set_meta(DOUBTFUL + run, "1")

    def settle(self, run: str) -> None:
        """Take away what a late request has made of a run of which there was doubt."""
        self._only(run, self._search(run))

    def mended(self, run: str) -> bool:
        """Whether a refusal came from something that was deleted meanwhile and is there again now.

        Raises:
            OwedAgainError: if it was gone for good.
        """
        try:
            with judged():
                return self._mend_experiment() or self._mend_run(run)
        except RejectedError as rejection:
            logger.warning("what was deleted cannot be restored: %s", rejection)
            return False

    # The experiment

    def _find_experiment(self) -> str:
        name = self._note("experiment")
        noted = {key.removeprefix(RUN_ID): run_id for key, run_id in self.log.metas(RUN_ID)}
        parent = next((run for run in noted if "/" not in run), None)
        held = None if parent is None else self._there(self._client.get_run, noted[parent])
        if held is not None:  # whatever the experiment is called by now
            experiment = self._client.get_experiment(held.info.experiment_id)
        else:
            experiment = self._client.get_experiment_by_name(name)
        if parent is not None and held is None:  # another database, or one that was begun anew
            there = set() if experiment is None else self._ids_of(experiment.experiment_id, parent)
            self._forget([run for run, run_id in noted.items() if run_id not in there])
        if experiment is None:
            try:
                with judged():
                    return str(self._client.create_experiment(name, artifact_location=self._location()))
            except RejectedError as rejection:
                if rejection.code != "RESOURCE_ALREADY_EXISTS":  # another study's sender was faster
                    raise
            experiment = self._client.get_experiment_by_name(name)
        if experiment.lifecycle_stage == "deleted":
            logger.warning("experiment %r had been deleted: it is restored", experiment.name)
            self._client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    def _mend_experiment(self) -> bool:
        experiment = self._there(self._client.get_experiment, self._experiment)
        if experiment is not None and experiment.lifecycle_stage == "active":
            return False
        self._experiment, self._lost = None, False
        self.connect()
        if self._lost:
            raise OwedAgainError
        return True

    def _mend_run(self, run: str) -> bool:
        if run not in self._runs:
            return False
        found = self._there(self._client.get_run, self._runs[run])
        if found is None:
            self._forget([run])
            self._experiment = None  # all the others may be gone as well: `connect` looks
            raise OwedAgainError
        if found.info.lifecycle_stage == "active":
            return False
        logger.warning("run %s had been deleted: it is restored", run)
        self._client.restore_run(self._runs[run])
        return True

    def _location(self) -> str | None:
        root = self.log.get_meta("artifact_root")
        return None if root is None else Path(root).as_uri()

    def _forget(self, runs: list[str]) -> None:
        """Owe everything of these runs again, and to whom the runs below them belong."""
        logger.warning("MLflow has lost %d runs (%s ...): they are written again", len(runs), runs[0])
        for run in runs:
            self._runs.pop(run, None)
            self.log.set_meta(RUN_ID + run, None)
        lost = set(runs)
        below = [run for run in self.log.runs() if self._parent(run) in lost]
        self.log.mark_undelivered(runs)
        self.log.mark_undelivered(below, kind="start")
        self._lost = True

    def _there(self, get: Callable[[str], Any], id: str | None) -> Any:
        """What `get` finds; None where there is nothing."""
        assert id is not None
        try:
            with judged():
                return get(id)
        except RejectedError as rejection:
            if rejection.code == _GONE:
                return None
            raise AwayError(f"{id} cannot be read: {rejection}") from rejection

    # Runs

    def _listed(self, experiment: str, tag: str, value: str) -> Iterator[Any]:
        """Infos of all runs with a tag, deleted ones too."""
        from mlflow.entities import ViewType  # loads MLflow

        token = None
        while True:
            page = self._client.search_runs(
                [experiment], f"tags.`{tag}` = '{value}'", run_view_type=ViewType.ALL, page_token=token
            )
            # A server may not tell capital letters from small ones.
            yield from (run.info for run in page if run.data.tags.get(tag) == value)
            token = page.token
            if not token:
                return

    def _ids_of(self, experiment: str, study: str) -> set[str]:
        return {str(info.run_id) for info in self._listed(experiment, "ssl.study", study)}

    def _has_runs(self) -> bool:
        """Whether MLflow has any run of this study. If not, it will have those that are made here, and no others.

        To look for each takes MLflow longer the more runs there are.
        """
        from mlflow.entities import ViewType  # loads MLflow

        key = f"tags.`ssl.run_key` LIKE '{self._note('study_id')}:%'"
        return bool(
            self._client.search_runs([self._experiment], key, run_view_type=ViewType.ALL, max_results=1)
        )

    def _search(self, run: str) -> list[Any]:
        """Infos of the runs with a run's key, those in use first, then the oldest first."""
        assert self._experiment is not None
        infos = list(self._listed(self._experiment, "ssl.run_key", f"{self._note('study_id')}:{run}"))
        return sorted(
            infos, key=lambda info: (info.lifecycle_stage != "active", info.start_time, info.run_id)
        )

    def _only(self, run: str, infos: list[Any]) -> str | None:
        """The one of these runs that stays."""
        if not infos:
            return None
        noted = self.log.get_meta(RUN_ID + run)
        kept = noted if noted in [info.run_id for info in infos] else str(infos[0].run_id)
        for info in infos:
            if info.run_id != kept and info.lifecycle_stage == "active":
                logger.warning("run %s was made twice; %s is removed", run, info.run_id)
                self._client.delete_run(info.run_id)
        return kept

    def _identify(self, run: str) -> bool:
        """Know a run's id; returns whether it had to be made."""
        found = self.log.get_meta(RUN_ID + run) or self._find_run(run)
        run_id = found or self._make_run(run)
        self._runs[run] = run_id
        if self._made is None:
            self.log.set_meta(RUN_ID + run, run_id)
        else:
            self._made[run] = run_id
        return found is None

    def _find_run(self, run: str) -> str | None:
        doubtful = self.log.get_meta(DOUBTFUL + run) is not None
        if self._is_new and not doubtful:
            return None
        found = self._only(run, self._search(run))
        if found is None and doubtful:
            time.sleep(LATE_SECONDS)
            found = self._only(run, self._search(run))
        return found

    def _make_run(self, run: str) -> str:
        start, parent = self._started(run)
        tags: Any = dict(start.payload["tags"])  # type: ignore[call-overload]
        if parent is not None:
            tags[PARENT_TAG] = self.run_id(parent)
        try:
            with judged():
                made = self._client.create_run(
                    self._experiment, start_time=start.time_ms, tags=tags, run_name=str(start.payload["name"])
                )
        except AwayError:
            if self._made is None:
                self.doubt(run)
            raise
        return str(made.info.run_id)

    def _started(self, run: str) -> tuple[Event, str | None]:
        """A run's start event and its parent."""
        start = self.log.find(f"{run}:start")
        if start is None:
            raise RejectedError(f"the log has no start of the run {run!r}")
        return start, self._parent(run)

    def _parent(self, run: str) -> str | None:
        start = self.log.find(f"{run}:start")
        parent = None if start is None else start.payload["parent"]
        return None if parent is None else str(parent)

    def _note(self, key: str) -> str:
        value = self.log.get_meta(key)
        if value is None:
            raise AwayError(f"the event log does not say its {key}", slow=True)
        return value
