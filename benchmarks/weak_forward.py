"""Which way of taking weak views through the network should be the default: `weak_forward` joint or separate.

    make weak-forward                          # carries on where it was
    python -m benchmarks.weak_forward --table  # the table of what is done so far, trains nothing
    python -m benchmarks.weak_forward --price  # processor time of a step, joint over separate

FixMatch on digits with 50 labels: joint; separate for as many steps; and separate for as long, PRICE times as many.
A run is one `ssl_core.train` with a checkpoint after every epoch, judged by 400 validation images: a choice of
defaults is model selection, so the test set is not read. Its result is a row of docs/weak_forward.csv, which is
committed: a run that has a row there is not made again.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.rows import append, read_rows, spread

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "weak_forward.csv"
RUNS = ROOT / "ssl-tune-home" / "weak-forward"
SEEDS = range(5)
STEPS, EPOCHS = 2000, 10
PRICE = 1.1
"""Processor time of a joint step over that of a separate one, here (`--price`), rounded to whole epochs' steps."""
VARIANTS = {
    "joint": ("joint", STEPS),
    "separate": ("separate", STEPS),
    "separate, equal time": ("separate", round(STEPS * PRICE)),
}


@dataclass(frozen=True)
class Row:
    """A finished run, as docs/weak_forward.csv has it; error in percent, seconds spent in epochs."""

    variant: str
    seed: int
    steps: int
    val_error: float
    seconds: float
    split_hash: str


def config_of(variant: str, seed: int) -> dict[str, Any]:
    """The configuration of a run; a seed is a training seed and a labelled set."""
    weak_forward, steps = VARIANTS[variant]
    return {
        "method": "fixmatch",
        "dataset": "digits",
        "labels": 50,
        "network": "wrn-10-1",
        "epochs": EPOCHS,
        "steps_per_epoch": steps // EPOCHS,
        "batch_size": 16,
        "mu": 3,
        "threads": 1,
        "seed": seed,
        "data": {"valid": 400, "label_seed": seed},
        "fixmatch": {"weak_forward": weak_forward},
    }


def run_one(variant: str, seed: int) -> Row:
    """Train one run, or carry it on."""
    import ssl_core

    out = RUNS / f"{variant.replace(', ', '-').replace(' ', '-')}-{seed}"
    result = ssl_core.train(config_of(variant, seed), cache=RUNS / "cache", out=out, resume=True)
    return Row(
        variant=variant,
        seed=seed,
        steps=VARIANTS[variant][1],
        val_error=result.val_error,
        seconds=round(result.seconds, 1),
        split_hash=result.split_hash,
    )


def price(rounds: int = 12) -> float:
    """Processor time of a joint step over that of a separate one, of runs that take turns step by step."""
    from ssl_core.methods.base import Progress
    from ssl_core.training.result import prepare
    from ssl_core.training.run import Run
    from ssl_core.training.step import finite_guard, train_step

    spent: dict[str, list[float]] = {"joint": [], "separate": []}
    runs = {variant: Run(*prepare(config_of(variant, 0))) for variant in spent}
    for step in range(rounds):
        for variant, run in runs.items():
            progress = Progress(step, run.config.total_steps, step, epoch=1, ssl_epoch=1)
            guard = finite_guard(run, 1)
            started = time.process_time()
            train_step(run, progress, guard)
            spent[variant].append(time.process_time() - started)
    return statistics.median(spent["joint"][2:]) / statistics.median(spent["separate"][2:])


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Mean ± std of the validation error, and of the difference to joint, seed by seed."""
    yield "| weak_forward | steps | seeds | val/error % | against joint, paired |"
    yield "|---|---|---|---|---|"
    joint = {r.seed: r.val_error for r in rows if r.variant == "joint"}
    for variant in VARIANTS:
        found = [r for r in rows if r.variant == variant]
        paired = [r.val_error - joint[r.seed] for r in found if r.seed in joint]
        against = spread(paired, sign=True) if variant != "joint" else ""
        steps = VARIANTS[variant][1]
        errors = spread([r.val_error for r in found])
        yield f"| {variant} | {steps} | {len(found)} | {errors} | {against} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--table", action="store_true", help="print the table of what is done, train nothing")
    parser.add_argument("--price", action="store_true", help="measure what a step costs, train nothing")
    options = parser.parse_args()
    if options.price:
        print(f"a joint step costs {price():.2f} times a separate one")
        return
    done = {(row.variant, row.seed) for row in read_rows(TABLE, Row)}
    for seed in () if options.table else SEEDS:
        for variant in VARIANTS:
            if (variant, seed) not in done:
                append(TABLE, run_one(variant, seed))
                print("done:", variant, seed, flush=True)
    print("\n".join(table(read_rows(TABLE, Row))))


if __name__ == "__main__":
    main()
