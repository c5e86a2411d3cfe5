"""Events of a study's log to MLflow: what `tune.delivery.sender` and `ssl-tune sync` deliver with.

Delivery may stop at any moment: an event is marked as delivered after MLflow has taken it, and sending one
again changes nothing, because runs are looked for by their `ssl.run_key` tag before they are made, points
carry the time at which they were reported (MLflow keeps equal points once) and parameters and tags are set
to what they are. In a SQLite store the runs of several trials share a transaction (`tune.delivery.transaction`).

Fault points (`ssl_core.system.faults`): `sender:before-commit` lies in a transaction, when all of it has been written;
`sender:after-send` after a delivery and before it is noted.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssl_core.system.faults import fault
from tune.delivery.calls import MAX_METRICS, Action, Calls
from tune.delivery.drawing import FEWEST, Drawing
from tune.delivery.mlflow_runs import DOUBTFUL, Destination
from tune.delivery.refusals import AwayError, OwedAgainError, RejectedError, judged
from tune.store.event_log import EventLog
from tune.store.events import Event
from tune.tracking import history
from tune.tracking.contents import FOLDER

MAX_EVENTS = 250  # in memory at a time: with four metrics each they fill a call
TOGETHER_SECONDS, REST_SECONDS = 0.2, 0.02
"""So long the runs of trials share a transaction of a SQLite store, and then others get so long to write to it."""
TOGETHER = frozenset({"start", "params", "dataset", "tags", "metrics", "status"})  # in the store alone
FILES = frozenset({"text", "artifact", history.KIND})
MOST_ARTISTS = 4  # each holds 200 MB
FIGURE_LOOK_SECONDS = 0.1  # while figures are drawn, other events are looked for so often

logger = logging.getLogger("tune.delivery.sender")

_Call = tuple[list[Event], Action | None]
"""Events that are sent at once, and what is still to be done for them."""


class Deliverer:
    """Delivers one study's events; see `deliver_pending`.

    Args:
        log: the study's event log, with the notes that `tune.tracking.tracker.Tracker` leaves in it.
    """

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self.place = Destination(log)
        self.send = Calls(log, self.place)
        self.delivered = 0
        self.drawing = Drawing(log)
        self._calls: list[_Call] | None = None  # carried out within a transaction, and not noted yet

    def deliver_pending(self, *, figures: bool = True, until: Callable[[], bool] = lambda: False) -> None:
        """Deliver all that is owed. Raises AwayError where MLflow is; the rest stays owed.

        Args:
            figures: wait for figures to be drawn; without, those that are drawn later go with the next call.
            until: asked between calls; once it is true, the rest is left to the next call of this.
        """
        while True:
            try:
                self.place.connect()  # before reading the events: it may find that all are owed again
                while events := self.log.next_owed(MAX_EVENTS):
                    if until():
                        return
                    if figures:
                        self._send_figures(wait=False, at_once=True)  # a process draws while the rest is sent
                    if not self._send_together(events):
                        self._send(events)
                if self._send_figures(wait=figures, at_once=figures):
                    continue
                self._settle()
                return
            except OwedAgainError:
                pass
            except AwayError as error:
                if error.stranger:
                    raise AwayError(f"{error}; {self.place.introduction()}", slow=True) from error
                raise

    def _send_together(self, events: list[Event]) -> bool:
        """Deliver what some trials' runs are owed in one transaction; False, and nothing done, where that cannot be.

        Files are written after it: a run that a kill takes back must not leave any. What MLflow refuses, and what it
        cannot do just now, is found out by sending one after the other.
        """
        if not (self.place.joins and _is_together(events)):
            return False
        self._calls = calls = list[_Call]()
        began, runs = time.monotonic(), list[str]()
        try:
            with judged(), self.place.together():
                while _is_together(events):
                    self._send(events)
                    runs.append(events[0].run)
                    if time.monotonic() - began > TOGETHER_SECONDS:
                        break
                    events = self.log.next_owed(MAX_EVENTS, without=runs)
                fault("sender:before-commit")
        except (AwayError, RejectedError, OwedAgainError) as error:
            logger.debug("not in one transaction, so one by one: %s", error)
            return False
        finally:
            self._calls = None
        written = time.monotonic()
        self._note_all(calls)
        if time.monotonic() - written < REST_SECONDS and written - began > TOGETHER_SECONDS:
            time.sleep(REST_SECONDS)
        return True

    def _note_all(self, calls: list[_Call]) -> None:
        """Note what a transaction has brought to MLflow, and send the files that belong to it."""
        away: AwayError | None = None
        for events, action in calls:
            if action is None:
                self._note(events)
            elif away is None:
                try:
                    self._deliver(events, action)
                except AwayError as error:
                    away = error
        if away is not None:
            raise away

    def _send(self, events: list[Event]) -> None:
        """Events of one run in order, epochs in few calls."""
        for kind, group in itertools.groupby(events, lambda event: event.kind):
            if kind == "metrics":
                self._send_metrics(list(group))
                continue
            for event in group:
                handler = self.send.by_kind.get(kind)
                if handler is None:
                    self._bury(event, f"events of kind {kind!r} are unknown to this version of ssl-tune")
                else:
                    self._deliver([event], handler)

    def _deliver(self, events: list[Event], action: Action) -> None:
        """One call for some events of one run; those that MLflow refuses for good become dead letters."""
        if self._calls is not None:
            is_file = events[0].kind in FILES
            if not is_file:
                action(events[0])
            self._calls.append((events, action if is_file else None))
            return
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
        self._note(events)

    def _note(self, events: list[Event]) -> None:
        fault("sender:after-send")
        self.log.mark_delivered(event.id for event in events)
        self.delivered += len(events)

    def _send_figures(self, *, wait: bool, at_once: bool) -> bool:
        """Have figures drawn and send those that are; whether to look again at once.

        Args:
            wait: for those that are being drawn.
            at_once: somebody waits for all of them: even one is drawn, and on all processors.
        """
        artists = min(MOST_ARTISTS, len(os.sched_getaffinity(0))) if at_once else 1
        if not self.drawing.start(1 if at_once else FEWEST, artists):
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
            self.place.client.log_artifact(self.place.run_id(event.run), str(named), FOLDER)
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
                        self.send.status(last)
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
                self._deliver(list(group), lambda first: self.send.points(first.run, list(points), again))
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


def _is_together(events: list[Event]) -> bool:
    """Whether these are of a trial, and nothing but the store and the run's own folder is needed to deliver them."""
    return bool(events) and "/" in events[0].run and all(e.kind in TOGETHER | FILES for e in events)
