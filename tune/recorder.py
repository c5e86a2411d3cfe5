"""Writes down what Ray Tune reports: Optuna first, then the study's event log, then the eyes that watch.

Everything here may be told twice (a worker that was started again repeats what its driver may have missed):
an epoch counts once, and so does an end.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune import Callback

from search_spaces import dump_yaml
from ssl_core.picture_file import FILE_NAME as PICTURE
from tune.records import Records
from tune.study import StudyFolder
from tune.tracking import Tracker
from tune.trainable import CLASSES, EPOCH, ERROR, LOSS, MESSAGE, METRICS, SSL_EPOCH, STOP_REASON


class Recorder(Callback):
    """The study's one writer.

    Args:
        records: the trials in Optuna.
        tracker: the event log and its delivery to MLflow.
        folder: the study's folder.
        watch: called after every change.
    """

    def __init__(
        self, records: Records, tracker: Tracker, folder: StudyFolder, watch: Callable[[], None]
    ) -> None:
        self._records, self._tracker, self._folder, self._watch = records, tracker, folder, watch
        self._last: dict[int, dict[str, Any]] = {}
        self.stopping: str | None = None
        """Why the whole study is being ended, once it is: what trials say from then on is not their end."""
        self.epochs_run = 0

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray snapshots its experiment; this one is never restored

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins or goes on."""
        number = trial.config["trial"]
        self._last[number] = self._records.trial(number).user_attrs.get("last", {"epoch": 0, "seconds": 0.0})
        self._start(number)
        self._watch()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch, or an end without one. `result["done"]` without a stop reason is ASHA's decision."""
        number = trial.config["trial"]
        reason = result.get(STOP_REASON) or ("asha" if result.get("done") else None)
        if reason == "asha" and self.stopping is not None:
            reason = None  # Ray ends every trial of a study that is being stopped
        if EPOCH in result:
            self._epoch(number, result, reason)
        if reason is not None:
            self._end(number, reason, error=result.get(MESSAGE))
        self._watch()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed more often than it may."""
        number = trial.config["trial"]
        noted = Path(trial.config["folder"]) / "error.txt"
        text = noted.read_text() if noted.exists() else str(trial.get_error() or "the worker died")
        self._start(number)
        self._end(number, "error", error=text)
        self._watch()

    def end_running(self, reason: str) -> None:
        """End every trial that is under way, since the study's time is up."""
        for trial in self._records.unfinished():
            self._start(trial.number)  # one that still waits for a worker is a trial of the study, too
            self._end(trial.number, reason)

    def end_decided(self) -> None:
        """End the trials whose end an earlier driver had noted, and no more, when it died."""
        for trial in self._records.unfinished():
            reason = trial.user_attrs.get("last", {}).get("stop_reason")
            if reason is not None:
                self._end(trial.number, reason)

    def _start(self, number: int) -> None:
        """Make the trial's run, if it has none yet."""
        values = self._records.trial(number).params
        document = self._records.spec.trial_config(values).document()
        searched = self._records.space.resolve(values, self._records.epochs)
        self._tracker.trial_started(
            str(number), searched, {k: v for k, v in document.items() if k != "method"}, dump_yaml(document)
        )

    def _epoch(self, number: int, result: dict[str, Any], reason: str | None) -> None:
        last = self._last[number]
        if result[EPOCH] <= last["epoch"]:
            return
        metrics = result[METRICS]
        summary = {
            "epoch": result[EPOCH],
            "ssl_epoch": result.get(SSL_EPOCH),
            "val_error": result[ERROR],
            "val_loss": result[LOSS],
            "seconds": last["seconds"] + metrics["time/epoch_seconds"],
            "stop_reason": reason,  # in the one write that makes the epoch known
        }
        # The event log goes first: if the driver dies in between, the worker reports this epoch again, the log
        # has it already and Optuna takes it then. The other way round it would be lost to the log.
        now = int(time.time() * 1000)
        self._tracker.report(str(number), result[EPOCH], metrics, time_ms=now, classes=result.get(CLASSES))
        self._records.report(number, summary)
        self._last[number] = summary
        self.epochs_run += 1

    def _end(self, number: int, reason: str, *, error: str | None = None) -> None:
        last = self._last.get(number) or self._records.trial(number).user_attrs.get("last", {})
        warmup = last.get("epoch", 0) - (last.get("ssl_epoch") or 0)
        picture = self._folder.trials / str(number) / PICTURE
        self._tracker.trial_ended(str(number), reason, error=error, picture=picture, warmup=warmup)
        self._records.end(number, reason, error=error)
        if reason not in ("completed", "error"):  # nobody carries these on, and thousands fill a disk
            shutil.rmtree(self._folder.trials / str(number), ignore_errors=True)
