"""The run of a study on Ray Tune: searcher, scheduler and recorder put together."""

from __future__ import annotations

import time
from typing import Any

from ssl_core.system.errors import counted
from tune.cluster import local_ray  # before Ray Tune, which reads the environment that it sets

# isort: split
from ray.tune.schedulers import TrialScheduler

from ssl_core import method_file
from tune.cluster.connection import Room
from tune.cluster.identity import identity
from tune.definition.objective import FIELDS
from tune.definition.spec import StudySpec
from tune.engine.progress import Progress
from tune.engine.ray_loop import SittingStopper, ray_loop
from tune.engine.recorder import Recorder
from tune.engine.scheduler import make_scheduler
from tune.engine.searcher import StudySearcher
from tune.findings.elsewhere import HomeResults
from tune.findings.outlook.rule import is_settled, why_settled
from tune.findings.ranking import best_record
from tune.findings.summary import TABLE_FILES, TABLE_TAG, description, importances, trials_csv, trials_json
from tune.steering.steering import Steering
from tune.store.home import Home
from tune.store.layout import STUDY_FILE
from tune.store.study_folder import StudyFolder
from tune.tracking import history
from tune.tracking.contents import tell_summary
from tune.tracking.news import TrackingNews
from tune.tracking.text import study_parameters
from tune.tracking.tracker import Tracker
from tune.tracking.views import study_views
from tune.trials.record import TrialRecord
from tune.trials.repeats import MOST_REPEATS
from tune.trials.study_trials import StudyTrials
from tune.worker.task import PRELOAD

