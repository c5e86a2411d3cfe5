"""What each of the methods learns from few labels, beside a supervised baseline that was tuned, seed by seed.

    python -m benchmarks.every_method --cifar10 folder:PATH     # all of it; carries on where it was
    python -m benchmarks.every_method --part main               # one part alone
    python -m benchmarks.every_method --table                   # the tables of what is done, trains nothing

A finished run is a line of docs/tables/methods/runs.jsonl (`--rows FILE`: another file) the moment it ends; a run that
has a line is not made again. The parts:

pilot    what VAT's perturbation should be by default, by validation error after 500 steps.
tuning   lr of the supervised baseline, by validation error.
main     every method at its defaults, the supervised baseline at its defaults and tuned; the test set is read once.
short    every method at its defaults, 500 steps on digits, by validation error: where there is no time for main.
options  FixMatch's strong view with `augment.probability` 1 and 0.5, pseudo_label with both `statistics`, by validation
         error.

All but main have labelled sets and seeds of their own and 400 validation images, which tell differences apart that
the 50 or 40 of the main part do not. They never read the test set. A run has one thread; its seed draws the labelled
set and starts the training. docs/evidence.csv has the earlier measurements, with steps of twice the size.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from benchmarks.evidence import ROOT, RUNS, TWO, place_of
from ssl_core.registry import get_method, method_names

FOLDER = ROOT / "docs" / "tables" / "methods"
ROWS, TABLE = FOLDER / "runs.jsonl", FOLDER / "table.json"
COMMON: dict[str, Any] = {
    "network": "wrn-10-1",
    "epochs": 10,
    "steps_per_epoch": 200,
    "batch_size": 8,
    "threads": 1,
}
MU = 3
"""Unlabelled images of a step for each labelled one, where a method does not bring a number of its own."""
LABELS = {"digits": 50, TWO: 40}
ORDER = [
    ("digits", 0),
    ("digits", 1),
    (TWO, 0),
    ("digits", 2),
    ("digits", 3),
    (TWO, 1),
    ("digits", 4),
    (TWO, 2),
]
"""Of the main part's data sets and seeds: after an interruption there is something of everything."""
FIRST = (
    "supervised",
    *("freematch", "softmatch", "uda", "mean_teacher", "mixmatch", "simple", "alphamatch", "fixmatch"),
)
"""Methods of a seed that are trained before the others."""
SIDES = {"digits": 8, TWO: 16}
"""Sides in pixels: the digits' own, and half of the photographs'."""
TRIED: dict[str, tuple[int, ...]] = {
    "pilot": (100,),
    "tuning": (100,),
    "short": (100, 101, 102),
    "options": (100, 101),
}
"""Seeds of all parts but main, which has none of them."""
FEW_STEPS = {"epochs": 5, "steps_per_epoch": 100}
"""Of the pilot, which has to come first, and of `short`."""
VALID = 400
GRID: list[dict[str, Any]] = [{"lr": lr} for lr in (0.01, 0.03, 0.1)]
TUNED = "supervised, tuned"
Part = Literal["pilot", "tuning", "main", "short", "options"]
PARTS: tuple[Part, ...] = ("pilot", "tuning", "main", "options")
"""What is run where no part is named: `short` is what a busy machine has time for."""
SHARES = (0.02, 0.05, 0.1, 0.2)
"""Tried lengths of VAT's perturbation, in norms of a typical image, sqrt(3) times its side."""
OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "fixmatch": ({"augment.probability": 1.0}, {"augment.probability": 0.5}),
    "pseudo_label": ({"pseudo_label.statistics": "all"}, {"pseudo_label.statistics": "labelled"}),
}


@dataclass(frozen=True)
class Job:
    """One run: which, and the values that are not the defaults."""

    part: Part
    dataset: str
    variant: str
    seed: int
    method: str
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What tells it from all others."""
        return self.part, self.dataset, self.variant, self.seed


@dataclass(frozen=True)
class Row:
    """A finished run: errors in percent, calibration error in points, the last epoch's mask rate and accuracy of the
    pseudo-labels from 0 to 1. What a run does not have is None; `failed` says why a run gave no result."""

    part: str
    dataset: str
    variant: str
    seed: int
    method: str
    values: Mapping[str, Any]
    val_error: float | None = None
    val_loss: float | None = None
    val_ece: float | None = None
    test_error: float | None = None
    mask_rate: float | None = None
    pseudo_label_accuracy: float | None = None
    seconds: float = 0.0
    split_hash: str = ""
    failed: str | None = None

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What tells it from all others."""
        return self.part, self.dataset, self.variant, self.seed


def shown(values: Mapping[str, Any]) -> str:
    """Values as the name of a variant."""
    return ", ".join(f"{name.split('.')[-1]}={value}" for name, value in values.items())


