"""How long one ask of the sampler takes, by the number of ended trials: as it is, and as Optuna's own TPE would.

    python -m benchmarks.asks                       # half a minute
    python -m benchmarks.asks --trials 1500 4000 --json

The trials are drawn at random, 63 of them still run, as with 64 workers. Nothing is stored: this is
`tune.trials.sampling` alone. Times are processor time of the fastest and of the middle one of some asks, in
milliseconds. All three ways ask for the same points as long as the bounded view leaves nothing out, which is checked;
the two over the bounded view always do.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import optuna
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from benchmarks.bounded_view import ALL, bounded
from tune.definition.request import SearchRequest
from tune.definition.spec import StudySpec
from tune.launch.request import resolve_request
from tune.store.home import Home
from tune.trials.sampling import BEST, NEWEST, Sampling, ask_seed, startup_trials

EPOCHS, RUNNING, ASKS = 15, 63, 12


class Optunas(Sampling):
    """The same view, read by Optuna's own sampler."""

    def _sampler(self, number: int, attempt: int) -> optuna.samplers.BaseSampler:
        return TPESampler(
            seed=ask_seed(self._spec, number, attempt),
            n_startup_trials=startup_trials(self._spec),
            multivariate=True,
            constant_liar=True,
        )


WAYS: dict[str, tuple[type[Sampling], int, int]] = {
    "as it is": (Sampling, BEST, NEWEST),
    "Optuna's reading, bounded view": (Optunas, BEST, NEWEST),
    "Optuna's reading, all trials": (Optunas, ALL, ALL),
}


def trials_of(spec: StudySpec, count: int, seed: int = 0) -> list[FrozenTrial]:
    """So many ended trials, a third of them complete, and those that run."""
    chance, distributions = random.Random(seed), spec.search_space().distributions(EPOCHS)
    drawn = optuna.create_study(sampler=RandomSampler(seed=seed))
    made = []
    for number in range(count + RUNNING):
        is_running, is_complete = number >= count, chance.random() < 1 / 3
        state = TrialState.COMPLETE if is_complete else TrialState.PRUNED
        trial = create_trial(
            state=TrialState.RUNNING if is_running else state,
            value=chance.uniform(5, 60) if is_complete and not is_running else None,
            params=drawn.ask(distributions).params,
            distributions=distributions,
            intermediate_values={} if is_running else {chance.choice([2, 5]): chance.uniform(5, 60)},
            user_attrs={} if is_running else {"stop_reason": "completed" if is_complete else "asha"},
        )
        trial.number = number
        made.append(trial)
    return made


def measure(spec: StudySpec, trials: list[FrozenTrial], way: str) -> tuple[dict[str, float], list[Any]]:
    """Milliseconds an ask, and the points."""
    kind, best, newest = WAYS[way]
    with bounded((best, newest)):
        sampling = kind(spec, spec.search_space().distributions(EPOCHS))
    for trial in trials:
        sampling.add(trial)
    times, points = [], []
    for number in range(len(trials), len(trials) + ASKS):
        began = time.process_time()
        points.append(sampling.ask(number, {}))
        times.append(1000 * (time.process_time() - began))
    return {"fastest_ms": round(min(times), 2), "median_ms": round(median(times), 2)}, points


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, nargs="+", default=[500, 1500, 4000, 10_000], help="ended ones")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="ssl-tune-asks-") as folder:
        request = SearchRequest(
            name="asks",
            trials=20_000,
            epochs=EPOCHS,
            concurrent=RUNNING + 1,
            sampler="tpe",
            objective="val/error",
        )
        spec = resolve_request(request, Home(Path(folder)))
        for count in options.trials:
            trials, points = trials_of(spec, count), {}
            for way in WAYS:
                found, points[way] = measure(spec, trials, way)
                rows.append({"ended_trials": count, "way": way, **found})
            first, second, third = points.values()
            assert first == second and (count + ASKS > NEWEST or first == third)
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print("| ended trials | " + " | ".join(f"{way}: fastest, median, ms" for way in WAYS) + " |")
    print("|---" * (len(WAYS) + 1) + "|")
    for count in options.trials:
        cells = [f"{r['fastest_ms']:.1f}, {r['median_ms']:.1f}" for r in rows if r["ended_trials"] == count]
        print(f"| {count} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
