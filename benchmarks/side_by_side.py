"""K trials side by side on one machine: how many images/s they train on together, against K and threads of each.

    python -m benchmarks.side_by_side                 # trials alone, in processes of their own
    python -m benchmarks.side_by_side --study         # whole studies: Ray, checkpoints and tracking included

A study gives each of K trials its share of the cores (`tune.cluster.capacity.share`, `tune.launch.request`). The
benchmark compares that with trials that each use all cores, as torch does by default. Trials are FixMatch on images of
CIFAR-10's size; all begin at once and train whole epochs for a fixed time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from typing import Any

from benchmarks.setting import cell_of, config_of, data_of

STUDY_TRIALS, STUDY_EPOCHS = 6, 6
PATIENCE = 1200  # seconds that the slowest trial may take


@dataclass(frozen=True)
class Row:
    """Trials side by side: how many, threads of each, and images/s of all together."""

    trials: int
    threads: int
    rate: float


def _trial(fields: dict[str, Any], seconds: float, together: Barrier, results: Any) -> None:
    """A trial's process: puts images/s, over the time that its whole epochs took."""
    from ssl_core.training.loop import take_steps
    from ssl_core.training.run import Run

    cell = cell_of(**fields)
    data, split = data_of(cell)
    run = Run(config_of(cell, data), data, split)
    take_steps(run, 1)  # slow, as every first one
    together.wait()
    began, images, epoch = time.perf_counter(), 0, 1
    while time.perf_counter() - began < seconds:
        epoch += 1
        images += take_steps(run, epoch)[1]
    results.put(images / (time.perf_counter() - began))


def measure(trials: int, threads: int, seconds: float, network: str) -> Row:
    """Images/s of so many trials side by side, each with so many threads."""
    fields = {
        "method": "fixmatch",
        "network": network,
        "steps": 2,
        "threads": threads,
        "device": "cpu",
        "precision": "auto",
    }
    context = multiprocessing.get_context("spawn")
    together, results = context.Barrier(trials), context.Queue()
    processes = [
        context.Process(target=_trial, args=(fields, seconds, together, results), daemon=True)
        for _ in range(trials)
    ]
    for process in processes:
        process.start()
    rate = sum(results.get(timeout=PATIENCE) for _ in processes)
    for process in processes:
        process.join()
    return Row(trials, threads, rate)


def settings(cores: int, most: int) -> list[tuple[int, int]]:
    """(trials, threads of each): the fair share of the cores, and then all of them for each."""
    counts = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= most]
    fair = [(k, max(1, cores // k)) for k in counts]
    return fair + [(k, cores) for k in counts if (k, cores) not in fair]


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The table, in Markdown."""
    yield "| trials side by side | threads of each | images/s together | against one trial |"
    yield "|---|---|---|---|"
    for row in rows:
        yield f"| {row.trials} | {row.threads} | {row.rate:.0f} | {row.rate / rows[0].rate:.2f} |"


def study(concurrent: int) -> tuple[int, float]:
    """A real search, with so many trials side by side: epochs that its trials ran, and seconds of all of it."""
    import tune
    from tune.findings.study import load_study

    with tempfile.TemporaryDirectory() as home:
        options: dict[str, Any] = {"epochs": STUDY_EPOCHS, "labels": 50, "name": "studied"}
        options |= {
            "concurrent": concurrent,
            "trials": STUDY_TRIALS,
            "settings": {"steps_per_epoch": 64},
            "warmup_cache": 0,
        }
        began = time.monotonic()
        tune.search("fixmatch", "digits", home=home, quiet=True, **options)
        seconds = time.monotonic() - began
        return sum(record.epoch for record in load_study("studied", home=home).records()), seconds


def main(arguments: Sequence[str] | None = None) -> None:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--network", default="wrn-10-1")
    parser.add_argument("--seconds", type=float, default=15, help="that the trials of a line train for")
    parser.add_argument("--most", type=int, default=2 * cores, help="trials side by side")
    parser.add_argument("--study", action="store_true", help="whole studies instead of trials alone")
    options = parser.parse_args(arguments)
    if options.study:
        print(
            "| trials side by side | threads of each | epochs | seconds | epochs/s |\n|---|---|---|---|---|"
        )
        for concurrent in [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= cores]:
            epochs, seconds = study(concurrent)
            shown = f"{epochs} | {seconds:.0f} | {epochs / seconds:.2f}"
            print(f"| {concurrent} | {cores // concurrent} | {shown} |", flush=True)
        return
    rows = [
        measure(k, threads, options.seconds, options.network) for k, threads in settings(cores, options.most)
    ]
    print(f"FixMatch, {options.network}, {cores} cores\n")
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
