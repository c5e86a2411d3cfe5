"""What a driver's bookkeeping costs as a study grows: 2,000 simulated trials with up to 20 reports each.

    python -m benchmarks.bookkeeping                 # prints a table, a few minutes
    python -m benchmarks.bookkeeping --sampler random

Everything but training and Ray is real: searcher, scheduler, recorder, Optuna's storage, event log. All trials run
to their end (nothing is stopped), so that each has its 20 reports. Time is the driver's own processor time.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import random
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from benchmarks.simulated import Driver, Outcome
from tune.definition.request import SearchRequest
from tune.engine.scheduler import StudyASHA
from tune.launch.request import resolve_request
from tune.store.home import Home
from tune.store.study_folder import StudyFolder

EPOCHS, CONCURRENT = 20, 8
MARKS = (500, 1000, 2000)


class _Patient(StudyASHA):
    """Judges, and lets everybody go on."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        super().on_trial_result(tune_controller, trial, result)
        return str(self.CONTINUE)


def outcome(config: Mapping[str, Any]) -> Outcome:
    """Some curve; what it looks like does not matter here."""
    chance = random.Random(repr(config["pseudo_label"]))
    errors = tuple(round(50 / (1 + epoch) + chance.uniform(0, 5), 2) for epoch in range(EPOCHS))
    return Outcome(config["warmup_epochs"], errors, tuple(e / 50 for e in errors))


def measure(sampler: str, marks: tuple[int, ...] = MARKS) -> list[dict[str, float]]:
    """Processor seconds and resident megabytes of the driver after so many trials."""
    with tempfile.TemporaryDirectory() as place:
        home = Home(Path(place))
        request = SearchRequest(
            name="many",
            trials=marks[-1],
            epochs=EPOCHS,
            concurrent=CONCURRENT,
            sampler=sampler,
            settings={"threads": 1, "precision": "float32"},
        )
        spec = resolve_request(request, home)
        StudyFolder(home.study_folder("many")).create(spec)
        driver = Driver(
            spec, home, outcome, make_scheduler=lambda records: _Patient(records.epochs, records.history())
        )
        process, rows = psutil.Process(), [_row(0, 0.0, psutil.Process())]
        began = time.process_time()
        for mark in marks:
            driver.run(budget=mark * EPOCHS)
            rows.append(_row(mark, time.process_time() - began, process))
        driver.close()
        return rows


def _row(trials: int, seconds: float, process: psutil.Process) -> dict[str, float]:
    gc.collect()
    return {"trials": trials, "seconds": round(seconds, 2), "megabytes": process.memory_info().rss / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--trials", type=int, nargs="*", default=list(MARKS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = measure(options.sampler, tuple(options.trials))
    if options.json:
        print(json.dumps(rows))
        return
    print(
        "| trials | driver's processor time, s | ms a trial since the row above | memory, MB | kB a trial |"
    )
    print("|---|---|---|---|---|")
    for before, row in itertools.pairwise(rows):
        more = row["trials"] - before["trials"]
        each = 1000 * (row["seconds"] - before["seconds"]) / more
        kilobytes = 1000 * (row["megabytes"] - before["megabytes"]) / more
        print(
            f"| {row['trials']} | {row['seconds']:.1f} | {each:.1f} | {row['megabytes']:.1f} | {kilobytes:.1f} |"
        )


if __name__ == "__main__":
    main()
