"""What each kind of event asks of MLflow. Asking again changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tune.delivery.mlflow_runs import Destination
from tune.delivery.models.sending import send_model
from tune.delivery.placing import place_below, place_those_below
from tune.delivery.refusals import RejectedError, judged
from tune.store.event_log import EventLog
from tune.store.events import Event
from tune.tracking import history

MAX_METRICS, MAX_PARAMS, MAX_PARAM_BYTES = 1000, 100, 400_000  # MLflow: 1000, 100 and 1 MB a call

Action = Callable[[Event], None]


class Calls:
    """The calls of MLflow's client that deliver an event; what they raise is for `tune.delivery.refusals.judged`.

    Args:
        log: the study's event log.
        place: where its events go.
    """

    def __init__(self, log: EventLog, place: Destination) -> None:
        self.log = log
        self.place = place
        self._folder = log.path.absolute().parent
        self.by_kind: dict[str, Action] = {
            "start": self.start,
            "params": self.params,
            "dataset": self.dataset,
            "tags": self.tags,
            "experiment": self.experiment,
            "text": self.text,
            "artifact": self.artifact,
            "model": self.model,
            "status": self.status,
            history.KIND: self.history,
        }

    def points(self, run: str, points: list[Any], again: bool) -> None:
        """Metrics of a run, in batches; `again`: only those that MLflow does not have."""
        run_id = self.place.run_id(run)
        if again:  # of a log that was made again: MLflow may have them, with other times
            names = {point.key for point in points}
            have = {
                (n, point.step) for n in names for point in self.place.client.get_metric_history(run_id, n)
            }
            points = [point for point in points if (point.key, point.step) not in have]
        for first in range(0, len(points), MAX_METRICS):
            self.place.client.log_batch(run_id, metrics=points[first : first + MAX_METRICS])

    def start(self, event: Event) -> None:
        """Begin a run, and put it where it belongs among the others."""
        self.place.begin(event.run)
        place_below(self.place, event.run)
        place_those_below(self.place, event.run)

    def params(self, event: Event) -> None:
        """Parameters of a run. Those that MLflow refuses are told together, the others are there."""
        from mlflow.entities import Param  # loads MLflow

        run_id = self.place.run_id(event.run)
        pairs: Any = event.payload["params"]
        refused = []
        for chunk in chunks(pairs):
            params = [Param(name, value) for name, value in chunk]
            try:
                with judged():
                    self.place.client.log_batch(run_id, params=params)
            except RejectedError:
                for param in params:  # all but the one that spoils the call
                    try:
                        with judged():
                            self.place.client.log_batch(run_id, params=[param])
                    except RejectedError as rejection:
                        refused.append(str(rejection))
        if refused:
            raise RejectedError("; ".join(refused))

    def dataset(self, event: Event) -> None:
        """The data set that a run trains on."""
        from mlflow.entities import Dataset, DatasetInput, InputTag  # loads MLflow

        # MLflow keeps a data set once for an experiment, name and digest, and once for a run.
        fields: Any = event.payload
        context = InputTag("mlflow.data.context", "training")
        self.place.client.log_inputs(
            self.place.run_id(event.run), [DatasetInput(Dataset(**fields), [context])]
        )

    def tags(self, event: Event) -> None:
        """Tags of a run."""
        from mlflow.entities import RunTag  # loads MLflow

        tags: Any = event.payload["tags"]
        self.place.client.log_batch(
            self.place.run_id(event.run), tags=[RunTag(name, value) for name, value in tags.items()]
        )

    def experiment(self, event: Event) -> None:
        """Tags of the study's experiment."""
        tags: Any = event.payload["tags"]
        for name, value in tags.items():
            self.place.client.set_experiment_tag(self.place.experiment, name, value)

    def text(self, event: Event) -> None:
        """A text, as a file of the run."""
        self.place.client.log_text(
            self.place.run_id(event.run), str(event.payload["text"]), str(event.payload["file"])
        )

    def history(self, event: Event) -> None:
        """What was asked of a study so far, as a file of the run."""
        text = history.as_text(history.notes(self.log, event.run))
        self.place.client.log_text(self.place.run_id(event.run), text, history.FILE)

    def artifact(self, event: Event) -> None:
        """A file of the study's folder, of no other."""
        path = (self._folder / str(event.payload["path"])).resolve()
        if not path.is_relative_to(self._folder.resolve()):
            raise RejectedError(f"{event.payload['path']} is no file of the study")
        self.place.client.log_artifact(
            self.place.run_id(event.run), str(path), event.payload["artifact_path"]
        )

    def model(self, event: Event) -> None:
        """A model, with its registration."""
        send_model(self.place.client, self.log, self.place.run_id(event.run), event)

    def status(self, event: Event) -> None:
        """How a run stands or ended, with its last tags."""
        from mlflow.entities import RunTag  # loads MLflow

        place_below(self.place, event.run)
        place_those_below(self.place, event.run)
        run_id = self.place.run_id(event.run)
        tags: Any = event.payload["tags"]
        dropped: Any = event.payload["drop_tags"]
        status = str(event.payload["status"])
        if tags:
            self.place.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        for name in dropped:
            try:
                with judged():
                    self.place.client.delete_tag(run_id, name)
            except RejectedError as rejection:
                if rejection.code != "RESOURCE_DOES_NOT_EXIST":  # there was none
                    raise
        if status == "RUNNING":
            self.place.client.update_run(run_id, status=status)
        else:
            self.place.client.set_terminated(run_id, status=status, end_time=event.time_ms)


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
