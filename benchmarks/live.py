"""How long the live page takes to be drawn again, and over HTTP, at a thousand trials.

    python -m benchmarks.live --trials 1000 --json

The study is made here: trials that completed, that ASHA stopped, and some that run; its files are the real ones.
Between two looks every running trial reports an epoch, as in a study that goes on. The processor's time is that of the
whole process, which serves the page and asks for it.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
import urllib.request
from typing import Any

import optuna

import tune
from tune.definition.request import SearchRequest
from tune.findings.study import load_study
from tune.launch.request import resolve_request
from tune.store.home import Home
from tune.store.study_folder import StudyFolder
from tune.tracking.opening import open_log, open_tracker
from tune.trials.optuna_storage import open_storage
from tune.trials.study_trials import StudyTrials

EPOCHS, RUNNING, RUNG = 27, 8, 9


def _last(epoch: int, error: float) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "ssl_epoch": epoch - 1,
        "val_error": error,
        "val_loss": error / 50,
        "seconds": float(epoch),
        "stop_reason": None,
    }


class Made:
    """A study of so many trials, of which the last few run.

    Args:
        home: a home of its own.
        trials: how many.
    """

    def __init__(self, home: Home, trials: int) -> None:
        settings = {"steps_per_epoch": 4, "threads": 1}
        request = SearchRequest(
            name="live",
            epochs=EPOCHS,
            trials=trials + 100,
            concurrent=RUNNING,
            space="wide",
            settings=settings,
        )
        self.spec = resolve_request(request, home)
        self.folder = StudyFolder(home.study_folder("live"))
        self.folder.create(self.spec)
        self._random = random.Random(0)
        self._fill(trials - RUNNING)
        self.trials = StudyTrials(self.folder, self.spec)
        self.log = open_log(self.folder)
        self.tracker = open_tracker(self.log, self.spec, home)
        self.running = [self.trials.ask().number for _ in range(RUNNING)]
        for number in range(trials):
            self.tracker.trial_started(str(number), {}, {}, "")
        self._epoch = 0
        self.report()

    def _fill(self, count: int) -> None:
        """Trials that have ended, straight into Optuna's tables."""
        StudyTrials(self.folder, self.spec).close()  # makes them
        distributions = self.spec.search_space().distributions(EPOCHS)
        storage = open_storage(self.folder)
        study = storage.get_study_id_from_name("live")
        for _ in range(count):
            params = {
                name: distribution.choices[self._random.randrange(len(distribution.choices))]
                if isinstance(distribution, optuna.distributions.CategoricalDistribution)
                else distribution.to_external_repr(self._random.uniform(distribution.low, distribution.high))
                for name, distribution in distributions.items()
            }
            completed = self._random.random() < 0.2
            epochs = EPOCHS if completed else RUNG + 1
            errors = {e: 10 + 60 / e + self._random.random() * 20 for e in range(1, epochs)}
            trial = optuna.trial.create_trial(
                state=optuna.trial.TrialState.COMPLETE if completed else optuna.trial.TrialState.PRUNED,
                params=params,
                distributions=distributions,
                value=errors[epochs - 1],
                intermediate_values=errors,
                user_attrs={
                    "last": _last(epochs, errors[epochs - 1]),
                    "stop_reason": "completed" if completed else "asha",
                },
            )
            storage.create_new_trial(study, trial)
        storage.engine.dispose()

    def report(self) -> None:
        """An epoch of every running trial."""
        self._epoch += 1
        for number in self.running:
            error = 30 + 20 * self._random.random()
            self.trials.report(number, _last(self._epoch, error))
            self.tracker.report(str(number), self._epoch, {"val/error": error})

    def close(self) -> None:
        """Let go of its files."""
        self.log.close()
        self.folder.unlock()


def measure(trials: int, looks: int) -> dict[str, Any]:
    """Milliseconds of the first look and of those after it."""
    with tempfile.TemporaryDirectory(prefix="ssl-tune-") as place:
        made = Made(Home(place), trials)
        study, times, worked = load_study("live", home=place), list[float](), list[float]()
        with tune.live_page(study) as address:
            for _ in range(looks + 1):
                began, busy = time.perf_counter(), time.process_time()
                text = urllib.request.urlopen(f"{address}main", timeout=60).read()
                times.append(1000 * (time.perf_counter() - began))
                worked.append(1000 * (time.process_time() - busy))
                made.report()
                time.sleep(0.6)  # what was drawn is kept for half a second
        made.close()
    return {
        "trials": trials,
        "running": RUNNING,
        "first_ms": round(times[0]),
        "median_ms": round(statistics.median(times[1:])),
        "worst_ms": round(max(times[1:])),
        "processor_ms": round(statistics.median(worked[1:])),
        "bytes": len(text),
    }


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--looks", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.trials, options.looks)
    print(json.dumps(found, indent=2) if options.json else found)


if __name__ == "__main__":
    main()
