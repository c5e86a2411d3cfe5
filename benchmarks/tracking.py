"""What tracking costs a study, and how fast events that have waited are delivered.

    make bench-tracking                                        # all of it, some fifteen minutes
    python -m benchmarks.tracking reports --rounds 2           # trials that do nothing but report
    python -m benchmarks.tracking epochs --rounds 4            # epochs of 0.2 s
    python -m benchmarks.tracking backfill --backend sqlite    # events that have waited, beside MLflow's own log_batch

`reports` and `epochs`: the real search (Ray Tune, Optuna, recorder, event log, sender) with two trials side by side.
Their training is replaced by a report of ten metrics. In `epochs` 0.2 s pass before it: asleep, since a trial on a GPU
leaves the processor free, or computing with --busy. No checkpoints are written and nothing is drawn. Three kinds take
turns: without tracking, to SQLite, and to an MLflow server on PostgreSQL (on this machine as well). So other work on
the machine affects all of them. A study's time is that of its trials; the time of what is delivered afterwards is given
apart.

`backfill`: the sender's own code delivers runs of 100 epochs of 10 metrics, a quarter at a time. In turns with it,
MLflow's client logs the same points in calls of 1000. Each writes into a database of its own. The creation of the runs
is timed apart. The process's memory is read after each quarter.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from benchmarks.backlog import METRIC_NAMES, Backlog
from tests.tune.servers import MlflowServer, postgres
from tune.tracking.sender_process import SenderProcess
from tune.tracking.tracker import Tracker

BACKENDS = ("sqlite", "postgres")
CONCURRENT = 2


# Studies


class Waiting:
    """Takes the place of `ssl_core.training.run.Run` and of the training: a report, after some time or at once.

    Args:
        seconds: of an epoch.
        busy: compute meanwhile.
        meeting: a folder in which workers wait for each other before their first epoch.
    """

    def __init__(self, seconds: float, busy: bool, meeting: Path) -> None:
        self._seconds, self._busy, self._meeting = seconds, busy, meeting

    def run(self, config: Any, data: Any, split: Any) -> Any:
        """The run."""
        from types import SimpleNamespace

        known = {"history": [], "valid": range(100), "epoch": 0}
        return SimpleNamespace(config=config, state=dict, load_state=None, **known)

    def train(self, run: Any) -> Iterator[Any]:
        """The training."""
        from ssl_core.training.run import Report

        (self._meeting / str(os.getpid())).touch()
        while len(list(self._meeting.iterdir())) < CONCURRENT:
            time.sleep(0.01)
        for epoch in range(1, run.config.last_epoch + 1):
            self._wait()
            run.epoch = epoch
            metrics = dict.fromkeys(METRIC_NAMES, 0.5) | {"val/error": 50.0, "train/loss": 1.0 / epoch}
            yield Report(epoch=epoch, ssl_epoch=epoch, metrics=metrics)

    def _wait(self) -> None:
        if not self._busy:
            time.sleep(self._seconds)
            return
        end = time.process_time() + self._seconds  # of this process: what another takes from it, it lacks
        while time.process_time() < end:
            sum(range(1000))


def trainable_of(waiting: Waiting) -> type:
    """The real trainable, whose training is another."""
    from tune.worker.trainable import TrialTrainable

    class ReportingTrainable(TrialTrainable):
        def setup(self, config: dict[str, Any]) -> None:
            from tune.worker import replicates, trainable

            trainable.Run, replicates.run_epochs = waiting.run, waiting.train  # type: ignore[assignment,misc]
            replicates.checkpoint.save = lambda *_, **__: Path()  # type: ignore[assignment]
            trainable.pictures.keep = lambda *_: None  # type: ignore[assignment]
            super().setup(config)

    return ReportingTrainable


@contextmanager
def without_tracking() -> Iterator[None]:
    """No events, no sender."""
    with ExitStack() as stack:
        for name in ("study_started", "trial_started", "trial_ended", "study_ended"):
            stack.enter_context(mock.patch.object(Tracker, name, lambda *_, **__: None))
        stack.enter_context(mock.patch.object(Tracker, "report", lambda *_, **__: True))
        stack.enter_context(mock.patch.object(SenderProcess, "start", lambda *_: None))
        stack.enter_context(mock.patch("tune.engine.study_run.tell_summary", lambda *_, **__: None))
        # A study without events looks damaged.
        stack.enter_context(mock.patch("tune.findings.study.check_reports", lambda *_: None))
        yield


class Times:
    """When a study's trials were over, and what a report took once both workers were there.

    A worker takes seconds to start, or none where Ray has an idle one: more than what is to be measured.
    """

    def __init__(self) -> None:
        self.over = 0.0
        self._reports: list[float] = []

    @property
    def milliseconds_a_report(self) -> float:
        """Of the whole study, both workers together."""
        return 1000 * (self.over - self._reports[0]) / (len(self._reports) - 1)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note them for the study that runs in the block."""
        from tune.engine.recorder import Recorder
        from tune.engine.study_run import StudyRun

        end, result = StudyRun.end, Recorder.on_trial_result

        def ended(run: StudyRun, state: str) -> bool:
            self.over = time.monotonic()
            return end(run, state)

        def reported(recorder: Recorder, **info: Any) -> None:
            self._reports.append(time.monotonic())
            result(recorder, **info)

        with (
            mock.patch.object(StudyRun, "end", ended),
            mock.patch.object(Recorder, "on_trial_result", reported),
        ):
            yield