LOOK_SECONDS = 0.5


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
        self.records = StudyTrials(folder, spec, HomeResults(home, spec))
        self.recorder = Recorder(self.records, self.tracker, folder, self._watch)
        self.steering = Steering(
            folder,
            self.records,
            self.log,
            say=progress.say,
            changed=self._change,
            returned=self.recorder.returned.extend,
        )
        self._epochs_before = sum(r.epoch for r in self.records.all())
        self._seconds_before = sum(r.seconds for r in self.records.all())
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
            self.begin()
            try:
                self._tune_what_is_left()
            finally:
                self.pause()
        # What was asked for in the last moment is left for `resume`.
        return "interrupted" if self.has_more else self.conclude()

    def begin(self) -> int:
        """The study begins, or goes on; how many trials are left to run."""
        self.tracker.study_started(
            study_parameters(self.spec),
            (self.folder.path / STUDY_FILE).read_text(),
            study_views(self.spec),
        )
        if self.spec.method_path is not None:
            self.tracker.artifact(None, self.folder.path / method_file.COPY)
        self.progress.begin(self.spec, self.records.all, self.news.waiting)
        self._began = time.monotonic()
        self.steering.look()
        self.recorder.returned.clear()  # they are among those that wait
        self.recorder.end_decided()
        return sum(self._left())

    def pause(self) -> None:
        """No trial runs any more: note how long they took."""
        self.progress.end()
        self._note_elapsed()

    def conclude(self) -> str:
        """How the run ended, finished or interrupted; where its time is up, trials that are under way end here."""
        if self.interrupted:
            return "interrupted"
        with self.recorder.writing():
            if self.recorder.stopping == "time":
                self.recorder.end_running("time")
        if self.recorder.stopping is None:
            self._say_settled()
        return "interrupted" if self.interrupted else "finished"

    def _tune_what_is_left(self) -> None:
        """Run trials until there are none left, also those that are asked for while the last ones run."""
        before = None
        # As many may be left as before the round, if it was asked for more meanwhile: what counts is what it has done.
        while self.recorder.stopping is None and (now := self._done()) != before and sum(self._left()) > 0:
            before = now
            self.recorder.returned.clear()  # they are among those that wait
            self._tune()
            if self.recorder.stopping is None:
                self.steering.look()
        if self.records.exhausted and self.recorder.stopping is None:
            self._say_exhausted()

    def _left(self) -> tuple[int, int]:
        """Trials to be asked for, and trials that wait to be carried on."""
        no_more = self.records.exhausted or is_settled(self.records.all(), self.spec)
        new = 0 if no_more else max(0, self.spec.trials - self.records.asked())
        return new, len(self.records.unfinished())

    @property
    def has_more(self) -> bool:
        """Whether trials are left to run, and nothing has told the run to end."""
        return self.recorder.stopping is None and sum(self._left()) > 0

    def _done(self) -> tuple[int, int]:
        """Trials asked for so far, and those of them that have ended."""
        asked = self.records.asked()
        return asked, asked - len(self.records.unfinished())

    def _say_exhausted(self) -> None:
        """The study ends with fewer trials than it may have."""
        said = (
            f"the space is exhausted: {MOST_REPEATS} configurations in a row were known already. The study ends with "
            f"{counted(self.records.asked(), 'trial')} of {self.spec.trials}"
        )
        if self.spec.sampler == "grid":
            said = f"every point of the grid has been tried: {counted(self.records.asked(), 'trial')}"
        self.progress.say(said)
        history.note(self.log, self.spec.name, said, f"exhausted:{self.records.asked()}")

    def _say_settled(self) -> None:
        """Where its patience ended the study before it had all of its trials: why."""
        records = self.records.all()
        if len(records) < self.spec.trials and is_settled(records, self.spec):
            said = why_settled(records, self.spec)
            self.progress.say(said)
            with self.recorder.writing():
                history.note(self.log, self.spec.name, said, f"settled:{len(records)}")

    def _change(self, spec: StudySpec) -> None:
        """The study's specification has changed."""
        self.spec = self.progress.spec = spec

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
        weights = importances(self.folder, self.spec.name) if records else {}
        tell_summary(
            self.log,
            self.spec.name,
            best=record.params if record is not None and state == "finished" else {},
            texts=dict(zip(TABLE_FILES, (trials_csv(records), trials_json(records)), strict=True)),
            weights=weights,
            description=description(self.spec, records, state, weights),
        )

    def _tell_news(self) -> None:
        for news in self.news.news():
            self.progress.say(news)

    def _tune(self) -> None:
        cpus, trial = local_ray.cpus_for(self.spec), local_ray.reserved(self.spec)
        with local_ray.running(cpus, PRELOAD, self.spec.concurrent, trial):
            ray_loop(
                self.spec,
                self.folder.path,
                searcher=self.searcher(),
                scheduler=self.scheduler(),
                recorder=self.recorder,
                stopper=SittingStopper(self),
            )

    def scheduler(self) -> TrialScheduler:
        """What ends trials early, with what it knows of earlier ones."""
        return make_scheduler(self.spec, self.records.history(), self.records.stop_asked)

    def searcher(self, *, alone: bool = True) -> StudySearcher:
        """What hands out the study's trials.

        Args:
            alone: no other study has a share of the places, so the searcher counts those of a cluster itself.
        """
        of_cluster: dict[str, Any] = {}
        if self.spec.address is not None:
            room = Room(self.spec) if self.spec.elastic and alone else None
            of_cluster = {"identity": identity(), "room": room}
        return StudySearcher(
            self.records,
            self.folder,
            self.home,
            writing=self.recorder.writing,
            say=self.progress.say,
            returned=self.recorder.returned,
            **of_cluster,
        )

    def should_stop(self) -> bool:
        """Whether the sitting is to end; looked at by Ray's loop many times a second."""
        if self.recorder.stopping is None and (budget := self._spent_budget()) is not None:
            self.recorder.stopping = "time"
            self.progress.say(f"the {budget} spent: running trials end here")
        if self.recorder.stopping is None and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            if self.folder.stop_requested():
                self.request_stop(None)
            elif (trouble := self.folder.trouble()) is not None:
                self.recorder.storage_failed(trouble)
            else:
                with self.recorder.writing():
                    self.steering.look()
        return self.recorder.stopping is not None

    def _spent_budget(self) -> str | None:
        """The budget that is spent, with its verb; None where all have something left."""
        spec = self.spec
        if spec.time_budget is not None and self._elapsed() >= spec.time_budget:
            return "time budget is"
        if spec.epochs_budget is not None and self.epochs >= spec.epochs_budget:
            return "budget of epochs is"
        hours = (self._seconds_before + self.recorder.seconds_run) * spec.gpus_per_trial / 3600
        return "GPU hours are" if spec.gpu_hours is not None and hours >= spec.gpu_hours else None

    @property
    def epochs(self) -> int:
        """Epochs that the study's trials have trained."""
        return self._epochs_before + self.recorder.epochs_run

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


def _best_metrics(record: TrialRecord) -> dict[str, float]:
    """The best trial's error as a metric of the study's run, and the objective's value, where that is another."""
    values = {field: getattr(record, field) for field in ("val_error", FIELDS[record.objective])}
    return {f"best/{field}": value for field, value in values.items() if value is not None}