def tried(part: Part) -> list[Job]:
    """The runs of a part that goes by validation error."""
    runs: dict[str, list[tuple[str, Mapping[str, Any]]]] = {
        "tuning": [("supervised", values) for values in GRID],
        "short": [(name, {}) for name in in_order()],
        "options": [(method, values) for method, choices in OPTIONS.items() for values in choices],
    }
    return [
        Job(part, dataset, f"{method} {shown(values)}".strip(), seed, method, values)
        for seed in TRIED[part]
        for dataset in (LABELS if part != "short" else ["digits"])
        for method, values in (perturbations(dataset) if part == "pilot" else runs[part])
    ]


def in_order() -> list[str]:
    """The methods in the order in which they are trained."""
    return [*FIRST, *(name for name in method_names() if name not in FIRST)]


def perturbations(dataset: str) -> list[tuple[str, Mapping[str, Any]]]:
    """VAT with perturbations of several lengths, and supervised training beside it."""
    norm, step = (3 * SIDES[dataset] ** 2) ** 0.5, {"vat.xi": 0.1, "vat.iterations": 1}
    return [("supervised", {}), *(("vat", {"vat.eps": round(share * norm, 2), **step}) for share in SHARES)]


def main_part(rows: Sequence[Row]) -> list[Job]:
    """Every method, and the tuned baseline where the tuning is done; the first seeds of all methods come first."""
    jobs = []
    for dataset, seed in ORDER:
        names = in_order()
        jobs += [Job("main", dataset, name, seed, name) for name in names]
        best = tuned(rows, dataset)
        if best is not None:
            jobs.insert(len(jobs) - len(names) + 1, Job("main", dataset, TUNED, seed, "supervised", best))
    return jobs


def tuned(rows: Sequence[Row], dataset: str) -> Mapping[str, Any] | None:
    """The values with the lowest mean validation error, of equal ones with the lowest loss; None: not all tried."""
    means = {}
    for values in GRID:
        here = [
            row
            for row in rows
            if (row.part, row.dataset, row.variant) == ("tuning", dataset, f"supervised {shown(values)}")
            and row.val_error is not None
        ]
        if len(here) < len(TRIED["tuning"]):
            return None
        losses = [row.val_loss or 0.0 for row in here]
        means[shown(values)] = (
            statistics.fmean(row.val_error or 0.0 for row in here),
            statistics.fmean(losses),
        )
    return min(GRID, key=lambda values: means[shown(values)])


def document_of(job: Job, cifar10: str) -> dict[str, Any]:
    """The run's configuration, as `ssl_core.train` takes it."""
    from tune.definition.inputs import with_overrides

    method = get_method(job.method)
    document: dict[str, Any] = {
        **COMMON,
        "mu": method.default_mu or MU,
        "method": job.method,
        "dataset": job.dataset if job.dataset == "digits" else place_of(job.dataset, cifar10),
        "labels": LABELS[job.dataset],
        "seed": job.seed,
        "data": {"label_seed": job.seed, "image_size": SIDES[job.dataset]},
    }
    if job.part != "main":
        document["data"]["valid"] = VALID
    if job.part in ("pilot", "short"):
        document |= FEW_STEPS
    return with_overrides(document, job.values)


def run_one(job: Job, cifar10: str) -> Row:
    """Train one run; called in a process that makes many."""
    import ssl_core
    from ssl_core.system.errors import NonFiniteError

    named = {name: getattr(job, name) for name in ("part", "dataset", "variant", "seed", "method", "values")}
    last: dict[str, float] = {}
    is_main = job.part == "main"
    started = time.process_time()
    try:
        result = ssl_core.train(
            document_of(job, cifar10),
            cache=RUNS / "cache",
            final=is_main,
            readings=RUNS / "every-method-readings.jsonl" if is_main else None,
            on_report=lambda report: last.update(report.metrics),
        )
    except NonFiniteError as error:
        return Row(**named, failed=str(error))
    return Row(
        **named,
        val_error=result.val_error,
        val_loss=result.val_loss,
        val_ece=last.get("val/ece"),
        test_error=result.test_error,
        mask_rate=last.get("ssl/mask_rate"),
        pseudo_label_accuracy=last.get("ssl/pseudo_label_accuracy"),
        seconds=round(time.process_time() - started, 1),
        split_hash=result.split_hash,
    )


