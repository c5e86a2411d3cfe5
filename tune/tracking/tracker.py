"""The driver's side of tracking: each call appends to the study's event log and returns.

Nothing here talks to MLflow or imports it. A process of its own, `tune.delivery.sender`, delivers what the log
owes, so a report costs the driver one small write whatever the tracking server does.

Kinds of events, each a dictionary (`run` is the run's own key: the study's name for the parent,
`study/trial` for a trial, `study/trial/confirm-0` for what hangs below a trial):

    start     {name, parent, tags}             make the run
    params    {params: [[name, value], ...]}   in this order
    dataset   {name, digest, source_type, source, profile}    the run's dataset input
    tags      {tags}                           set, or set anew
    experiment  {tags}                         the same, of the study's experiment
    text      {file, text}                     a text artifact
    artifact  {path, artifact_path}            a file artifact; relative paths are the study folder's
    model     {path}                           a model's folder, logged as a model of MLflow's
    metrics   {epoch or step, metrics}
    figure    {figure, ...}                    drawn before it is sent: see `tune.tracking.contents`
    status    {status, tags, drop_tags}        RUNNING again, or an end state

A run's state is that of its newest status event (RUNNING before the first), and a status event is
appended only where it changes something; so a driver that resumes may start and end its trials again,
and MLflow sees each run go on rather than a second one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from ssl_core.model.card import CARD_FILE
from tune.store.event_log import EventLog
from tune.store.events import NewEvent, now_ms
from tune.tracking.contents import is_drawn, run_figures, shared_tags
from tune.tracking.destination import note_destination
from tune.tracking.sender_process import SenderProcess
from tune.tracking.states import STUDY_STATUS, STUDY_STOP_REASON, TRIAL_STATUS
from tune.tracking.text import flat, headline, parameter_text, user
from tune.tracking.views import experiment_event


class Tracker:
    """Writes what happens in one study to its event log, and starts its sender again where that has died.

    Args:
        log: the study's event log; the study folder is the one it lies in.
        study: the study's name.
        tracking_uri: where MLflow is.
        experiment: the MLflow experiment, for example "cifar10@4000".
        common_tags: tags for every run: ssl.method, ssl.dataset, ssl.labels, ssl.split_hash.
        dataset: the data set as `tune.tracking.text.dataset_input` has it: each run's dataset input, with its
            ssl.split_hash as digest.
        artifact_root: see `tune.tracking.destination.note_destination`.
        sender: the study's sender, where it was started already; None: one that is not at work.
    """

    def __init__(
        self,
        log: EventLog,
        *,
        study: str,
        tracking_uri: str,
        experiment: str,
        common_tags: Mapping[str, str],
        dataset: Mapping[str, str] | None = None,
        artifact_root: Path | None = None,
        sender: SenderProcess | None = None,
    ) -> None:
        note_destination(log, tracking_uri, experiment, artifact_root)
        self.log = log
        self.study = study
        self.folder = log.path.absolute().parent
        self.sender = SenderProcess(log) if sender is None else sender
        self._tags = dict(common_tags)
        self._dataset = dataset

    # The study

    def study_started(
        self,
        params: Mapping[str, object],
        config_yaml: str,
        experiment_tags: Mapping[str, str] | None = None,
    ) -> None:
        """The study begins, or goes on; `experiment_tags` are as `tune.tracking.views.study_views` makes them."""
        self._start(self.study, self.study, None, {"ssl.kind": "study"}, params, config_yaml)
        if experiment_tags:
            self.log.append_many([experiment_event(self.study, experiment_tags)])

    def comparison_started(self, params: Mapping[str, object], config_yaml: str) -> None:
        """As `study_started`, of a comparison: its run has those of its studies below it, which other logs hold."""
        self._start(self.study, self.study, None, {"ssl.kind": "comparison"}, params, config_yaml)

    def study_ended(
        self, state: str, summary: Mapping[str, float], tags: Mapping[str, str] | None = None
    ) -> None:
        """The study ends, or pauses, as "finished", "interrupted" or "failed".

        Trials that are still open wait for `resume`, or were lost: none is left RUNNING.

        Args:
            state: how it ended.
            summary: metrics of the whole study, logged on the parent run.
            tags: more tags for the parent; may name another ssl.stop_reason, for example "time".
        """
        if state not in STUDY_STATUS:
            raise ValueError(f"a study ends {', '.join(STUDY_STATUS)}, not {state!r}")
        for run in self.log.runs():
            if run != self.study:
                self._interrupt(run)
        reason = {"ssl.stop_reason": STUDY_STOP_REASON[state]}
        self._end(self.study, STUDY_STATUS[state], reason | dict(tags or {}), summary)

    # Its trials

    def trial_started(
        self,
        trial: str,
        searched: Mapping[str, object],
        fixed: Mapping[str, object],
        config_yaml: str,
        parent: str | None = None,
        tags: Mapping[str, str] | None = None,
        time_ms: int | None = None,
    ) -> None:
        """A trial begins, or goes on (after an interruption, or tried again) in the run that it has.

        Args:
            trial: the Optuna number as a string; for a run below a trial, for example "7/confirm-0".
            searched: the searched hyperparameters; nested ones become dotted names (`vat.eps`).
            fixed: the rest of the configuration.
            config_yaml: the whole resolved configuration, kept as the artifact `config.yaml`.
            parent: the trial that this run belongs to, where it is not the study itself.
            tags: more tags for this run.
            time_ms: when, in Unix milliseconds; now where None.
        """
        number, _, below = trial.partition("/")
        name = f"trial {number} {below}".rstrip() if number.isdigit() else f"{number} {below}"
        parent_run = self.study if parent is None else self.run_key(parent)
        params = dict(flat(searched))
        params |= {name: value for name, value in flat(fixed) if name not in params}
        own_tags = {"ssl.kind": "confirm" if below else "trial", "ssl.trial": number, **(tags or {})}
        self._start(self.run_key(trial), name, parent_run, own_tags, params, config_yaml, time_ms)

    def report(
        self,
        trial: str,
        epoch: int,
        metrics: Mapping[str, float],
        time_ms: int | None = None,
        classes: Mapping[str, list[int]] | None = None,
        again: bool = False,
    ) -> bool:
        """An epoch's metrics, all in one event. An epoch that the log has already is not taken again.

        Args:
            trial: the trial.
            epoch: finished epochs, from 1: the step in MLflow.
            metrics: every metric of the epoch; NaN and infinities are kept.
            time_ms: when, in Unix milliseconds; now where None.
            classes: counts by class (`ssl_core.training.run.Report`); kept here for pictures, not sent.
            again: MLflow may have these points, at other times than `time_ms`: only those are sent that it lacks.

        Returns:
            Whether the epoch was new.
        """
        run = self.run_key(trial)
        values = {name: float(value) for name, value in metrics.items()}
        payload: dict[str, object] = {"epoch": int(epoch), "metrics": values}
        if again:
            payload["again"] = True
        if classes:
            payload["classes"] = dict(classes)
        new = self.log.append("metrics", run, payload, key=f"{run}:epoch:{int(epoch)}", time_ms=time_ms)
        self.sender.revive()
        return new

    def trial_ended(
        self,
        trial: str,
        stop_reason: str,
        *,
        summary: Mapping[str, float] | None = None,
        error: str | None = None,
        tags: Mapping[str, str] | None = None,
        time_ms: int | None = None,
        picture: Path | None = None,
        warmup: int = 0,
        test_confusion: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """A trial ends for good; its learning curves, and more where it is completed, are drawn and kept.

        Args:
            trial: the trial.
            stop_reason: completed, asha, median, nan, oom, error, user or time.
            summary: metrics of the whole run, logged at the step of its last epoch.
            error: the traceback of a failed trial: artifact `error.txt`, its last line the tag ssl.error.
            tags: more tags.
            time_ms: when, in Unix milliseconds; now where None.
            picture: what `ssl_core.pictures.panels` made of the run, if it did.
            warmup: epochs of its warm-up.
            test_confusion: the confusion matrix on the test images, where they were read.
        """
        if stop_reason not in TRIAL_STATUS:
            raise ValueError(f"a trial stops for {', '.join(TRIAL_STATUS)}, not {stop_reason!r}")
        run = self.run_key(trial)
        own_tags = {"ssl.stop_reason": stop_reason, **shared_tags(self.log.reports(run)), **(tags or {})}
        if error is not None:
            self.log.append("text", run, {"file": "error.txt", "text": error})
            own_tags["ssl.error"] = headline(error)
        ended, completed = TRIAL_STATUS[stop_reason], stop_reason == "completed"
        if self._end(run, ended, own_tags, summary or {}, time_ms) and is_drawn(trial, completed=completed):
            kept = self._stored(picture) if completed and picture is not None and picture.exists() else None
            self.log.append_many(
                run_figures(
                    run,
                    self.log.reports(run),
                    completed=completed,
                    picture=kept,
                    warmup=warmup,
                    test_confusion=test_confusion,
                )
            )

    def trial_interrupted(self, trial: str) -> None:
        """A trial waits for `resume`: KILLED without a stop reason, RUNNING again once it has started."""
        self._interrupt(self.run_key(trial))

    def artifact(self, run: str | None, path: Path, artifact_path: str | None = None) -> None:
        """A file to be kept with a run; it is read when it is sent, so it has to stay where it is.

        Args:
            run: the trial; None for the study.
            path: the file, best inside the study folder, which may then be moved.
            artifact_path: the folder among the run's artifacts.
        """
        key = self.study if run is None else self.run_key(run)
        path = Path(path).absolute()
        version = f"{path.stat().st_size}-{path.stat().st_mtime_ns}"
        stored = self._stored(path)
        payload = {"path": stored, "artifact_path": artifact_path}
        self.log.append(
            "artifact", key, payload, key=f"{key}:artifact:{artifact_path or ''}/{stored}:{version}"
        )

    def model(self, run: str, folder: Path) -> None:
        """A model of a run: logged as a model of MLflow's, with its errors. Its folder has to stay where it is.

        Args:
            run: the trial, or the run below it.
            folder: of the model (`ssl_core.model.folder`).
        """
        key = self.run_key(run)
        version = hashlib.sha256((folder / CARD_FILE).read_bytes()).hexdigest()[:16]
        self.log.append("model", key, {"path": self._stored(folder)}, key=f"{key}:model:{version}")

    def _stored(self, path: Path) -> str:
        """A path as the log keeps it: relative to the study's folder where it lies in there."""
        path = path.absolute()
        return str(path.relative_to(self.folder) if path.is_relative_to(self.folder) else path)

    def pending(self) -> int:
        """How many events MLflow has not got yet."""
        self.sender.revive()
        return self.log.pending()

    # Events

    def run_key(self, trial: str) -> str:
        """The key of a trial's run in the event log."""
        return f"{self.study}/{trial}"

    def _start(
        self,
        run: str,
        name: str,
        parent: str | None,
        tags: Mapping[str, str],
        params: Mapping[str, object],
        config_yaml: str,
        time_ms: int | None = None,
    ) -> None:
        if self.log.find(f"{run}:start") is not None:
            self._reopen(run)
            return
        base = {"ssl.study": self.study, "ssl.run_key": f"{self.log.get_meta('study_id')}:{run}"}
        origin = {"mlflow.user": user(), "mlflow.source.name": "ssl-tune", "mlflow.source.type": "LOCAL"}
        all_tags = origin | self._tags | dict(tags) | base
        start = {"name": name, "parent": parent, "tags": all_tags}
        pairs = [[key, parameter_text(value)] for key, value in flat(params)]
        time_ms = now_ms() if time_ms is None else time_ms
        events = [
            NewEvent("start", run, start, f"{run}:start", time_ms),
            NewEvent("params", run, {"params": pairs}, f"{run}:params", time_ms),
            NewEvent("text", run, {"file": "config.yaml", "text": config_yaml}, f"{run}:config", time_ms),
        ]
        if self._dataset is not None and all_tags.get("ssl.split_hash"):
            dataset = {**self._dataset, "digest": all_tags["ssl.split_hash"]}
            events.append(NewEvent("dataset", run, dataset, f"{run}:dataset", time_ms))
        self.log.append_many(events)

    def _state(self, run: str) -> tuple[str, int]:
        """A run's state, and the id of the event that gave it: what makes the next status event's key."""
        last = self.log.last(run, "status")
        return ("RUNNING", 0) if last is None else (str(last.payload["status"]), last.id)

    def _status(
        self, run: str, payload: Mapping[str, object], after: int, time_ms: int | None = None
    ) -> NewEvent:
        return NewEvent("status", run, payload, f"{run}:status:after-{after}", time_ms)

    def _reopen(self, run: str) -> None:
        state, after = self._state(run)
        if state != "RUNNING":
            dropped = ["ssl.stop_reason", "ssl.error"]
            payload = {"status": "RUNNING", "tags": {}, "drop_tags": dropped}
            self.log.append_many([self._status(run, payload, after)])

    def _interrupt(self, run: str) -> None:
        state, after = self._state(run)
        if state == "RUNNING" and self.log.find(f"{run}:start") is not None:
            payload = {"status": "KILLED", "tags": {}, "drop_tags": []}
            self.log.append_many([self._status(run, payload, after)])

    def _end(
        self,
        run: str,
        status: str,
        tags: Mapping[str, str],
        summary: Mapping[str, float],
        time_ms: int | None = None,
    ) -> bool:
        """End a run; False, and nothing done, where it has ended just so."""
        _, after = self._state(run)
        last = self.log.last(run, "status")
        if last is not None and last.payload["status"] == status and last.payload["tags"] == dict(tags):
            return False
        events = []
        if summary:
            reports = self.log.reports(run)
            payload = {
                "step": reports[-1].epoch if reports else 0,
                "metrics": {name: float(value) for name, value in summary.items()},
            }
            events.append(NewEvent("metrics", run, payload, f"{run}:summary:after-{after}", time_ms))
        payload = {"status": status, "tags": dict(tags), "drop_tags": []}
        events.append(self._status(run, payload, after, time_ms))
        self.log.append_many(events)
        return True
