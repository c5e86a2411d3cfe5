"""Writes down what Ray Tune reports: first to the study's event log, then to Optuna; then progress is shown.

Every report may come twice (a worker that was started again repeats what its driver may have missed): an epoch
counts once, and so does an end. Where something cannot be written (a full disk, a database that does not answer),
nothing more is written: the sitting ends, and `resume` finds what was written so far.
"""

from __future__ import annotations

import importlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import RayTaskError
from ray.tune import Callback
from ray.tune.result import NODE_IP

from search_spaces.yaml_text import Dumper
from ssl_core.pictures.file import FILE_NAME as PICTURE
from ssl_core.training.warmups.names import is_shared
from tune.engine.storage_faults import headline, is_storage_trouble
from tune.engine.worker_deaths import HangWatch, MemoryKills
from tune.store.study_folder import StudyFolder
from tune.tracking.tracker import Tracker
from tune.trials.record import ENQUEUED, deviation_so_far, folds_so_far, shared_so_far
from tune.trials.study_trials import StudyTrials
from tune.worker.report_keys import (
    BALANCED,
    BOTH,
    CLASSES,
    EPOCH,
    ERROR,
    ERROR_FILE,
    IN_WARMUP,
    LOSS,
    MESSAGE,
    METRICS,
    SSL_EPOCH,
    STOP_REASON,
    STORAGE,
    VERDICT_FILE,
)

LOOK_SECONDS = 1.0
DEATHS = 3
"""How often a trial's worker may die (be killed, hang) in one epoch, beside the exceptions that it may raise."""


