"""Simulated searches on the sets of `benchmarks.curve_sets`: what each had seen when so many epochs were spent.

Nothing is trained, and the searches are those of `benchmarks.search_quality`: Ray's own parts, and this project's own
sampler and scheduler (`benchmarks.own_search`), four trials side by side in virtual time. A configuration that is asked
for gets the curve of the nearest recorded one. Rules that recommend (`benchmarks.rules`) are applied to what a search
had seen (`Seen`) afterwards, so that all rules judge the same searches.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from optuna.samplers import RandomSampler
from ray.tune.schedulers import FIFOScheduler

from benchmarks.curve_sets import DATA, EPOCHS, PARTS, POOL, RAW, SETS, Runs, read_runs
from benchmarks.own_search import QuickSearch
from benchmarks.record_curves import Curve
from benchmarks.search_quality import OWN, RANDOM, RANDOM_ASHA, STOCK, asha, own_spec, stock
from benchmarks.stock_search import Recorded, StockSearch
from tune.definition.objective import BOTH
from tune.store.home import Home

Search = StockSearch | QuickSearch

FULL_TRAININGS = (5, 10, 20, 40)
MARKS = tuple(EPOCHS * n for n in FULL_TRAININGS)


@dataclass(frozen=True)
class Seen:
    """What a search had seen at a mark, one entry a trial.

    Attributes:
        curve: place of the trial's curve in its `Task`.
        epoch: finished epochs.
        state: completed, stopped_early, running or failed.
    """

    curve: tuple[int, ...]
    epoch: tuple[int, ...]
    state: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """A set of curves with one of its validation sets, as arrays (curves, EPOCHS); NaN after a run that diverged.

    Attributes:
        name: of the set.
        valid: number of validation images.
        x: (curves, parameters), configurations in the unit cube.
        warmup: (curves,), epochs.
        val_error, held_error: percent.
        val_loss: nats.
        recorded: the same for searches.
    """

    name: str
    valid: int
    x: np.ndarray
    warmup: np.ndarray
    val_error: np.ndarray
    val_loss: np.ndarray
    held_error: np.ndarray
    recorded: Recorded

    @property
    def final(self) -> np.ndarray:
        """Held-out error at the end of each curve, 100 where it diverged: it gives no model."""
        return np.nan_to_num(self.held_error[:, -1], nan=100.0)


def task_of(name: str, part: int, runs: Runs) -> Task:
    """One of PARTS validation sets of a set; the second seeds of configurations are left out."""
    rows = runs.seed == 0
    n, space = SETS[name].valid, SETS[name].space
    val_error, val_loss = 100 * runs.val_wrong[rows, :, part], runs.val_loss[rows, :, part]
    held_error = (100 * POOL * runs.wrong[rows] - n * val_error) / (POOL - n)
    names = [p.name for p in space.parameters]
    curves, warmups = [], []
    for number, values, *series in zip(
        runs.number[rows], runs.params[rows], val_error, val_loss, held_error, strict=True
    ):
        params = dict(zip(names, map(float, values), strict=True))
        warmups.append(int(space.resolve(params, EPOCHS).get("warmup_epochs", 0)))
        kept = [tuple(map(float, s[np.isfinite(s)])) for s in series]
        curves.append(Curve(int(number), params, warmups[-1], 1.0, *kept))
    recorded = Recorded(curves, space, EPOCHS, n)
    arrays = (val_error, val_loss, held_error)
    return Task(name, n, recorded.places, np.array(warmups), *arrays, recorded)


def quick(recorded: Recorded, seed: int, **options: Any) -> QuickSearch:
    """This project's search in memory."""
    home = Home(RAW.parent / "no-home")
    return QuickSearch(recorded, own_spec(recorded, seed, home, **options))


def _own(**options: Any) -> Callable[[Recorded, int], Search]:
    """This project's search, told error and loss together and looking after two epochs where nothing else is said."""
    return lambda recorded, seed: quick(recorded, seed, **{"objective": BOTH, "grace": 2} | options)


SEARCHES: dict[str, Callable[[Recorded, int], Search]] = {
    RANDOM: lambda r, seed: stock(r, FIFOScheduler(), sampler=RandomSampler(seed=seed)),
    RANDOM_ASHA: lambda r, seed: stock(r, asha(r), sampler=RandomSampler(seed=seed)),
    STOCK: lambda r, seed: stock(r, asha(r), seed=seed),
    OWN: _own(objective="val/error", sampler="tpe"),
    "loss": _own(objective="val/loss", sampler="tpe"),
    "tpe": _own(sampler="tpe"),
    "tpe, grace 1": _own(sampler="tpe", grace=1),
    "tpe, no stop": _own(sampler="tpe", scheduler="none"),
    "tpe after 40": _own(sampler="tpe", startup_trials=40),
    "random": _own(sampler="random"),
    "random, grace 1": _own(sampler="random", grace=1),
    "random, eta 4, grace 1": _own(sampler="random", eta=4, grace=1),
    "random, no stop": _own(sampler="random", scheduler="none"),
    "random, error, grace 1": _own(sampler="random", objective="val/error", grace=1),
    "gp": _own(sampler="gp", trials=1000),
    "gp, grace 1": _own(sampler="gp", grace=1, trials=1000),
}
"""Ray's parts; this project's search as it was before these curves were recorded (OWN); and what else of it was tried,
told error and loss together where nothing else is said."""
BASELINES = (RANDOM, RANDOM_ASHA, STOCK, OWN)


def course(search: str, task: Task, seed: int, marks: Sequence[int] = MARKS) -> list[Seen]:
    """What a search has seen at each of the marks, numbers of epochs."""
    made = SEARCHES[search](task.recorded, seed)
    found = []
    try:
        for mark in marks:
            made.run(mark)
            records = made.records()
            found.append(
                Seen(
                    tuple(task.recorded.nearest_index(r.params) for r in records),
                    tuple(r.epoch for r in records),
                    tuple(r.state for r in records),
                )
            )
    finally:
        made.close()
    return found


def courses(
    name: str,
    search: str,
    seeds: Sequence[int],
    marks: Sequence[int] = MARKS,
    folder: Path = DATA,
    keep: Path | None = None,
) -> list[list[Seen]]:
    """Searches with these seeds; the seed also chooses the part. Kept ones are not simulated again.

    Args:
        name: of the set.
        search: of SEARCHES.
        seeds: of the searches.
        marks: epochs spent, ascending.
        folder: of the set's file.
        keep: file in which finished searches are kept, one a line; another one for other curves or marks.
    """
    known: dict[int, list[Seen]] = {}
    if keep is not None and keep.exists():
        for line in keep.read_text().splitlines():
            seed, rows = json.loads(line)
            known[seed] = [Seen(*map(tuple, row)) for row in rows]
    missing = [seed for seed in seeds if seed not in known]
    runs = read_runs(name, folder) if missing else None
    tasks: dict[int, Task] = {}
    for seed in missing:
        assert runs is not None
        part = seed % PARTS
        if part not in tasks:
            tasks[part] = task_of(name, part, runs)
        known[seed] = course(search, tasks[part], seed, marks)
        if keep is not None:
            keep.parent.mkdir(parents=True, exist_ok=True)
            with keep.open("a") as file:
                file.write(json.dumps([seed, [list(dataclasses.astuple(s)) for s in known[seed]]]) + "\n")
    return [known[seed] for seed in seeds]


KEPT = RAW.parent / "courses"