def read(path: Path) -> list[Row]:
    """The finished runs of a file; half a line that a crash left behind is no run."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(Row(**json.loads(line)))
        except ValueError:
            continue
    return found


def run_all(cifar10: str, path: Path, parts: Sequence[Part], jobs: int) -> None:
    """Make every run that has no line yet, `jobs` side by side."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for part in parts:
            rows = read(path)
            declared = main_part(rows) if part == "main" else tried(part)
            done = {row.key for row in rows}
            waiting = [job for job in declared if job.key not in done]
            print(f"{part}: {len(declared) - len(waiting)} runs are done, {len(waiting)} to go", flush=True)
            running = [pool.submit(run_one, job, cifar10) for job in waiting]
            for finished in as_completed(running):
                row = finished.result()
                with path.open("a") as file:
                    file.write(json.dumps(asdict(row)) + "\n")
                error = row.failed or f"{row.val_error:.2f} % on validation images"
                print(
                    *(row.part, row.dataset, row.variant, row.seed),
                    error,
                    f"{row.seconds:.0f} s",
                    sep=", ",
                    flush=True,
                )


def summaries(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One entry for each part, data set and variant, as docs/tables/methods/table.json has them."""
    found = []
    for part, dataset, variant in dict.fromkeys((row.part, row.dataset, row.variant) for row in rows):
        here = [row for row in rows if (row.part, row.dataset, row.variant) == (part, dataset, variant)]
        base = {
            row.seed: row.test_error
            for row in rows
            if (row.part, row.dataset, row.variant) == (part, dataset, TUNED)
        }
        paired = [
            row.test_error - other
            for row in here
            if row.test_error is not None and (other := base.get(row.seed)) is not None
        ]
        entry: dict[str, Any] = {"part": part, "dataset": dataset, "variant": variant, "runs": len(here)}
        entry["failed"] = sum(row.failed is not None for row in here)
        for name in ("test_error", "val_error", "val_ece", "mask_rate", "pseudo_label_accuracy", "seconds"):
            entry[name] = _mean_std([v for row in here if (v := getattr(row, name)) is not None])
        entry["against_tuned"] = _mean_std(paired)
        entry["better_by_more_than_std"] = len(paired) > 1 and -statistics.fmean(paired) > statistics.stdev(
            paired
        )
        found.append(entry)
    return found


def _mean_std(values: Sequence[float]) -> dict[str, Any] | None:
    if not values:
        return None
    std = round(statistics.stdev(values), 4) if len(values) > 1 else None
    return {"mean": round(statistics.fmean(values), 4), "std": std, "n": len(values)}


def _text(entry: Mapping[str, Any] | None, *, sign: bool = False, digits: int = 2) -> str:
    if entry is None:
        return ""
    mean = f"{entry['mean']:{'+' if sign else ''}.{digits}f}"
    return mean if entry["std"] is None else f"{mean} ± {entry['std']:.{digits}f}"


def tables(rows: Sequence[Row]) -> Iterator[str]:
    """Markdown: the main part's table of each data set, then what pilot and tuning found."""
    entries = summaries(rows)
    for dataset in LABELS:
        yield f"### {dataset}, {LABELS[dataset]} labels\n"
        if (best := tuned(rows, dataset)) is not None:
            yield f"Tuned baseline: {shown(best)}\n"
        yield "| method | seeds | test/error % | against tuned, paired | mask rate | right | core-seconds |"
        yield "|---|---|---|---|---|---|---|"
        for entry in (e for e in entries if (e["part"], e["dataset"]) == ("main", dataset)):
            difference = "" if entry["variant"] == TUNED else _text(entry["against_tuned"], sign=True)
            yield (
                f"| {entry['variant']} | {entry['runs']} | {_text(entry['test_error'])} | {difference} "
                f"| {_text(entry['mask_rate'])} | {_text(entry['pseudo_label_accuracy'])} "
                f"| {_text(entry['seconds'], digits=0)} |"
            )
        yield ""
        for part in ("pilot", "tuning", "short", "options"):
            for entry in (e for e in entries if (e["part"], e["dataset"]) == (part, dataset)):
                yield f"| {part}: {entry['variant']} | {entry['runs']} | val/error {_text(entry['val_error'])} |"
        yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--cifar10", default="cifar10", help="folder:PATH, the CIFAR-10 images")
    parser.add_argument("--rows", type=Path, default=ROWS, help="where finished runs are kept")
    parser.add_argument(
        "--part", choices=get_args(Part), action="append", help="one part alone; may be given again"
    )
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="runs side by side")
    parser.add_argument(
        "--table", action="store_true", help="write and print the tables of what is done, train nothing"
    )
    options = parser.parse_args()
    if not options.table:
        run_all(options.cifar10, options.rows, options.part or PARTS, options.jobs)
        return
    rows = read(options.rows)
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    TABLE.write_text(json.dumps(summaries(rows), indent=1) + "\n")
    print("\n".join(tables(rows)))


if __name__ == "__main__":
    main()
