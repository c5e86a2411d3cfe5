"""What the methods learn: every method at the same number of steps, beside the supervised baseline.

    make evidence CIFAR10=folder:PATH      # hours on two cores; carries on where it was
    python -m benchmarks.evidence --table  # the tables of what is done so far, trains nothing
    python -m benchmarks.evidence --cost   # seconds of each method's epochs, on a machine that does nothing else

A run is one `ssl_core.train` in a process of its own, with a checkpoint after every epoch. At its end it reads the test
set, once. Its result is a row of docs/evidence.csv, which is committed: a run that has a row there is not made again,
on whatever machine it was made. The number of threads changes the bits, so every run has one thread.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.rows import append, read_rows, spread
from ssl_core.system.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "evidence.csv"
RUNS = ROOT / "ssl-tune-home" / "evidence"
COSTS = ROOT / "docs" / "evidence-cost.csv"
COMMON: dict[str, Any] = {"network": "wrn-10-1", "steps_per_epoch": 200, "batch_size": 16, "threads": 1}
LONG = 8000
COST_STEPS = 8
SEEDS = (0, 1, 2)
SMALL = "cifar10-16px"
"""The CIFAR-10 images at 16 x 16 pixels: a quarter of the price, so that every cell has its seeds."""
TWO = "cifar10-2-16px"
"""Two of its classes alone, CLASSES_OF[TWO], and few labels: a task that 2000 steps are enough for."""
MU = {"digits": 3, SMALL: 3, TWO: 3, "cifar10": 2}
"""Unlabelled images of a step in multiples of the labelled ones: what two cores can pay for."""
SIDE = {SMALL: 16, TWO: 16}
CLASSES_OF = {TWO: ("airplane", "automobile")}


@dataclass(frozen=True)
class Variant:
    """A method with the parameters that its name stands for; the others are its defaults."""

    name: str
    method: str
    parameters: dict[str, Any]

    def section(self, dataset: str) -> dict[str, Any]:
        """The method's section. VAT's norms keep their share of an image's norm, which goes with its side."""
        scale = 0.5 if dataset != "cifar10" else 1.0  # the others are of 16 x 16 pixels
        norms = {k: scale * v for k, v in self.parameters.items() if k in ("xi", "eps")}
        return {**self.parameters, **norms}


REPORT_NORMS = {"xi": 10.0, "eps": 10.0}
VARIANTS = {
    v.name: v
    for v in (
        Variant("supervised", "supervised", {}),
        Variant("pseudo_label", "pseudo_label", {}),
        Variant("vat", "vat", {**REPORT_NORMS, "iterations": 1}),
        Variant("vat, 5 iterations", "vat", {**REPORT_NORMS, "iterations": 5}),
        Variant("random_perturbation", "random_perturbation", {"eps": 10.0}),
        Variant("entropy_minimisation", "entropy_minimisation", {}),
        Variant("fixmatch", "fixmatch", {}),
        Variant("flexmatch", "flexmatch", {}),
        Variant("attention_fixmatch", "attention_fixmatch", {}),
    )
}
MAIN = ("supervised", "fixmatch", "flexmatch", "attention_fixmatch", "pseudo_label", "vat")
EXTRA = ("random_perturbation", "entropy_minimisation")


class Key(NamedTuple):
    """Which run it is."""

    dataset: str
    labels: int
    variant: str
    seed: int
    steps: int = 2000


@dataclass(frozen=True)
class Row:
    """A finished run, as docs/evidence.csv has it; errors in percent, seconds spent in epochs (of a machine that may
    have had other work: what a method costs is in docs/evidence-cost.csv)."""

    dataset: str
    labels: int
    variant: str
    seed: int
    steps: int
    val_error: float
    test_error: float
    seconds: float
    split_hash: str

    @property
    def key(self) -> Key:
        """What tells the row from all others."""
        return Key(self.dataset, self.labels, self.variant, self.seed, self.steps)


@dataclass(frozen=True)
class Cost:
    """What a run takes, as docs/evidence-cost.csv has it: seconds of an epoch of 200 steps and its evaluation, on one
    core of a machine that does nothing else."""

    dataset: str
    labels: int
    variant: str
    seconds_per_epoch: float


def declared() -> list[Key]:
    """Every run, the most telling first."""
    runs = [Key("digits", 50, v, s) for s in SEEDS for v in MAIN]
    runs += [Key(SMALL, 4000, v, s) for s in SEEDS for v in MAIN]
    runs += [Key(SMALL, 250, v, 0) for v in MAIN]
    runs += [Key(SMALL, 4000, "vat, 5 iterations", 0)]
    # Is it the method, or the budget? The same four times as long.
    runs += [Key(SMALL, 4000, v, 0, LONG) for v in ("supervised", "fixmatch", "flexmatch")]
    runs += [Key("digits", 50, v, s) for s in SEEDS for v in EXTRA]
    runs += [Key("cifar10", 4000, v, s) for s in SEEDS for v in MAIN]
    runs += [Key(TWO, 40, v, s) for s in SEEDS for v in ("supervised", "fixmatch", "flexmatch")]
    return runs


def config_of(key: Key, cifar10: str) -> dict[str, Any]:
    """The configuration of a run, as `ssl_core.train` takes it."""
    variant = VARIANTS[key.variant]
    # A seed is a training seed and a labelled set: the spread holds both.
    config: dict[str, Any] = {
        **COMMON,
        "epochs": key.steps // COMMON["steps_per_epoch"],
        "mu": MU[key.dataset],
        "method": variant.method,
        "dataset": key.dataset if key.dataset == "digits" else place_of(key.dataset, cifar10),
        "labels": key.labels,
        "seed": key.seed,
        "data": {"label_seed": key.seed, "image_size": SIDE.get(key.dataset)},
    }
    section = variant.section(key.dataset)
    return config | ({variant.method: section} if section else {})


