"""Whether pseudo_label should predict all images before an epoch, or as many as the epoch draws: `pool: all | sampled`.

    python -m benchmarks.pool --cifar10 folder:PATH     # minutes on two cores; carries on where it was
    python -m benchmarks.pool --table                   # what is done so far, trains nothing

Every setting has epochs that draw a small part of the pool, as those of a short study. A finished run is a row of
`TABLE`; a run that has a row is not made again. Errors are those on validation images: no test image is read.
A seed is a training seed and a labelled set, the same for both pools, so that they are compared in pairs. A run has one
thread, and one more than one run at a time changes its seconds: those are for comparison on a machine that does nothing
else (`--jobs 1`), processor seconds otherwise.

The rule for the default: `sampled` if, in every setting, the 95 % interval of the paired difference in error lies below
MARGIN and epochs after the warm-up take less time; else `all`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

from scipy.stats import t as student

from benchmarks.evidence import ROOT, RUNS, SIDE, SMALL
from benchmarks.rows import append, read_rows, spread

TABLE = ROOT / "docs" / "pool.csv"
POOLS = ("all", "sampled")
SEEDS = tuple(range(5))
THRESHOLDS = (0.95, 0.6)
MARGIN = 0.5
"""Points of error in percent that `sampled` may be worse."""


class Setting(NamedTuple):
    """A data set, and how an epoch of it is cut: `steps` steps of `batch_size` labelled images and mu times as many.

    The more validation images, the smaller a difference that the seeds tell apart; none is a test image.
    """

    labels: int
    epochs: int
    steps: int
    batch_size: int
    mu: int
    valid: int


SETTINGS = {
    "digits": Setting(labels=50, epochs=40, steps=10, batch_size=8, mu=3, valid=400),
    SMALL: Setting(labels=4000, epochs=12, steps=50, batch_size=16, mu=3, valid=5000),
}


class Key(NamedTuple):
    """Which run it is."""

    dataset: str
    threshold: float
    seed: int
    pool: str


@dataclass(frozen=True)
class Row:
    """A finished run: error in percent; seconds of all epochs after the warm-up, of the clock and of the processor; and
    how many images were predicted before these epochs, all together."""

    dataset: str
    threshold: float
    seed: int
    pool: str
    val_error: float
    epochs: int
    seconds: float
    processor_seconds: float
    predicted: int

    @property
    def key(self) -> Key:
        """What tells the row from all others."""
        return Key(self.dataset, self.threshold, self.seed, self.pool)


def declared() -> list[Key]:
    """Every run: pairs one after the other, so that an interruption leaves whole ones."""
    return [
        Key(dataset, threshold, seed, pool)
        for seed in SEEDS
        for dataset in SETTINGS
        for threshold in THRESHOLDS
        for pool in POOLS
    ]


def config_of(key: Key, cifar10: str, setting: Setting | None = None) -> dict[str, Any]:
    """The configuration of a run, as `ssl_core.train` takes it."""
    chosen = setting or SETTINGS[key.dataset]
    return {
        "method": "pseudo_label",
        "pseudo_label": {"threshold": key.threshold, "pool": key.pool},
        "dataset": key.dataset if key.dataset == "digits" else cifar10,
        "labels": chosen.labels,
        "network": "wrn-10-1",
        "epochs": chosen.epochs,
        "steps_per_epoch": chosen.steps,
        "warmup_epochs": max(1, chosen.epochs // 10),
        "batch_size": chosen.batch_size,
        "mu": chosen.mu,
        "threads": 1,
        "seed": key.seed,
        "data": {
            "label_seed": key.seed,
            "image_size": SIDE.get(key.dataset),
            "valid": chosen.valid,
        },
    }


def run_one(key: Key, cifar10: str, setting: Setting | None = None) -> Row:
    """Train one run, in a process of its own."""
    import ssl_core

    seen: list[
        tuple[float, float, float]
    ] = []  # seconds, processor seconds and share predicted of each epoch
    last = time.process_time()

    def note(report: Any) -> None:
        nonlocal last
        now = time.process_time()
        if report.ssl_epoch is not None:
            share = report.metrics.get("ssl/pool_predicted", 1.0)
            seen.append((report.metrics["time/epoch_seconds"], now - last, share))
        last = now

    document = config_of(key, cifar10, setting)
    result = ssl_core.train(document, cache=RUNS / "cache", on_report=note)
    assert result.val_error is not None
    seconds, processor, shares = (sum(column) for column in zip(*seen, strict=True))
    return Row(
        **key._asdict(),
        val_error=result.val_error,
        epochs=len(seen),
        seconds=round(seconds, 2),
        processor_seconds=round(processor, 2),
        predicted=round(shares * pool_of(document)),
    )


def pool_of(document: dict[str, Any]) -> int:
    """How many images of a run have no label."""
    from ssl_core.config import from_document
    from ssl_core.training.result import prepare

    _, _, split = prepare(from_document(document), cache=RUNS / "cache")
    return len(set(split.unlabelled.tolist()) - set(split.labelled.tolist()))


def run_all(cifar10: str, jobs: int) -> None:
    """Make every run that has no row yet, `jobs` side by side."""
    done = {row.key for row in read_rows(TABLE, Row)}
    waiting = [key for key in declared() if key not in done]
    print(f"{len(done)} runs are done, {len(waiting)} to go", flush=True)

    def make(key: Key) -> None:
        words = [sys.executable, "-m", "benchmarks.pool", "--cifar10", cifar10, "--one", *map(str, key)]
        subprocess.run(words, cwd=ROOT, check=True)

    with ThreadPoolExecutor(jobs) as pool:
        for key, _ in zip(waiting, pool.map(make, waiting), strict=True):
            print("done:", *key, flush=True)


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of at least two paired differences (Student's t)."""
    mean = statistics.fmean(differences)
    error = statistics.stdev(differences) / len(differences) ** 0.5
    half = float(student.ppf(0.975, len(differences) - 1)) * error
    return mean - half, mean + half


