"""Events of a study's log to MLflow: what `tune.sender` and `ssl-tune sync` deliver with.

Delivery may stop at any moment: an event is marked as delivered after MLflow has taken it, and sending one
again changes nothing, because runs are looked for by their `ssl.run_key` tag before they are made, points
carry the time at which they were reported (MLflow keeps equal points once) and parameters and tags are set
to what they are.

`SSL_TUNE_FAULT=sender:after-send` (or `sender:after-send:N`) makes the process kill itself after its first
(Nth) delivery and before it notes it: tests use it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tune.delivery_errors import AwayError, RejectedError, judged
from tune.events import Event, EventLog
from tune.tracking_uri import sqlite_path

WINDOW = 500  # events in memory at a time
MAX_METRICS, MAX_PARAMS, MAX_PARAM_BYTES = 1000, 100, 400_000  # MLflow: 1000, 100 and 1 MB a call

logger = logging.getLogger("tune.sender")


class Sender:
    """Delivers one study's events; see `deliver_pending`.

    Args:
        log: the study's event log, with the notes that `tune.tracking.Tracker` leaves in it.
    """

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self.folder = log.path.absolute().parent
        self._client: Any = None
        self._experiment: str | None = None
        self._runs: dict[str, str] = {}
        self._doubtful: set[str] = set()
        self._fault = _fault_countdown()
        self._handlers: dict[str, Callable[[Event], None]] = {
            "start": self._send_start,
            "params": self._send_params,
            "dataset": self._send_dataset,
            "tags": self._send_tags,
            "text": self._send_text,
            "artifact": self._send_artifact,
            "status": self._send_status,
        }

    def deliver_pending(self) -> None:
        """Deliver all that is owed. Raises AwayError where MLflow is; the rest stays owed."""
        try:
            while self.log.pending():
                if self._experiment is None:
                    self._connect()  # before reading the events: it may find that all are owed again
                self._send(self.log.undelivered(WINDOW))
        except AwayError:
            # Look at the experiment again before the next attempt: it may have been deleted.
            self._experiment = None
            raise

    def _send(self, events: list[Event]) -> None:
        """A window of events; within a run in order, epochs of one run together in few calls."""
        waiting: dict[str, list[Event]] = {}
        for event in events:
            if event.kind == "metrics":
                waiting.setdefault(event.run, []).append(event)
                continue
            self._send_metrics(waiting.pop(event.run, []))
            handler = self._handlers.get(event.kind)
            if handler is None:
                self._bury(event, f"events of kind {event.kind!r} are unknown to this version of ssl-tune")
            else:
                self._deliver([event], handler)
        for group in waiting.values():
            self._send_metrics(group)

    def _deliver(self, events: list[Event], action: Callable[[Event], None]) -> None:
        """One call for some events of one run; those that MLflow refuses for good become dead letters."""
        try:
            with judged():
                action(events[0])
        except RejectedError as rejection:
            if self._restored_experiment():
                self._deliver(events, action)
            elif len(events) == 1:
                self._bury(events[0], str(rejection))
            else:
                for event in events:  # find the one that spoils the call
                    self._send_metrics([event])
            return
        self._fault_point()
        self.log.mark_delivered(event.id for event in events)

    def _bury(self, event: Event, reason: str) -> None:
        logger.error("MLflow refuses event %d (%s of %s): %s", event.id, event.kind, event.run, reason)
        self.log.mark_dead(event.id, reason)

    # What is sent

    def _send_metrics(self, events: list[Event]) -> None:
        from mlflow.entities import Metric

        group: list[Event] = []
        points: list[Any] = []

        def flush() -> None:
            if group:
                self._deliver(list(group), lambda first: self._log_points(first.run, list(points)))
                group.clear()
                points.clear()

        for event in events:
            metrics: Any = event.payload["metrics"]
            step: Any = event.payload.get("epoch", event.payload.get("step", 0))
            if len(points) + len(metrics) > MAX_METRICS:
                flush()
            group.append(event)
            points += [
                Metric(name, float(value), event.time_ms, int(step)) for name, value in metrics.items()
            ]
        flush()

    def _log_points(self, run: str, points: list[Any]) -> None:
        run_id = self._run_id(run)
        for first in range(0, len(points), MAX_METRICS):
            self._client.log_batch(run_id, metrics=points[first : first + MAX_METRICS])

    def _send_start(self, event: Event) -> None:
        self._run_id(event.run)

    def _send_params(self, event: Event) -> None:
        from mlflow.entities import Param

        run_id = self._run_id(event.run)
        pairs: Any = event.payload["params"]
        refused = []
        for chunk in chunks(pairs):
            params = [Param(name, value) for name, value in chunk]
            try:
                with judged():
                    self._client.log_batch(run_id, params=params)
            except RejectedError:
                for param in params:  # all but the one that spoils the call
                    try:
                        with judged():
                            self._client.log_batch(run_id, params=[param])
                    except RejectedError as rejection:
                        refused.append(str(rejection))
        if refused:
            raise RejectedError("; ".join(refused))

    def _send_dataset(self, event: Event) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        # MLflow keeps a data set once for an experiment, name and digest, and once for a run.
        fields: Any = event.payload
        context = InputTag("mlflow.data.context", "training")
        self._client.log_inputs(self._run_id(event.run), [DatasetInput(Dataset(**fields), [context])])

    def _send_tags(self, event: Event) -> None:
        from mlflow.entities import RunTag

        tags: Any = event.payload["tags"]
        self._client.log_batch(
            self._run_id(event.run), tags=[RunTag(name, value) for name, value in tags.items()]
        )

    def _send_text(self, event: Event) -> None:
        self._client.log_text(self._run_id(event.run), str(event.payload["text"]), str(event.payload["file"]))

    def _send_artifact(self, event: Event) -> None:
        path = self.folder / str(event.payload["path"])
        self._client.log_artifact(self._run_id(event.run), str(path), event.payload["artifact_path"])

    def _send_status(self, event: Event) -> None:
        from mlflow.entities import RunTag

        run_id = self._run_id(event.run)
        tags: Any = event.payload["tags"]
        dropped: Any = event.payload["drop_tags"]
        status = str(event.payload["status"])
        if tags:
            self._client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        for name in dropped:
            try:
                with judged():
                    self._client.delete_tag(run_id, name)
            except RejectedError as rejection:
                if rejection.code != "RESOURCE_DOES_NOT_EXIST":  # there was none
                    raise
        if status == "RUNNING":
            self._client.update_run(run_id, status=status)
        else:
            self._client.set_terminated(run_id, status=status, end_time=event.time_ms)

    # Where it is sent

    def _connect(self) -> None:
        """Find or make the experiment. Nothing can be delivered without it, so no refusal here is final."""
        try:
            with judged():
                uri = self._note("tracking_uri")
                with prepared_database(uri):
                    if self._client is None:
                        from mlflow.tracking import MlflowClient

                        self._client = MlflowClient(tracking_uri=uri)
                    self._experiment = self._find_experiment()
        except RejectedError as rejection:
            raise AwayError(f"no experiment to write to: {rejection}", slow=True) from rejection

    def _find_experiment(self) -> str:
        known, name = self.log.get_meta("experiment_id"), self._note("experiment")
        experiment = None
        if known is not None:
            try:
                with judged():
                    experiment = self._client.get_experiment(known)
            except RejectedError as rejection:
                if rejection.code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                # Deleted for good, or another database: what was delivered is gone with it.
                logger.warning("experiment %s is gone: everything is delivered again", known)
                self.log.drop_meta("run_id:")
                self._runs.clear()
                self.log.mark_all_undelivered()
        experiment = experiment or self._client.get_experiment_by_name(name)
        if experiment is None:
            root = self.log.get_meta("artifact_root")
            location = None if root is None else Path(root).as_uri()
            try:
                with judged():
                    found = str(self._client.create_experiment(name, artifact_location=location))
            except RejectedError as rejection:
                if rejection.code != "RESOURCE_ALREADY_EXISTS":  # another study's sender was faster
                    raise
                experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            found = str(experiment.experiment_id)
            if experiment.lifecycle_stage == "deleted":
                logger.warning("experiment %r had been deleted: it is restored", experiment.name)
                self._client.restore_experiment(found)
        self.log.set_meta("experiment_id", found)
        return found

    def _restored_experiment(self) -> bool:
        """Whether a refusal came from an experiment that was deleted meanwhile, and is there again now."""
        try:
            with judged():
                if self._client.get_experiment(self._experiment).lifecycle_stage != "deleted":
                    return False
        except RejectedError as rejection:
            raise AwayError(f"the experiment cannot be read: {rejection}") from rejection
        self._connect()
        return True

    def _run_id(self, run: str) -> str:
        """The MLflow run of a run key: known, found by its tag, or made from its start event."""
        if run not in self._runs:
            run_id = self.log.get_meta(f"run_id:{run}") or self._find_run(run) or self._make_run(run)
            self.log.set_meta(f"run_id:{run}", run_id)
            self._runs[run] = run_id
        return self._runs[run]

    def _find_run(self, run: str) -> str | None:
        from mlflow.entities import ViewType

        key = f"{self._note('study_id')}:{run}"
        # A request that timed out may still be carried out by a server that was only slow.
        for pause in (0.0, 1.0) if run in self._doubtful else (0.0,):
            time.sleep(pause)
            found = self._client.search_runs(
                [self._experiment],
                f"tags.`ssl.run_key` = '{key}'",
                run_view_type=ViewType.ALL,
            )
            found = [item.info for item in found if item.data.tags.get("ssl.run_key") == key]
            found.sort(key=lambda info: (info.lifecycle_stage != "active", info.start_time, info.run_id))
            ids = [str(info.run_id) for info in found]
            if ids:
                for extra in ids[1:]:
                    logger.warning("run %s was made twice; %s is removed", run, extra)
                    self._client.delete_run(extra)
                return ids[0]
        return None

    def _make_run(self, run: str) -> str:
        start = self.log.find(f"{run}:start")
        if start is None:
            raise RejectedError(f"the log has no start of the run {run!r}")
        tags: Any = dict(start.payload["tags"])  # type: ignore[call-overload]
        parent = start.payload["parent"]
        if parent is not None:
            tags["mlflow.parentRunId"] = self._run_id(str(parent))
        try:
            with judged():
                made = self._client.create_run(
                    self._experiment, start_time=start.time_ms, tags=tags, run_name=str(start.payload["name"])
                )
        except AwayError:
            self._doubtful.add(run)
            raise
        return str(made.info.run_id)

    def _note(self, key: str) -> str:
        value = self.log.get_meta(key)
        if value is None:
            raise AwayError(f"the event log does not say its {key}", slow=True)
        return value

    def _fault_point(self) -> None:
        self._fault -= 1
        if self._fault == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def chunks(pairs: list[list[str]]) -> Iterator[list[list[str]]]:
    """Parameters in calls that MLflow takes."""
    chunk: list[list[str]] = []
    size = 0
    for pair in pairs:
        length = sum(len(part.encode()) for part in pair)
        if chunk and (len(chunk) == MAX_PARAMS or size + length > MAX_PARAM_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(pair)
        size += length
    if chunk:
        yield chunk


def _fault_countdown() -> int:
    fault = os.environ.get("SSL_TUNE_FAULT", "")
    if not fault.startswith("sender:after-send"):
        return 0
    return int(fault.removeprefix("sender:after-send").removeprefix(":") or 1)


@contextmanager
def prepared_database(uri: str) -> Iterator[None]:
    """For a sqlite store: its tables are there, and studies that start at once do not make them at once.

    The tables are made (5-10 s of migrations) in another file, which is then renamed: a sender that is
    killed meanwhile leaves no half-migrated database.
    """
    if not uri.startswith("sqlite"):
        yield
        return
    database = sqlite_path(uri)
    if database is None:
        raise AwayError(f"tracking URI {uri!r} names no file", slow=True)
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(f"{database.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not database.exists():
            from mlflow.tracking import MlflowClient

            fresh = database.with_name(f"{database.name}.new")
            for leftover in (fresh, fresh.with_name(f"{fresh.name}-journal")):
                leftover.unlink(missing_ok=True)
            MlflowClient(tracking_uri=f"sqlite:///{fresh}").search_experiments(max_results=1)
            fresh.rename(database)
        yield