def place_of(dataset: str, cifar10: str) -> str:
    """Where a run's images are read: all of CIFAR-10's, or a folder of links to those of some classes.

    Raises:
        ConfigError: some classes of a CIFAR-10 that is no image folder.
    """
    if dataset not in CLASSES_OF:
        return cifar10
    if not cifar10.startswith("folder:"):
        raise ConfigError(
            f"{dataset}: name CIFAR-10 as an image folder, --cifar10 folder:PATH, to take some classes."
        )
    source, links = Path(cifar10.removeprefix("folder:")).resolve(), RUNS / dataset
    for part in ("train", "test"):
        (links / part).mkdir(parents=True, exist_ok=True)
        for name in CLASSES_OF[dataset]:
            if not (links / part / name).exists():
                (links / part / name).symlink_to(source / part / name)
    return f"folder:{links}"


def run_one(key: Key, cifar10: str) -> Row:
    """Train one run, or carry it on; called in a process of its own."""
    import ssl_core

    name = key.variant.replace(", ", "-").replace(" ", "-")
    name += f"-{key.steps}" if key.steps != Key("", 0, "", 0).steps else ""
    out = RUNS / f"{key.dataset}@{key.labels}" / f"{name}-{key.seed}"
    result = ssl_core.train(config_of(key, cifar10), cache=RUNS / "cache", out=out, resume=True, final=True)
    assert result.test_error is not None
    return Row(
        **key._asdict(),
        val_error=result.val_error,
        test_error=result.test_error,
        seconds=round(result.seconds, 1),
        split_hash=result.split_hash,
    )


def measure_costs(cifar10: str) -> None:
    """Time a few steps of every variant on every data set, and write docs/evidence-cost.csv anew."""
    from ssl_core.config import from_document
    from ssl_core.price import measure
    from ssl_core.training.result import prepare
    from ssl_core.training.run import Run

    COSTS.unlink(missing_ok=True)
    for dataset, labels, variant in dict.fromkeys((k.dataset, k.labels, k.variant) for k in declared()):
        document = config_of(Key(dataset, labels, variant, 0), cifar10)
        config, data, split = prepare(from_document(document), cache=RUNS / "cache")
        price = measure(Run(config, data, split), COST_STEPS)
        append(COSTS, Cost(dataset, labels, variant, round(price.epoch, 2)))
        print(dataset, labels, variant, f"{price.epoch:.2f} s an epoch", flush=True)


def run_all(cifar10: str, jobs: int) -> None:
    """Make every run that has no row yet, `jobs` side by side."""
    done = {row.key for row in read_rows(TABLE, Row)}
    waiting = [key for key in declared() if key not in done]
    print(f"{len(done)} runs are done, {len(waiting)} to go", flush=True)

    def make(key: tuple[str, int, str, int]) -> None:
        words = [sys.executable, "-m", "benchmarks.evidence", "--cifar10", cifar10, "--one", *map(str, key)]
        subprocess.run(words, cwd=ROOT, check=True)

    with ThreadPoolExecutor(jobs) as pool:
        for key, _ in zip(waiting, pool.map(make, waiting), strict=True):
            print("done:", *key, flush=True)


def tables(rows: Sequence[Row]) -> Iterator[str]:
    """A Markdown table for each setting: mean ± std of the test error, and of the difference to supervised."""
    costs = {(c.dataset, c.labels, c.variant): c.seconds_per_epoch for c in read_rows(COSTS, Cost)}
    for dataset, labels, steps in dict.fromkeys((r.dataset, r.labels, r.steps) for r in rows):
        here = [r for r in rows if (r.dataset, r.labels, r.steps) == (dataset, labels, steps)]
        baseline = {r.seed: r.test_error for r in here if r.variant == "supervised"}
        yield f"### {dataset}, {labels} labels, {steps} steps\n"
        yield "| method | seeds | test/error % | against supervised, paired | val/error % | core-seconds a run |"
        yield "|---|---|---|---|---|---|"
        for name in (v for v in VARIANTS if any(r.variant == v for r in here)):
            found = [r for r in here if r.variant == name]
            paired = [r.test_error - baseline[r.seed] for r in found if r.seed in baseline]
            yield (
                f"| {name} | {len(found)} | {spread([r.test_error for r in found])} "
                f"| {spread(paired, sign=True) if name != 'supervised' else ''} "
                f"| {spread([r.val_error for r in found])} | {_seconds(costs.get((dataset, labels, name)), steps)} |"
            )
        yield ""


def _seconds(per_epoch: float | None, steps: int) -> str:
    return "" if per_epoch is None else f"{per_epoch * steps / COMMON['steps_per_epoch']:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--cifar10", default="cifar10", help="where CIFAR-10 is: cifar10, or folder:PATH")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="runs side by side")
    parser.add_argument(
        "--table", action="store_true", help="print the tables of what is done, train nothing"
    )
    parser.add_argument("--cost", action="store_true", help="time the steps of each method, then the tables")
    names = ("DATASET", "LABELS", "VARIANT", "SEED", "STEPS")
    parser.add_argument("--one", nargs=len(names), metavar=names, help="one run alone")
    options = parser.parse_args()
    if options.one:
        dataset, labels, name, seed, steps = options.one
        key = Key(dataset, int(labels), name, int(seed), int(steps))
        append(TABLE, run_one(key, options.cifar10))
        return
    if options.cost:
        measure_costs(options.cifar10)
    elif not options.table:
        run_all(options.cifar10, options.jobs)
    print("\n".join(tables(read_rows(TABLE, Row))))


if __name__ == "__main__":
    main()