def study(uri: str | None, options: argparse.Namespace) -> dict[str, float]:
    """One study: what its trials took, what a report took, and how long after the trials all was delivered."""
    import tune

    times = Times()
    settings = {"threads": 1, "steps_per_epoch": 1, "batch_size": 10}
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        if uri is None:
            stack.enter_context(without_tracking())
        elif uri == "sqlite":
            uri = f"sqlite:///{place}/mlflow.db"
            # Copied, not made: while tables are made Ray ends its idle workers, and the study would start new ones.
            shutil.copy(options.tables, f"{place}/mlflow.db")
        meeting = Path(place) / "workers"
        meeting.mkdir()
        waiting = Waiting(options.seconds, options.busy, meeting)
        stack.enter_context(mock.patch("tune.engine.ray_loop.TrialTrainable", trainable_of(waiting)))
        stack.enter_context(mock.patch("tune.tracking.tracker.run_figures", lambda *_, **__: []))
        stack.enter_context(mock.patch("tune.tracking.contents.STUDY_FIGURES", ()))
        stack.enter_context(times.noted())
        began = time.monotonic()
        found = tune.search(
            "supervised", labels=20, trials=options.trials, epochs=options.reports, concurrent=CONCURRENT,
            sampler="random", name=f"bench-{time.time_ns()}", settings=settings, home=place, quiet=True, warmup_cache=0,
            tracking_uri=uri or f"sqlite:///{place}/none.db",
        )  # fmt: skip
        end = time.monotonic()
        assert [r.state for r in found.records()] == ["completed"] * options.trials
        status = found.status()["tracking"]
        assert uri is None or status["pending"] == status["refused"] == 0, status
    return {
        "study": times.over - began,
        "milliseconds_a_report": times.milliseconds_a_report,
        "delivered": end - times.over,
    }


def studies(options: argparse.Namespace) -> dict[str, Any]:
    """Rounds of studies: off, SQLite, PostgreSQL, in turns."""
    from tune.cluster import local_ray
    from tune.worker.task import PRELOAD

    rows: dict[str, list[dict[str, float]]] = {name: [] for name in ("off", *options.backends)}
    with ExitStack() as stack:
        places = {"off": None, "sqlite": "sqlite"}
        if "postgres" in options.backends:
            places["postgres"] = stack.enter_context(server())
        options.tables = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "mlflow.db"
        prepare(f"sqlite:///{options.tables}")
        stack.enter_context(local_ray.running(CONCURRENT, PRELOAD))
        warm = argparse.Namespace(**{**vars(options), "trials": 2, "reports": 2})
        study(None, warm)  # workers' first imports
        for number in range(options.rounds):
            names = list(rows) if number % 2 == 0 else list(reversed(rows))
            for name in names:
                rows[name].append(study(places[name], options))
                print(f"round {number + 1} {name}: {rows[name][-1]}", flush=True)
    return {name: _summary(rows[name], rows["off"]) for name in rows}


