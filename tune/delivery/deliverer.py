"""Events of a study's log to MLflow: what `tune.delivery.sender` and `ssl-tune sync` deliver with.

Delivery may stop at any moment: an event is marked as delivered after MLflow has taken it, and sending one
again changes nothing, because runs are looked for by their `ssl.run_key` tag before they are made, points
carry the time at which they were reported (MLflow keeps equal points once) and parameters and tags are set
to what they are.

The fault point `sender:after-send` (`ssl_core.system.faults`) lies after a delivery and before it is noted.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ssl_core.system.faults import fault
from tune.delivery.drawing import FEWEST, Drawing
from tune.delivery.mlflow_runs import DOUBTFUL, PARENT_TAG, Destination
from tune.delivery.models import send_model
from tune.delivery.refusals import AwayError, OwedAgainError, RejectedError, judged
from tune.store.event_log import EventLog
from tune.store.events import Event
from tune.tracking import history
from tune.tracking.contents import FOLDER
from tune.tracking.opening import ABOVE, BELOW

MAX_EVENTS = 250  # in memory at a time: with four metrics each they fill a call
MAX_METRICS, MAX_PARAMS, MAX_PARAM_BYTES = 1000, 100, 400_000  # MLflow: 1000, 100 and 1 MB a call
FIGURE_LOOK_SECONDS = 0.1  # while figures are drawn, other events are looked for so often

PLACED = "placed"
"""A note in a study's log: below which run its own has been put (`place_below`)."""

logger = logging.getLogger("tune.delivery.sender")


class Deliverer:
    """Delivers one study's events; see `deliver_pending`.

    Args:
        log: the study's event log, with the notes that `tune.tracking.tracker.Tracker` leaves in it.
    """

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self.folder = log.path.absolute().parent
        self.place = Destination(log)
        self.delivered = 0
        self.drawing = Drawing(log)
        self._handlers: dict[str, Callable[[Event], None]] = {
            "start": self._send_start,
            "params": self._send_params,
            "dataset": self._send_dataset,
            "tags": self._send_tags,
            "experiment": self._send_experiment,
            "text": self._send_text,
            "artifact": self._send_artifact,
            "model": self._send_model,
            "status": self._send_status,
            history.KIND: self._send_history,
        }

    @property
    def _client(self) -> Any:
        return self.place.client

    def deliver_pending(self, *, figures: bool = True) -> None:
        """Deliver all that is owed. Raises AwayError where MLflow is; the rest stays owed.

        Args:
            figures: wait for figures to be drawn; without, those that are drawn later go with the next call.
        """
        while True:
            try:
                self.place.connect()  # before reading the events: it may find that all are owed again
                while events := self.log.next_owed(MAX_EVENTS):
                    self._send(events)
                if self._send_figures(figures):
                    continue
                self._settle()
                return
            except OwedAgainError:
                pass
            except AwayError as error:
                if error.stranger:
                    raise AwayError(f"{error}; {self.place.introduction()}", slow=True) from error
                raise

    def _send(self, events: list[Event]) -> None:
        """Events of one run in order, epochs in few calls."""
        for kind, group in itertools.groupby(events, lambda event: event.kind):
            if kind == "metrics":
                self._send_metrics(list(group))
                continue
            for event in group:
                handler = self._handlers.get(kind)
                if handler is None:
                    self._bury(event, f"events of kind {kind!r} are unknown to this version of ssl-tune")
                else:
                    self._deliver([event], handler)

    def _deliver(self, events: list[Event], action: Callable[[Event], None]) -> None:
        """One call for some events of one run; those that MLflow refuses for good become dead letters."""
        try:
            with judged():
                action(events[0])
        except AwayError:
            if events[0].kind == "status":
                self.place.doubt(events[0].run)
            raise
        except RejectedError as rejection:
            if self.place.mended(events[0].run):
                self._deliver(events, action)
            elif len(events) == 1:
                self._bury(events[0], str(rejection))
            else:
                for event in events:  # find the one that spoils the call
                    self._send_metrics([event])
            return
        fault("sender:after-send")
        self.log.mark_delivered(event.id for event in events)
        self.delivered += len(events)

    def _send_figures(self, wait: bool) -> bool:
        """Have figures drawn and send those that are; whether to look again at once."""
        if not self.drawing.start(1 if wait else FEWEST):
            return False
        if not self.drawing.wait(FIGURE_LOOK_SECONDS if wait else 0):
            return wait
        try:
            for event, path, problem in self.drawing.take():
                if problem is not None:
                    self._bury(event, f"cannot be drawn: {problem}")
                elif path is None:
                    self.log.mark_delivered([event.id])
                else:
                    self._deliver([event], functools.partial(self._send_figure, path))
        finally:
            self.drawing.clear()
        return True

    def _send_figure(self, path: Path, event: Event) -> None:
        named = path.with_name(str(event.payload["file"]))
        path.rename(named)
        try:
            self._client.log_artifact(self.place.run_id(event.run), str(named), FOLDER)
        finally:
            named.rename(path)

    def _settle(self) -> None:
        """Where a request may have been carried out late: one run for each key, in the state it was left in."""
        for key, _ in self.log.metas(DOUBTFUL):
            run = key.removeprefix(DOUBTFUL)
            last = self.log.last(run, "status")
            try:
                with judged():
                    self.place.settle(run)
                    if last is not None:
                        self._send_status(last)
            except RejectedError as rejection:
                logger.warning("run %s is left as it is: %s", run, rejection)
            self.log.set_meta(key, None)

    def _bury(self, event: Event, reason: str) -> None:
        logger.error("MLflow refuses event %d (%s of %s): %s", event.id, event.kind, event.run, reason)
        self.log.mark_dead(event.id, reason)

    # What is sent

    def _send_metrics(self, events: list[Event]) -> None:
        from mlflow.entities import Metric  # loads MLflow

        group: list[Event] = []
        points: list[Any] = []

        def flush() -> None:
            if group:
                again = any("again" in event.payload for event in group)
                self._deliver(list(group), lambda first: self._log_points(first.run, list(points), again))
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

    def _log_points(self, run: str, points: list[Any], again: bool) -> None:
        run_id = self.place.run_id(run)
        if again:  # of a log that was made again: MLflow may have them, with other times
            names = {point.key for point in points}
            have = {(n, point.step) for n in names for point in self._client.get_metric_history(run_id, n)}
            points = [point for point in points if (point.key, point.step) not in have]
        for first in range(0, len(points), MAX_METRICS):
            self._client.log_batch(run_id, metrics=points[first : first + MAX_METRICS])

    def _send_start(self, event: Event) -> None:
        self.place.begin(event.run)
        place_below(self.place, event.run)
        place_those_below(self.place, event.run)

    def _send_params(self, event: Event) -> None:
        from mlflow.entities import Param  # loads MLflow

        run_id = self.place.run_id(event.run)
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
        from mlflow.entities import Dataset, DatasetInput, InputTag  # loads MLflow

        # MLflow keeps a data set once for an experiment, name and digest, and once for a run.
        fields: Any = event.payload
        context = InputTag("mlflow.data.context", "training")
        self._client.log_inputs(self.place.run_id(event.run), [DatasetInput(Dataset(**fields), [context])])

    def _send_tags(self, event: Event) -> None:
        from mlflow.entities import RunTag  # loads MLflow

        tags: Any = event.payload["tags"]
        self._client.log_batch(
            self.place.run_id(event.run), tags=[RunTag(name, value) for name, value in tags.items()]
        )

    def _send_experiment(self, event: Event) -> None:
        tags: Any = event.payload["tags"]
        for name, value in tags.items():
            self._client.set_experiment_tag(self.place.experiment, name, value)

    def _send_text(self, event: Event) -> None:
        self._client.log_text(
            self.place.run_id(event.run), str(event.payload["text"]), str(event.payload["file"])
        )

    def _send_history(self, event: Event) -> None:
        text = history.as_text(history.notes(self.log, event.run))
        self._client.log_text(self.place.run_id(event.run), text, history.FILE)

    def _send_artifact(self, event: Event) -> None:
        path = (self.folder / str(event.payload["path"])).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise RejectedError(f"{event.payload['path']} is no file of the study")
        self._client.log_artifact(self.place.run_id(event.run), str(path), event.payload["artifact_path"])

    def _send_model(self, event: Event) -> None:
        send_model(self._client, self.log, self.place.run_id(event.run), event)

    def _send_status(self, event: Event) -> None:
        from mlflow.entities import RunTag  # loads MLflow

        place_below(self.place, event.run)
        place_those_below(self.place, event.run)
        run_id = self.place.run_id(event.run)
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


