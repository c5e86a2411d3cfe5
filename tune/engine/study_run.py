"""The run of a study on Ray Tune: searcher, scheduler and recorder put together."""

from __future__ import annotations

import logging
import time
from typing import Any

from ssl_core.system.errors import counted
from tune.cluster import local_ray  # before Ray Tune, which reads the environment that it sets

# isort: split
from ray import tune as ray_tune
from ray.tune.execution import class_cache
from ray.tune.stopper import Stopper

from ssl_core import method_file
from tune.cluster.connection import Room
from tune.cluster.identity import identity
from tune.definition.objective import FIELDS
from tune.definition.spec import StudySpec
from tune.engine.progress import Progress
from tune.engine.recorder import DEATHS, Recorder
from tune.engine.scheduler import StudyASHA
from tune.engine.searcher import StudySearcher
from tune.findings.ranking import best_record
from tune.findings.summary import TABLE_FILES, TABLE_TAG, description, importances, trials_csv, trials_json
from tune.store.home import Home
from tune.store.layout import RAY_FOLDER, STUDY_FILE
from tune.store.study_folder import StudyFolder
from tune.tracking.contents import tell_summary
from tune.tracking.news import TrackingNews
from tune.tracking.text import study_parameters
from tune.tracking.tracker import Tracker
from tune.trials.record import TrialRecord
from tune.trials.study_trials import StudyTrials
from tune.worker.task import PRELOAD
from tune.worker.trainable import TrialTrainable

# Ray Tune hands the driver's AWS keys to its workers, and Ray logs them on every machine. Trials need none.
class_cache.ENV_VARS_TO_PROPAGATE -= {n for n in class_cache.ENV_VARS_TO_PROPAGATE if n.startswith("AWS_")}

# At the end Ray lists the trials that it takes for failed, also one that was handed out again. The recorder says which
# did fail.
logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)

LOOK_SECONDS = 0.5
MOST_PLACES = 10_000
"""As `--concurrent` takes them at most."""


