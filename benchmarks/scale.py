"""A large study through the real sampler, scheduler, Optuna storage and event log; only the training is simulated.

    python -m benchmarks.scale --trials 10000 --workers 64 --json
    python -m benchmarks.scale --trials 100000 --home DIR --seconds 300     # again and again: each carries the study on

Workers are simulated in virtual time: each trains one trial, reports an epoch after a time drawn for it, and takes
the next trial when it ends or is stopped. The driver's work is real, and each part is measured: asking Optuna for a
trial, ASHA's decision, Optuna's report, the append to the event log, ending a trial. Ray's own loop is left out. The
driver is one process, so the number of reports that it can take in a second is one over the sum of the parts. The
delivery to MLflow runs beside it in a process of its own, and is measured with `--deliver`.

`--seconds` ends the measurement early, after a report; the result says how far it came. With `--home` the study stays
in that folder, and the next call resumes it as a driver does; `resume_seconds` is what that takes. `--prepared N`
writes N ended trials into the storages first, and runs the others.

Each window, which is printed to stderr as soon as it is over, has the means of so many trials, what the driver could
take in a second there (and in a second of processor time, which other work on the machine disturbs less), and the
resident memory at its end.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil

from benchmarks.prepared import prepare
from tune.definition.request import SearchRequest
from tune.engine.recorder import Recorder
from tune.engine.scheduler import StudyASHA
from tune.engine.searcher import StudySearcher
from tune.launch.request import resolve_request
from tune.store.home import Home
from tune.store.layout import STUDY_FILE
from tune.store.specification import read_spec
from tune.store.study_folder import StudyFolder
from tune.tracking.opening import open_log, open_tracker
from tune.trials.study_trials import StudyTrials
from tune.worker.report_keys import CLASSES, EPOCH, ERROR, LOSS, METRICS, SSL_EPOCH, STOP_REASON

STAGES = ("ask", "start", "schedule", "record", "end")
WINDOW = 500  # trials between two lines of the table
METRIC_NAMES = (
    *("val/error", "val/loss", "train/loss", "train/loss_supervised", "train/loss_unsupervised"),
    *("ssl/mask_rate", "ssl/pseudo_label_accuracy", "lr", "time/epoch_seconds", "images_per_second"),
)


class Stopwatch:
    """Real seconds and calls by stage, and processor seconds of all."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.processor = 0.0

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Measure a block."""
        began, busy = time.perf_counter(), time.process_time()
        yield
        self.seconds[stage] += time.perf_counter() - began
        self.processor += time.process_time() - busy
        self.calls[stage] += 1

    def rows(self) -> dict[str, float]:
        """Milliseconds a call, by stage."""
        return {s: 1000 * self.seconds[s] / self.calls[s] for s in STAGES if self.calls[s]}


class Simulation:
    """A study's driver with simulated workers.

    Args:
        home: a home folder of its own; where it has the study already, that is carried on.
        trials: configurations.
        workers: trials side by side.
        epochs: of a full run.
        seed: of the simulated training.
        prepared: trials that a new study has already (`benchmarks.prepared`).
    """

    def __init__(
        self, home: Home, trials: int, workers: int, epochs: int, seed: int = 0, prepared: int = 0
    ) -> None:
        told: dict[str, Any] = {"sampler": "tpe", "objective": "val/error"}
        request = SearchRequest(name="scale", trials=trials, epochs=epochs, concurrent=workers, **told)
        self.spec = resolve_request(request, home).model_copy(update={"split_hash": "simulated"})
        self.folder = StudyFolder(home.study_folder("scale"))
        if (self.folder.path / STUDY_FILE).exists():
            self.spec = read_spec(self.folder.path)
        else:
            self.folder.create(self.spec)
            if prepared:
                StudyTrials(self.folder, self.spec).close()  # makes the tables
                with open_log(self.folder) as log:
                    prepare(self.folder, self.spec, log, prepared)
        began = time.perf_counter()
        self.records = StudyTrials(self.folder, self.spec)
        self.log = open_log(self.folder)
        self.tracker = open_tracker(self.log, self.spec, home)
        self.tracker.study_started({}, "")
        self.recorder = Recorder(self.records, self.tracker, self.folder, lambda: None)
        self.searcher = StudySearcher(self.records, self.folder, home)
        self.recorder.end_decided()
        self.asha = StudyASHA(self.records.epochs, self.records.history())
        self.resume_seconds = time.perf_counter() - began
        self.watch = Stopwatch()
        self.windows: list[dict[str, float]] = []
        self.workers, self.random = workers, random.Random(seed)
        self.ended, self.reports = sum(r.state != "running" for r in self.records.all()), 0
        self.virtual = 0.0

    def run(self, limit: float) -> dict[str, Any]:
        """Run to the end, or for about `limit` real seconds; returns the result."""
        began = time.perf_counter()
        queue: list[tuple[float, int, Any]] = []
        for number in range(self.workers):
            self._next(queue, self.random.random(), number)
        last, reports, earlier = Stopwatch(), 0, self.ended
        while queue and time.perf_counter() - began < limit:
            self.virtual, place, trial = heapq.heappop(queue)
            if self._epoch(trial):
                self.ended += 1
                self._next(queue, self.virtual, place)
                if self.ended % WINDOW == 0:
                    self.windows.append(self._window(last, self.reports - reports, self.ended - earlier))
                    print(json.dumps(self.windows[-1]), file=sys.stderr, flush=True)
                    last.seconds, last.calls = Counter(self.watch.seconds), Counter(self.watch.calls)
                    last.processor = self.watch.processor
                    reports, earlier = self.reports, self.ended
            else:
                heapq.heappush(
                    queue, (self.virtual + trial.pace * self.random.uniform(0.9, 1.1), place, trial)
                )
        return self._result(time.perf_counter() - began)

    def _window(self, last: Stopwatch, reports: int, trials: int) -> dict[str, float]:
        spent = sum(self.watch.seconds.values()) - sum(last.seconds.values())
        return {
            "trials": self.ended,
            **_since(self.watch, last),
            "reports_per_second": round(reports / spent, 1),
            "trials_per_second": round(trials / spent, 1),
            "reports_per_processor_second": round(reports / (self.watch.processor - last.processor), 1),
            "megabytes": round(psutil.Process().memory_info().rss / 1e6, 1),
        }

    def _next(self, queue: list[tuple[float, int, Any]], now: float, place: int) -> None:
        with self.watch.of("ask"):
            task = self.searcher.suggest(f"sim-{self.records.asked()}")
        if not isinstance(task, dict):
            return
        trial = SimpleNamespace(
            trial_id=str(task["trial"]),
            config=task,
            epoch=task["known_epoch"],
            pace=self.random.uniform(0.5, 2),
            run_metadata=SimpleNamespace(num_failures=0),
        )
        trial.floor = _floor(task["config"], self.random)
        with self.watch.of("start"):
            self.asha.on_trial_add(None, trial)
            self.recorder.on_trial_start(0, [], trial)
        heapq.heappush(queue, (now + trial.pace, place, trial))

    def _epoch(self, trial: Any) -> bool:
        """One report; whether the trial ended with it."""
        trial.epoch += 1
        config = trial.config["config"]
        error = trial.floor + (90 - trial.floor) * math.exp(-0.5 * trial.epoch) + self.random.gauss(0, 0.5)
        metrics = self.metrics() | {"val/error": error, "time/epoch_seconds": trial.pace}
        result: dict[str, Any] = {EPOCH: trial.epoch, ERROR: error, LOSS: error / 40, METRICS: metrics}
        if classes := self.classes(is_last=trial.epoch == config["epochs"]):
            result[CLASSES] = classes
        if trial.epoch > config["warmup_epochs"]:
            result[SSL_EPOCH] = trial.epoch - config["warmup_epochs"]
        if trial.epoch == config["epochs"]:
            result |= {"done": True, STOP_REASON: "completed"}
        if not result.get("done"):
            with self.watch.of("schedule"):
                result["done"] = self.asha.on_trial_result(None, trial, result) == StudyASHA.STOP
        self.trained(trial)
        stage = "end" if result["done"] else "record"
        with self.watch.of(stage):
            self.recorder.on_trial_result(0, [], trial, result)
            if result["done"]:
                self.asha.on_trial_complete(None, trial, result)
                self.searcher.on_trial_complete(trial.trial_id)
        self.reports += 1
        return bool(result["done"])

    def metrics(self) -> dict[str, float]:
        """What a report holds beside the error and its time."""
        return dict.fromkeys(METRIC_NAMES, 0.5)

    def classes(self, *, is_last: bool) -> dict[str, list[int]]:
        """What a report counts by class; here nothing."""
        return {}

    def trained(self, trial: Any) -> None:
        """The worker has trained an epoch, and has not reported it yet; here it leaves no file."""

    def _result(self, seconds: float) -> dict[str, Any]:
        total = sum(self.watch.seconds.values())
        return {
            "trials_asked_for": self.spec.trials,
            "trials_ended": self.ended,
            "workers": self.workers,
            "reports": self.reports,
            "real_seconds": round(seconds, 1),
            "resume_seconds": round(self.resume_seconds, 2),
            "reports_per_second": round(self.reports / total, 1),
            "kilobytes_a_trial": self._kilobytes(),
            "share_of_time": {s: round(self.watch.seconds[s] / total, 3) for s in STAGES},
            "ms_per_call": {s: round(v, 2) for s, v in self.watch.rows().items()},
            "windows": self.windows,
        }

    def _kilobytes(self) -> float | None:
        """Resident memory that a trial took, from the first window to the last; None where there is but one."""
        first, last = self.windows[:1], self.windows[1:][-1:]
        if not last:
            return None
        grown = last[0]["megabytes"] - first[0]["megabytes"]
        return round(1000 * grown / (last[0]["trials"] - first[0]["trials"]), 1)

    def deliver(self) -> dict[str, float]:
        """Send what the log owes to MLflow on SQLite, as the sender does; events a second."""
        from tune.delivery.sender import deliver

        self.log.set_meta("complete", "1")
        owed = self.log.pending()
        began = time.perf_counter()
        left = deliver(self.folder.path, 240.0)
        seconds = time.perf_counter() - began
        return {
            "events": owed - left,
            "seconds": round(seconds, 1),
            "per_second": round((owed - left) / seconds, 1),
        }


def _since(now: Stopwatch, then: Stopwatch) -> dict[str, float]:
    difference = Stopwatch()
    difference.seconds = Counter({s: now.seconds[s] - then.seconds[s] for s in STAGES})
    difference.calls = Counter({s: now.calls[s] - then.calls[s] for s in STAGES})
    return {f"{s}_ms": round(v, 2) for s, v in difference.rows().items()}


def _floor(config: dict[str, Any], noise: random.Random) -> float:
    """The error that a trial tends to: best at a threshold of 0.9 and a short warm-up."""
    threshold = config["pseudo_label"]["threshold"]
    return 8 + 60 * abs(threshold - 0.9) + 0.5 * config["warmup_epochs"] + noise.gauss(0, 1)


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description="a large study with simulated training")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop measuring after this time")
    parser.add_argument(
        "--prepared", type=int, default=0, metavar="N", help="of which so many have ended before"
    )
    parser.add_argument("--home", type=Path, metavar="DIR", help="keep the study there, and carry it on")
    parser.add_argument("--deliver", action="store_true", help="also send everything to MLflow on SQLite")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ssl-tune-scale-") as folder:
        home = Home(options.home or Path(folder))
        simulation = Simulation(
            home, options.trials, options.workers, options.epochs, prepared=options.prepared
        )
        result = simulation.run(options.seconds)
        if options.deliver:
            result["delivery"] = simulation.deliver()
    if options.json:
        print(json.dumps(result, indent=1))
        return
    for window in result.pop("windows"):
        print(window)
    for name, value in result.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