def compared(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A line for each setting and threshold of which both pools have at least two seeds in common."""
    by_key = {row.key: row for row in rows}
    lines: list[dict[str, Any]] = []
    for dataset, threshold in dict.fromkeys((row.dataset, row.threshold) for row in rows):
        pairs = [
            tuple(by_key[Key(dataset, threshold, seed, pool)] for pool in POOLS)
            for seed in sorted({row.seed for row in rows})
            if all(Key(dataset, threshold, seed, pool) in by_key for pool in POOLS)
        ]
        if len(pairs) < 2:
            continue
        every, some = zip(*pairs, strict=True)
        low, high = interval([s.val_error - a.val_error for a, s in pairs])
        line: dict[str, Any] = {
            "dataset": dataset,
            "threshold": threshold,
            "seeds": len(pairs),
            "all": spread([row.val_error for row in every]),
            "sampled": spread([row.val_error for row in some]),
            "low": low,
            "high": high,
        }
        for name in ("seconds", "processor_seconds", "predicted"):
            sums = [
                sum(getattr(row, name) / row.epochs for row in part) / len(pairs) for part in (every, some)
            ]
            line |= {f"{name}_all": sums[0], f"{name}_sampled": sums[1]}
        lines.append(line)
    return lines


def verdict(lines: Sequence[dict[str, Any]]) -> str:
    """What the rule at the head of this file says of these lines."""
    whole = {(dataset, threshold) for dataset in SETTINGS for threshold in THRESHOLDS}
    if {(line["dataset"], line["threshold"]) for line in lines} != whole or any(
        line["seeds"] < len(SEEDS) for line in lines
    ):
        return "not decided yet: some runs are to be made"
    quicker = all(line["processor_seconds_sampled"] < line["processor_seconds_all"] for line in lines)
    return "sampled" if quicker and all(line["high"] < MARGIN for line in lines) else "all"


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The comparison as Markdown; times and images are means of an epoch after the warm-up."""
    lines = compared(rows)
    yield (
        "| data | threshold | seeds | val/error %, all | sampled | sampled less all, 95 % interval "
        "| s an epoch, all | sampled | processor s, all | sampled | images predicted, all | sampled |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    for line in lines:
        numbers = (
            f"{line[f'{name}_{pool}']:.{digits}f}"
            for name, digits in (("seconds", 2), ("processor_seconds", 2), ("predicted", 0))
            for pool in POOLS
        )
        yield (
            f"| {line['dataset']} | {line['threshold']} | {line['seeds']} | {line['all']} | {line['sampled']} "
            f"| {line['low']:+.2f} to {line['high']:+.2f} | {' | '.join(numbers)} |"
        )
    yield ""
    yield f"Default by the rule: {verdict(lines)}"


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--cifar10", default="cifar10", help="where CIFAR-10 is: cifar10, or folder:PATH")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="runs side by side")
    parser.add_argument("--table", action="store_true", help="print what is done, train nothing")
    names = ("DATASET", "THRESHOLD", "SEED", "POOL")
    parser.add_argument("--one", nargs=len(names), metavar=names, help="one run alone")
    options = parser.parse_args()
    if options.one:
        dataset, threshold, seed, pool = options.one
        append(TABLE, run_one(Key(dataset, float(threshold), int(seed), pool), options.cifar10))
        return
    if not options.table:
        run_all(options.cifar10, options.jobs)
    print("\n".join(table(read_rows(TABLE, Row))))


if __name__ == "__main__":
    main()