class StudyRun:
    """Runs a study until it is finished, or asked to stop.

    Args:
        spec: the study, its data decoded.
        folder: its folder, locked by this process.
        home: the home folder.
        progress: shows how it goes.
        tracker: the study's event log, whose sender is at work.

    Raises:
        ServiceError: the trials' storage does not answer.
    """

    def __init__(
        self,
        spec: StudySpec,
        folder: StudyFolder,
        home: Home,
        progress: Progress,
        tracker: Tracker,
    ) -> None:
        self.spec, self.folder, self.home, self.progress = spec, folder, home, progress
        self.signal: int | None = None
        """The signal that interrupted the run, where one did."""
        self.tracker, self.log = tracker, tracker.log
        self.news = TrackingNews(self.log)
        self.records = StudyTrials(folder, spec)
        self.recorder = Recorder(self.records, self.tracker, folder, self._watch)
        self._elapsed_before = float(self.log.get_meta("elapsed") or 0)
        self._began = time.monotonic()
        self._noted = self._next_look = 0.0

    def request_stop(self, number: int | None) -> None:
        """Stop soon, resumably: called by the handler of a signal, or (None) since `ssl-tune stop` asked for it."""
        self.signal = number
        self.recorder.stopping = self.recorder.stopping or "user"
        again = "" if number is None else "; once more to stop at once"
        self.progress.say(f"stopping: trials end their epoch, which is kept{again}")

    def run(self) -> str:
        """Run what is left; returns finished or interrupted."""
        with self.recorder.writing():
            self.tracker.study_started(
                study_parameters(self.spec), (self.folder.path / STUDY_FILE).read_text()
            )
            if self.spec.method_path is not None:
                self.tracker.artifact(None, self.folder.path / method_file.COPY)
            self.progress.begin(self.spec, self.records.all, self.news.waiting)
            self.recorder.end_decided()
            left = self.spec.trials - self.records.asked() + len(self.records.unfinished())
            self._began = time.monotonic()
            try:
                if left:
                    self._tune()
            finally:
                self.progress.end()
                self._note_elapsed()
        if self.interrupted:
            return "interrupted"
        with self.recorder.writing():
            if self.recorder.stopping == "time":
                self.recorder.end_running("time")
        return "interrupted" if self.interrupted else "finished"

    @property
    def interrupted(self) -> bool:
        """Whether the sitting ended before the study did."""
        return self.signal is not None or self.recorder.stopping in ("user", "storage")

    def end(self, state: str) -> bool:
        """End the study in the event log and let go of its trials' storage; whether a finished study found something.

        Args:
            state: finished, interrupted or failed.
        """
        record, _ = best_record(self.records.all())
        summary = {} if record is None else _best_metrics(record)
        tags = {"ssl.best_trial": record.trial} if record else {}
        if self.recorder.stopping == "time":
            tags["ssl.stop_reason"] = "time"
        with self.recorder.writing():
            self._describe(state)
            self.tracker.study_ended(state, summary, tags | TABLE_TAG)
            self.folder.commit()
        self.records.close()
        return state == "finished" and record is not None

    def wait_for_tracking(self, timeout: float) -> int:
        """Wait for MLflow, so many seconds at most, and end the sender; returns how many events are still owed."""
        if pending := self.tracker.pending():
            self.progress.say(f"delivering {counted(pending, 'event')} to MLflow")
        try:
            pending = self.tracker.sender.close(timeout, self._tell_news)
        except KeyboardInterrupt:
            self.progress.say("not waiting for MLflow any longer")
            pending = self.tracker.sender.close(0.0)
        self._tell_news()
        return pending

    def _describe(self, state: str) -> None:
        """The study's table of trials, its best parameters, and what it found in words."""
        records = self.records.all()
        record, _ = best_record(records)
        tell_summary(
            self.log,
            self.spec.name,
            best=record.params if record is not None and state == "finished" else {},
            texts=dict(zip(TABLE_FILES, (trials_csv(records), trials_json(records)), strict=True)),
            description=description(
                self.spec, records, state, importances(self.folder, self.spec.name) if records else {}
            ),
        )

    def _tell_news(self) -> None:
        for news in self.news.news():
            self.progress.say(news)

    def _tune(self) -> None:
        with local_ray.running(local_ray.cpus_for(self.spec), PRELOAD):
            tuner = ray_tune.Tuner(
                ray_tune.with_resources(TrialTrainable, local_ray.resources(self.spec)),
                tune_config=ray_tune.TuneConfig(
                    search_alg=self._searcher(),
                    scheduler=StudyASHA(self.records.epochs, self.records.history(), self.spec.objective),
                    num_samples=-1,  # the searcher says when there are no more; one may be handed out twice
                    # Ray lets so many trials wait for a place, and without a number one: places fill one by one.
                    # Where the places are those of the moment, the searcher holds back (`Room`).
                    max_concurrent_trials=MOST_PLACES if self.spec.elastic else self.spec.concurrent,
                    reuse_actors=True,
                    trial_name_creator=lambda trial: f"trial-{trial.config['trial']}",
                    trial_dirname_creator=lambda trial: f"trial-{trial.config['trial']}",
                ),
                run_config=ray_tune.RunConfig(
                    name=RAY_FOLDER,
                    storage_path=str(self.folder.path),
                    callbacks=[self.recorder],
                    stop=_SittingStopper(self),
                    failure_config=ray_tune.FailureConfig(max_failures=self.spec.max_failures + DEATHS),
                    checkpoint_config=ray_tune.CheckpointConfig(checkpoint_at_end=False),
                    verbose=0,
                    log_to_file=False,
                ),
            )
            tuner.fit()

    def _searcher(self) -> StudySearcher:
        of_cluster: dict[str, Any] = {}
        if self.spec.address is not None:
            room = Room(self.spec) if self.spec.elastic else None
            of_cluster = {"identity": identity(), "room": room}
        return StudySearcher(
            self.records,
            self.folder,
            self.home,
            writing=self.recorder.writing,
            returned=self.recorder.returned,
            **of_cluster,
        )

    def should_stop(self) -> bool:
        """Whether the sitting is to end; looked at by Ray's loop many times a second."""
        if self.recorder.stopping is None and self._time_is_up():
            self.recorder.stopping = "time"
            self.progress.say("the time budget is spent: running trials end here")
        if self.recorder.stopping is None and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            if self.folder.stop_requested():
                self.request_stop(None)
            elif (trouble := self.folder.trouble()) is not None:
                self.recorder.storage_failed(trouble)
        return self.recorder.stopping is not None

    def _time_is_up(self) -> bool:
        budget = self.spec.time_budget
        return budget is not None and self._elapsed() >= budget

    def _elapsed(self) -> float:
        return self._elapsed_before + time.monotonic() - self._began

    def _note_elapsed(self) -> None:
        self.log.set_meta("elapsed", f"{self._elapsed():.1f}")
        self._noted = time.monotonic()

    def _watch(self) -> None:
        if time.monotonic() - self._noted > 10:
            self._note_elapsed()
        self._tell_news()
        self.progress.update()


class _SittingStopper(Stopper):
    """Ends all trials of this sitting. The recorder decides which of them are over and which wait for `resume`."""

    def __init__(self, run: StudyRun) -> None:
        self._run = run

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._run.should_stop()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray snapshots its experiment; this one is never restored


def _best_metrics(record: TrialRecord) -> dict[str, float]:
    """The best trial's error as a metric of the study's run, and the objective's value, where that is another."""
    values = {field: getattr(record, field) for field in ("val_error", FIELDS[record.objective])}
    return {f"best/{field}": value for field, value in values.items() if value is not None}
