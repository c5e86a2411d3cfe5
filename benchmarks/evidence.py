"""Learning, not only running: every method at the same number of steps, beside the supervised baseline.

    make evidence CIFAR10=folder:PATH      # hours on two cores; carries on where it was
    python -m benchmarks.evidence --table  # the tables of what is done so far, trains nothing

A run is one `ssl_core.train` in a process of its own, with a checkpoint after every epoch; at its end it reads
the test set, once. What came out is a row of docs/evidence.csv, which is committed: a run that has its row
there is not made again, whatever machine made it. Threads are part of the bits, so every run has one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.rows import append, read_rows, spread

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "evidence.csv"
RUNS = ROOT / "ssl-tune-home" / "evidence"
COMMON = {
    "network": "wrn-10-1",
    "steps_per_epoch": 200,
    "epochs": 10,
    "batch_size": 16,
    "threads": 1,
}
SEEDS = (0, 1, 2)
SMALL = "cifar10-16px"
"""The CIFAR-10 images at 16 x 16 pixels: a quarter of the price, so that every cell has its seeds."""
MU = {"digits": 3, SMALL: 3, "cifar10": 2}
"""Unlabelled images of a step in multiples of the labelled ones: what two cores can pay for."""
SIDE = {SMALL: 16}


@dataclass(frozen=True)
class Variant:
    """A method with the parameters that its name stands for; the others are its defaults."""

    name: str
    method: str
    parameters: dict[str, Any]

    def section(self, dataset: str) -> dict[str, Any]:
        """The method's section. VAT's norms keep their share of an image's norm, which goes with its side."""
        scale = 0.5 if dataset != "cifar10" and self.method == "vat" else 1.0
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
        Variant("random perturbation", "vat", {**REPORT_NORMS, "iterations": 0}),
        Variant("entropy minimisation", "vat", {"alpha": 0.0, "use_entmin": True, "iterations": 0}),
        Variant("fixmatch", "fixmatch", {}),
        Variant("flexmatch", "flexmatch", {}),
        Variant("attention_fixmatch", "attention_fixmatch", {}),
    )
}
MAIN = ("supervised", "fixmatch", "flexmatch", "attention_fixmatch", "pseudo_label", "vat")
EXTRA = ("random perturbation", "entropy minimisation")


@dataclass(frozen=True)
class Row:
    """A finished run, as docs/evidence.csv has it; errors in percent, seconds spent in epochs."""

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
    def key(self) -> tuple[str, int, str, int]:
        return self.dataset, self.labels, self.variant, self.seed


def declared() -> list[tuple[str, int, str, int]]:
    """Every run, the most telling first: (dataset, labels, variant, seed)."""
    runs = [("digits", 50, v, s) for s in SEEDS for v in MAIN]
    runs += [(SMALL, 4000, v, s) for s in SEEDS for v in MAIN]
    runs += [(SMALL, 250, v, 0) for v in MAIN]
    runs += [(SMALL, 4000, "vat, 5 iterations", 0)]
    runs += [("digits", 50, v, s) for s in SEEDS for v in EXTRA]
    runs += [("cifar10", 4000, v, s) for s in SEEDS for v in MAIN]
    return runs


def config_of(key: tuple[str, int, str, int], cifar10: str) -> dict[str, Any]:
    """The configuration of a run, as `ssl_core.train` takes it."""
    dataset, labels, name, seed = key
    variant = VARIANTS[name]
    place = dataset if dataset == "digits" else cifar10
    # A seed is a training seed and a labelled set: the spread holds both.
    config: dict[str, Any] = {
        **COMMON,
        "mu": MU[dataset],
        "method": variant.method,
        "dataset": place,
        "labels": labels,
        "seed": seed,
        "data": {"label_seed": seed, "image_size": SIDE.get(dataset)},
    }
    section = variant.section(dataset)
    return config | ({variant.method: section} if section else {})


def run_one(key: tuple[str, int, str, int], cifar10: str) -> Row:
    """Train one run, or carry it on; called in a process of its own."""
    import ssl_core

    dataset, labels, name, seed = key
    out = RUNS / f"{dataset}@{labels}" / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
    result = ssl_core.train(config_of(key, cifar10), cache=RUNS / "cache", out=out, resume=True, final=True)
    assert result.test_error is not None
    return Row(
        dataset=dataset,
        labels=labels,
        variant=name,
        seed=seed,
        steps=COMMON["epochs"] * COMMON["steps_per_epoch"],  # type: ignore[operator]
        val_error=result.val_error,
        test_error=result.test_error,
        seconds=round(result.seconds, 1),
        split_hash=result.split_hash,
    )


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
    for dataset, labels in dict.fromkeys((r.dataset, r.labels) for r in rows):
        here = [r for r in rows if (r.dataset, r.labels) == (dataset, labels)]
        baseline = {r.seed: r.test_error for r in here if r.variant == "supervised"}
        yield f"### {dataset}, {labels} labels, {here[0].steps} steps\n"
        yield "| method | seeds | test/error % | against supervised, paired | val/error % | seconds a run |"
        yield "|---|---|---|---|---|---|"
        for name in (v for v in VARIANTS if any(r.variant == v for r in here)):
            found = [r for r in here if r.variant == name]
            paired = [r.test_error - baseline[r.seed] for r in found if r.seed in baseline]
            yield (
                f"| {name} | {len(found)} | {spread([r.test_error for r in found])} "
                f"| {spread(paired, sign=True) if name != 'supervised' else ''} "
                f"| {spread([r.val_error for r in found])} | {statistics.fmean(r.seconds for r in found):.0f} |"
            )
        yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--cifar10", default="cifar10", help="where CIFAR-10 is: cifar10, or folder:PATH")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="runs side by side")
    parser.add_argument(
        "--table", action="store_true", help="print the tables of what is done, train nothing"
    )
    parser.add_argument(
        "--one", nargs=4, metavar=("DATASET", "LABELS", "VARIANT", "SEED"), help="one run alone"
    )
    options = parser.parse_args()
    if options.one:
        dataset, labels, name, seed = options.one
        append(TABLE, run_one((dataset, int(labels), name, int(seed)), options.cifar10))
        return
    if not options.table:
        run_all(options.cifar10, options.jobs)
    print("\n".join(tables(read_rows(TABLE, Row))))


if __name__ == "__main__":
    main()