class Recorder(Callback):
    """The study's one writer.

    Args:
        records: the trials in Optuna.
        tracker: the event log and its delivery to MLflow.
        folder: the study's folder.
        watch: called after every change.
    """

    def __init__(
        self, records: StudyTrials, tracker: Tracker, folder: StudyFolder, watch: Callable[[], None]
    ) -> None:
        self._records, self._tracker, self._folder, self._watch = records, tracker, folder, watch
        self._last: dict[int, dict[str, Any]] = {}
        self._hangs = HangWatch()
        self._kills = MemoryKills()
        self._next_look = 0.0
        self._texts = Dumper()
        self._spared: dict[int, int] = {}
        self.returned: deque[int] = deque()
        """Trials that are to be handed out again (`tune.engine.searcher`)."""
        self.stopping: str | None = None
        """Why the whole sitting is being ended, once it is: user, time or storage."""
        self.trouble: str | None = None
        """What could not be written, once something could not."""
        self.left_race = False
        """Whether the study's method left the race of its comparison: each trial ends with its next report."""
        self.epochs_run, self.seconds_run = 0, 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray snapshots its experiment; this one is never restored

    @contextmanager
    def writing(self) -> Iterator[None]:
        """For a block that writes: where it cannot, the sitting is ended, and the study can be resumed."""
        try:
            yield
        except Exception as error:
            if not is_storage_trouble(error):
                raise
            self.storage_failed(headline(error))

    def storage_failed(self, what: str) -> None:
        """Something could not be written: end the sitting."""
        self.trouble = self.trouble or what
        self.stopping = "storage"

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Ray's loop turns, some ten times a second: look whether workers hang."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_SECONDS
        self._kills.look()
        for number in self._hangs.hung():
            for trial in trials:
                if trial.config["trial"] == number and trial.temporary_state.ray_actor is not None:
                    # Ray sees a worker that died, and starts the trial again.
                    ray.kill(trial.temporary_state.ray_actor)
            self._hangs.ended(number)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins or goes on."""
        number = trial.config["trial"]
        with self.writing():
            last = self._records.trial(number).user_attrs.get("last", {"epoch": 0, "seconds": 0.0})
            self._last[number] = last
            self._hangs.started(number, warmup=last.get("ssl_epoch") is None)
            self._start(number, trial.config.get("config"))
            self._watch()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch, or an end without one. `result["done"]` without a stop reason is the scheduler's decision."""
        number = trial.config["trial"]
        if STORAGE in result:
            self.storage_failed(result[STORAGE])
        if self.trouble is not None:
            return  # the worker reports it again after `resume`
        reason = result.get(STOP_REASON) or (self._who_stopped(number) if result.get("done") else None)
        with self.writing():
            if EPOCH in result:
                self._epoch(number, result, reason)
                trial.run_metadata.num_failures = 0  # what Ray counts are workers that die without an epoch
            if reason is not None:
                self._end(number, reason, error=result.get(MESSAGE))
            self._watch()

    def _who_stopped(self, number: int) -> str:
        """Why the scheduler ended a trial: its own rule, the race of a comparison, or somebody asked for it."""
        if number in self._records.stop_asked:
            return "user"
        return "race" if self.left_race else self._records.spec.scheduler

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker died or raised, and the trial is about to go on in another."""
        number = trial.config["trial"]
        self._hangs.ended(number)
        # Of a worker on another machine nothing is known here: it is started again like one that was lost.
        if isinstance(_error(trial), RayTaskError) or not self._was_here(trial) or not self._kills.blamed():
            return
        with (
            self.writing()
        ):  # the same trial would be killed again: the next worker reads this file and ends it
            folder = Path(trial.config["folder"])
            folder.mkdir(parents=True, exist_ok=True)
            (folder / VERDICT_FILE).write_text("the kernel killed the trial's process for memory")
            self._folder.keep(number, VERDICT_FILE)

    def _was_here(self, trial: Any) -> bool:
        """Whether a trial's worker was on this machine; on a cluster, until it has reported: no."""
        if self._records.spec.address is None:
            return True
        there = (trial.last_result or {}).get(NODE_IP)
        here: object = importlib.import_module("ray.util").get_node_ip_address()  # which has no annotations
        return there is not None and there == here

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's worker died too often in the same epoch, or could not be started, or died between two trials."""
        number, error = trial.config["trial"], _error(trial)
        if self._is_spared(number, trial):
            self._hangs.ended(number)
            self.returned.append(number)
            return
        noted = Path(trial.config["folder"]) / ERROR_FILE
        with self.writing():
            self._folder.bring(number, ERROR_FILE)
        if isinstance(error, RayTaskError) and noted.exists():
            text = noted.read_text()
        else:
            epoch = self._last.get(number, {}).get("epoch", 0) + 1
            text = f"its worker died in epoch {epoch} each time it was started: {error}"
        with self.writing():
            self._start(number)
            self._end(number, "error", error=text)
            self._watch()

    def _is_spared(self, number: int, trial: Any) -> bool:
        """Whether Ray gave up a trial too early: one that was handed to a worker which died before it began.

        Ray starts a trial again that runs (tune_controller.py, _process_trial_failure), but not one that waits
        for a worker used before it to be ready.
        """
        if trial.run_metadata.num_failures > trial.max_failures:
            return False
        self._spared[number] = self._spared.get(number, 0) + 1
        return self._spared[number] <= DEATHS

    def end_running(self, reason: str) -> None:
        """End every trial that is under way, since the study's time is up."""
        for trial in self._records.unfinished():
            self._start(trial.number)  # one that still waits for a worker is a trial of the study, too
            self._end(trial.number, reason)

    def end_decided(self) -> None:
        """End the trials whose end an earlier driver had noted, and no more, when it died; and those that somebody
        stops."""
        for trial in self._records.unfinished():
            reason = trial.user_attrs.get("last", {}).get("stop_reason")
            if reason is None and trial.number in self._records.stop_asked:
                reason = "user"
                self._start(trial.number)
            if reason is not None:
                self._end(trial.number, reason)

    def _start(self, number: int, document: Mapping[str, Any] | None = None) -> None:
        """Make the trial's run, if it has none yet.

        Args:
            number: the trial.
            document: its whole configuration, where that is at hand.
        """
        trial = self._records.trial(number)
        values = trial.params
        document = document or self._records.spec.trial_config(values).document()
        searched = self._records.space.resolve(values, self._records.epochs)
        self._tracker.trial_started(
            str(number),
            searched,
            {k: v for k, v in document.items() if k != "method"},
            self._texts.dump(document),
            tags={"ssl.origin": "user"} if ENQUEUED in trial.user_attrs else None,
        )

    def _epoch(self, number: int, result: dict[str, Any], reason: str | None) -> None:
        last = self._last[number]
        if result[EPOCH] <= last["epoch"]:
            self._hangs.started(number, warmup=_in_warmup(result))  # alive, but nothing is new
            return
        metrics = result[METRICS]
        folds = folds_so_far(last, metrics, epoch=result[EPOCH], epochs=self._records.epochs)
        summary = {
            "epoch": result[EPOCH],
            "ssl_epoch": result.get(SSL_EPOCH),
            "val_error": result[ERROR],
            "val_error_balanced": result.get(BALANCED),
            "deviation": deviation_so_far(result.get(CLASSES) or {}, len(folds.get("folds", ()))),
            "val_loss": result[LOSS],
            "val_error_and_loss": result.get(BOTH),
            "seconds": last["seconds"] + metrics["time/epoch_seconds"],
            **shared_so_far(last, metrics),
            **folds,
            "stop_reason": reason,  # in the one write that makes the epoch known
        }
        # The event log goes first: if the driver dies in between, the worker reports this epoch again, the log
        # has it already and Optuna takes it then. The other way round it would be lost to the log.
        now = int(time.time() * 1000)
        self._tracker.report(str(number), result[EPOCH], metrics, time_ms=now, classes=result.get(CLASSES))
        self._records.report(number, summary)
        self._last[number] = summary
        self._spared.pop(number, None)
        if is_shared(metrics):  # nothing was trained: that tells nothing of how long an epoch takes
            self._hangs.started(number, warmup=_in_warmup(result))
        else:
            self._hangs.reported(number, metrics["time/epoch_seconds"], warmup=_in_warmup(result))
        self.epochs_run += 1
        self.seconds_run += metrics["time/epoch_seconds"]

    def _end(self, number: int, reason: str, *, error: str | None = None) -> None:
        self._hangs.ended(number)
        last = self._last.get(number) or self._records.trial(number).user_attrs.get("last", {})
        warmup = last.get("epoch", 0) - (last.get("ssl_epoch") or 0)
        picture = self._folder.trials / str(number) / PICTURE
        if reason == "completed":
            self._folder.bring(number, PICTURE)
        self._tracker.trial_ended(str(number), reason, error=error, picture=picture, warmup=warmup)
        self._records.end(number, reason, error=error)
        if reason not in ("completed", "error"):  # nobody carries these on, and thousands fill a disk
            self._folder.drop_trial(number)


def _in_warmup(result: Mapping[str, Any]) -> bool:
    """Whether a reported epoch was one of a warm-up."""
    return bool(result.get(IN_WARMUP, SSL_EPOCH not in result))


def _error(trial: Any) -> Exception | None:
    """A trial's latest error. Ray's own accessor reads the copy in its storage, which is made later."""
    path = trial.pickled_error_file
    if path is None or not Path(path).exists():
        return None
    error: Exception = cloudpickle.loads(Path(path).read_bytes())
    return error