def _summary(mine: list[dict[str, float]], off: list[dict[str, float]]) -> dict[str, Any]:
    """The times of some studies, and their ratios to those of the same rounds without tracking."""
    found: dict[str, Any] = {name: [row[name] for row in mine] for name in mine[0]}
    for name in ("study", "milliseconds_a_report"):
        ratios = [one[name] / other[name] for one, other in zip(mine, off, strict=True)]
        found |= {f"{name}_ratios": ratios, f"{name}_median_ratio": statistics.median(ratios)}
    return found


@contextmanager
def server() -> Iterator[str]:
    """A real MLflow server on a real PostgreSQL; yields its URI."""
    with served() as (uri, _):
        yield uri


@contextmanager
def served() -> Iterator[tuple[str, MlflowServer]]:
    """The same, with the server."""
    with postgres() as database, tempfile.TemporaryDirectory() as folder:
        mlflow_server = MlflowServer(database, Path(folder) / "artifacts")
        try:
            prepare(database)
            mlflow_server.start()
            yield mlflow_server.uri, mlflow_server
        finally:
            mlflow_server.close()


def prepare(uri: str) -> None:
    """Make MLflow's tables, which takes seconds and is no study's cost."""
    from mlflow.tracking import MlflowClient

    MlflowClient(tracking_uri=uri).search_experiments(max_results=1)


# A back-log


def backfill(options: argparse.Namespace) -> dict[str, Any]:
    """Four quarters of a back-log and of plain log_batch, in turns."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if options.backend == "sqlite":
            uris = [f"sqlite:///{place}/{name}.db" for name in ("ours", "theirs")]
            for uri in uris:
                prepare(uri)
        else:  # two databases behind one server each would be two servers: the same one, other runs
            uris = [stack.enter_context(server())] * 2
        backlog = Backlog(place / "study", uris[0], uris[1], options.runs)
        result: dict[str, Any] = {"runs": options.runs, "seconds_to_make_a_run": backlog.make_runs()}
        experiment = backlog.client.create_experiment("plain log_batch", artifact_location=place.as_uri())
        quarter = options.runs // 4
        ours, theirs, memory = [], [], []
        backlog.log_batches(experiment, 2)
        for number in range(4):
            backlog.owe(quarter * number, quarter * (number + 1))
            steps: list[Callable[[], None]] = [
                lambda: ours.append(backlog.deliver()),
                lambda: theirs.append(backlog.log_batches(experiment, quarter)),
            ]
            for step in steps if number % 2 == 0 else reversed(steps):
                step()
            memory.append(psutil.Process().memory_info().rss / 1e6)
            print(
                f"quarter {number + 1}: {ours[-1]:.1f} s, log_batch {theirs[-1]:.1f} s, {memory[-1]:.0f} MB",
                flush=True,
            )
    points = 4 * quarter * 1000
    return result | {
        "points": points,
        "points_per_second": points / sum(ours),
        "log_batch_points_per_second": points / sum(theirs),
        "ratio": sum(theirs) / sum(ours),
        "ratio_of_quarters": [t / o for t, o in zip(theirs, ours, strict=True)],
        "megabytes_after_each_quarter": memory,
    }


def options_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's options; those of the process without `words`."""
    parser = argparse.ArgumentParser(description="what tracking costs, and how fast a back-log is delivered")
    parser.add_argument("part", choices=("reports", "epochs", "backfill"))
    parser.add_argument("--rounds", type=int, default=2, help="of studies that take turns")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--reports", type=int, default=100, help="of a trial")
    parser.add_argument("--seconds", type=float, default=0.2, help="of an epoch, in `epochs`")
    parser.add_argument("--busy", action="store_true", help="epochs that compute rather than sleep")
    parser.add_argument("--backends", type=lambda text: text.split(","), default=list(BACKENDS))
    parser.add_argument("--backend", choices=BACKENDS, default="sqlite", help="of `backfill`")
    parser.add_argument("--runs", type=int, default=200, help="of `backfill`")
    options = parser.parse_args(words)
    if options.part == "reports":
        options.seconds = 0.0
    return options


def main() -> None:
    """See the head of this file."""
    options = options_of()
    logging.getLogger("tune").setLevel(logging.ERROR)
    print(json.dumps((backfill if options.part == "backfill" else studies)(options), indent=1))


if __name__ == "__main__":
    main()