def place_below(place: Destination, run: str) -> None:
    """See that a study's run is below that of its comparison, where it has one and that run is there by now.

    Each of the two has a log and a sender of its own, and either may be first: both see to it when a run begins and
    ends, so that whichever comes second finds the other's.

    Args:
        place: of the study.
        run: the run's key; that of a trial is left where it is.
    """
    above = place.log.get_meta(ABOVE)
    if above is None or "/" in run:
        return
    run_id = place.run_id(run)
    if place.log.get_meta(PLACED) == f"{above} {run_id}":
        return
    parent = _found(place, above)
    if parent is not None:
        place.client.set_tag(run_id, PARENT_TAG, parent.info.run_id)
        place.log.set_meta(PLACED, f"{above} {run_id}")


def place_those_below(place: Destination, run: str) -> None:
    """As `place_below`, from the comparison's side: the runs of its studies that are there by now."""
    below = place.log.get_meta(BELOW)
    if below is None or "/" in run:
        return
    run_id = place.run_id(run)
    for key in json.loads(below):
        child = _found(place, key)
        if child is not None and child.data.tags.get(PARENT_TAG) != run_id:
            place.client.set_tag(child.info.run_id, PARENT_TAG, run_id)


def _found(place: Destination, key: str) -> Any:
    """The run with a key in the experiment; None where there is none yet."""
    runs = place.client.search_runs([place.log.get_meta("experiment_id")], f"tags.`ssl.run_key` = '{key}'")
    # A server may not tell capital letters from small ones.
    return next((run for run in runs if run.data.tags["ssl.run_key"] == key), None)
