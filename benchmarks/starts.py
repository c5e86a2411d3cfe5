"""From `ssl-tune search` to its first report: what Python, imports, Ray, the worker and the data take.

    python -m benchmarks.starts                        # about two minutes: the parts alone, then whole starts
    python -m benchmarks.starts --parts 0 --rounds 5   # the whole starts alone
    python -m benchmarks.starts --command compare      # the same of `ssl-tune compare`

A whole start is the real command, in a process and home of its own. The times at which the driver and its first worker
pass certain functions are noted; nothing else is changed. Seconds count from the moment at which the driver's process
was started. Page caches are warm after the first start, which is not counted.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.noting import NOTES, note, noting

PARTS = {
    "Python alone": "pass",
    "the command line": "from tune.cli import _made; _made()",
    "Ray": "import tune.cluster.local_ray",
    "Ray Tune": "from ray import tune",
    "torch": "import torch",
    "the driver's module": "import tune.engine.study_run",
    "the worker's module": "import tune.worker.trainable",
    "MLflow, in the sender": "import mlflow.tracking",
}
COMMANDS = {
    "search": ["search", "--method", "pseudo_label", "--dataset", "digits", "--trials", "2"],
    "compare": ["compare", "--methods", "pseudo_label,flexmatch", "--dataset", "digits", "--trials", "1"],
}
SHORT = ["--epochs", "4"]
"""The rest is as by default; how long a study goes on changes nothing of its start."""
FIRST_REPORT = "driver: the first report"


def drive() -> None:
    """The driver's process: the command, with notes."""
    from tune import cli
    from tune.engine.sitting import Sitting
    from tune.launch import preparation, start

    note("driver: Python has started")
    noting(cli, "_made", "driver: the command line is loaded")
    noting(start, "resolve_request", "driver: the request is resolved")
    noting(start, "create_study", "driver: the study is made")
    noting(Sitting, "start_sender", "driver: the sender is started")
    noting(Sitting, "start_ray", "driver: Ray's core is loaded")
    noting(preparation, "with_data", "driver: data, with torch and the price")
    noting(preparation, "looked_at", "driver: data, decoded and split")
    noting(preparation, "keep_expectation", "driver: the price is measured")
    noting(Sitting, "begin", "driver: the run is made")
    begin = Sitting.begin

    def begun(self: Sitting) -> Any:
        try:
            return begin(self)
        finally:
            _note_the_loop()

    Sitting.begin = begun  # type: ignore[method-assign]
    cli.main()


def _note_the_loop() -> None:
    """Note what comes once Ray Tune is loaded."""
    from tune.cluster import local_ray
    from tune.engine import ray_loop
    from tune.engine.recorder import Recorder

    if vars(ray_loop)["TrialTrainable"] is _noting_trainable():
        return
    vars(ray_loop)["TrialTrainable"] = _noting_trainable()
    noting(local_ray, "is_running", "driver: Ray runs")
    reported = Recorder.on_trial_result

    def first(*arguments: Any, **named: Any) -> None:
        reported(*arguments, **named)
        note(FIRST_REPORT)

    Recorder.on_trial_result = first  # type: ignore[method-assign]


@functools.cache
def _noting_trainable() -> Any:
    from benchmarks.starts_worker import NotingTrainable

    return NotingTrainable


def one_start(command: Sequence[str], caches: Path) -> dict[str, float]:
    """A whole start: seconds from the start of the driver's process to each place, and what the processors did."""
    with tempfile.TemporaryDirectory() as place:
        notes = Path(place) / "notes"
        environment = {**os.environ, NOTES: str(notes)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        if caches.exists():
            shutil.copytree(caches, Path(place) / "home" / "cache")
        words = [sys.executable, "-c", "from benchmarks.starts import drive; drive()", *command, *SHORT]
        began, before = time.time(), _children_seconds()
        done = subprocess.run(
            [*words, "--home", f"{place}/home", "--name", "first"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stderr}")
        seconds = {"(processors, the whole command)": _children_seconds() - before}
        passed = [json.loads(line) for line in notes.read_text().splitlines()]
        if not caches.exists():
            shutil.copytree(Path(place) / "home" / "cache", caches)
    for each in sorted(passed, key=lambda each: each["at"]):
        seconds.setdefault(each["what"], each["at"] - began)
    return seconds


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def parts(rounds: int) -> Iterator[str]:
    """A table of what each import takes in a process of its own."""
    yield "| a process that loads | seconds | of a processor |"
    yield "|---|---|---|"
    environment = {**os.environ}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    for name, code in PARTS.items():
        took: list[tuple[float, float]] = []
        for _ in range(rounds + 1):
            began, before = time.perf_counter(), _children_seconds()
            subprocess.run([sys.executable, "-c", code], env=environment, check=True)
            took.append((time.perf_counter() - began, _children_seconds() - before))
        walls, used = zip(*took[1:], strict=True)
        yield f"| {name} | {statistics.median(walls):.2f} | {statistics.median(used):.2f} |"


def starts(command: Sequence[str], rounds: int) -> Iterator[str]:
    """A table of when a whole start passes which place; medians."""
    with tempfile.TemporaryDirectory() as folder:
        caches = Path(folder) / "caches"
        found = [one_start(command, caches) for _ in range(rounds + 1)][1:]
    places = {name: [each[name] for each in found if name in each] for name in found[0]}
    yield "| seconds after the command was typed | median | from | to |"
    yield "|---|---|---|---|"
    for name, at in sorted(places.items(), key=lambda item: statistics.median(item[1])):
        yield f"| {name} | {statistics.median(at):.2f} | {min(at):.2f} | {max(at):.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--parts", type=int, default=3, help="processes for each import; 0: none")
    parser.add_argument("--rounds", type=int, default=3, help="whole starts; 0: none")
    parser.add_argument("--command", choices=COMMANDS, default="search")
    options = parser.parse_args()
    cores, load = len(os.sched_getaffinity(0)), psutil.getloadavg()[0]
    print(f"{cores} processor cores, load {load:.1f} when this began\n")
    if options.parts:
        print("\n".join(parts(options.parts)), end="\n\n")
    if options.rounds:
        print("\n".join(starts(COMMANDS[options.command], options.rounds)))


if __name__ == "__main__":
    main()
