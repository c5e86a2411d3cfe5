"""Learning curves of random configurations, each trained to its end: the data that searches are compared on.

    python -m benchmarks.record_curves --configs 120     # about half an hour of one core; carries on where it was
    python -m benchmarks.record_curves --set vat         # one of the sets of benchmarks.curve_sets, instead

Pseudo-labelling on digits with 50 labels (wrn-10-1 at 16x16, 27 epochs of 16 steps), configurations drawn uniformly
from data/curves-space.yaml, where the warm-up takes from 2 % to 70 % of the run. One thread, one training seed and one
split for all, as the trials of a study have.

A study sees the error on its 50 validation images: `val_error` and `val_loss`. How good a configuration really is, is
measured on 200 other training images that no loss and no pseudo-label uses: `held_error`. The test set is not read. A
row of data/curves.csv is one configuration; its curves are numbers with spaces between them.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import curve_sets, evidence
from benchmarks.curve_sets import DATA
from tune.definition.objective import error_and_loss

SPACE, TABLE = DATA / "curves-space.yaml", DATA / "curves.csv"
METHOD, EPOCHS, LABELS, SEEN, HELD = "pseudo_label", 27, 50, 50, 200
SETTINGS: dict[str, Any] = {
    "method": METHOD,
    "dataset": "digits",
    "labels": LABELS,
    "network": "wrn-10-1",
    "epochs": EPOCHS,
    "steps_per_epoch": 16,
    "threads": 1,
    "precision": "float32",
    "data": {"valid": SEEN + HELD},
}


@dataclass(frozen=True)
class Curve:
    """One configuration's whole run; a run that diverged has a shorter one.

    Attributes:
        number: of the configuration, from 0; its parameters are drawn with this seed.
        params: as the search space names them.
        warmup: in epochs.
        seconds: that the run took.
        val_error, val_loss: after each epoch, on the images that a study would validate on.
        held_error: after each epoch, on others.
    """

    number: int
    params: dict[str, float]
    warmup: int
    seconds: float
    val_error: tuple[float, ...]
    val_loss: tuple[float, ...]
    held_error: tuple[float, ...]

    @property
    def diverged(self) -> bool:
        """Whether a loss or gradient was not finite before the end."""
        return len(self.val_error) < EPOCHS

    def both(self, epoch: int, valid: int) -> float:
        """What a study that goes by error and loss is told after an epoch, on so many validation images."""
        measured = list(zip(self.val_error[:epoch], self.val_loss[:epoch], strict=True))
        return error_and_loss(measured, valid)


def parameters_of(number: int) -> dict[str, float]:
    """A random point of the space."""
    import optuna

    from search_spaces import load_space

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=number))
    return dict(study.ask(load_space(METHOD, str(SPACE)).distributions(EPOCHS)).params)


def record(number: int) -> Curve:
    """Train one configuration from beginning to end."""
    from search_spaces import load_space
    from ssl_core.config import from_document
    from ssl_core.system.errors import NonFiniteError
    from ssl_core.training.loop import run_epochs
    from ssl_core.training.result import prepare
    from ssl_core.training.run import Run
    from tune.definition.inputs import with_overrides

    params = parameters_of(number)
    overrides = load_space(METHOD, str(SPACE)).resolve(params, EPOCHS)
    config, data, split = prepare(from_document(with_overrides(SETTINGS, overrides)))
    began = time.perf_counter()
    run = Run(config, data, split)
    rows: list[tuple[float, float, float]] = []
    try:
        rows += [_errors(run) for _ in run_epochs(run)]
    except NonFiniteError as error:
        print(f"configuration {number}: {error}", flush=True)
    val_error, val_loss, held_error = zip(*rows, strict=True) if rows else ((), (), ())
    return Curve(
        number=number,
        params=params,
        warmup=overrides["warmup_epochs"],
        seconds=round(time.perf_counter() - began, 1),
        val_error=val_error,
        val_loss=val_loss,
        held_error=held_error,
    )


def _errors(run: Any) -> tuple[float, float, float]:
    """Error and loss on the images that a study would have, and the error on the others."""
    import torch

    from ssl_core.losses import cross_entropy

    labels = run.labels[run.valid]
    logits = run.evaluated_by_index(run.valid)
    wrong = logits.argmax(dim=1) != labels
    seen = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():  # balanced, as a study's own validation set is
        seen[(labels == label).nonzero()[: SEEN // run.setup.num_classes]] = True
    loss = cross_entropy(logits[seen], labels[seen]).mean()
    percent = [100 * float(wrong[part].float().mean()) for part in (seen, ~seen)]
    return round(percent[0], 4), round(float(loss), 5), round(percent[1], 4)


def read_curves(path: Path = TABLE) -> list[Curve]:
    """The recorded configurations."""
    if not path.exists():
        return []
    names = [f.name for f in dataclasses.fields(Curve)]
    curves = []
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            params = {k: float(v) for k, v in row.items() if k not in names}
            series = {k: tuple(map(float, row[k].split())) for k in ("val_error", "val_loss", "held_error")}
            number, warmup, seconds = int(row["number"]), int(row["warmup"]), float(row["seconds"])
            curves.append(Curve(number=number, params=params, warmup=warmup, seconds=seconds, **series))
    return curves


def append(curve: Curve, path: Path = TABLE) -> None:
    """Add a configuration to the table."""
    row = dataclasses.asdict(curve)
    params = row.pop("params")
    cells = {k: " ".join(f"{x:g}" for x in v) if isinstance(v, Sequence) else v for k, v in row.items()}
    cells = {"number": cells.pop("number"), **{k: f"{v:.6g}" for k, v in params.items()}, **cells}
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(cells), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(cells)


def record_sets(names: Sequence[str], configs: int, jobs: int, cifar10: str | None = None) -> None:
    """Record runs of `benchmarks.curve_sets` that have no file yet, `jobs` side by side.

    Raises:
        ConfigError: a set of photographs, and no image folder of CIFAR-10.
    """
    place = None
    if any(curve_sets.SETS[name].photographs for name in names):
        place = evidence.place_of(evidence.TWO, cifar10 or "")
    there = set().union(*map(curve_sets.done, names))
    waiting = [job for job in curve_sets.declared(tuple(names), configs) if job not in there]
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for finished in as_completed([pool.submit(curve_sets.record, job, place) for job in waiting]):
            print(finished.result(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--configs", type=int, default=120)
    parser.add_argument("--set", action="append", help="of benchmarks.curve_sets; may be given again")
    parser.add_argument("--jobs", type=int, default=2, help="with --set: runs side by side")
    parser.add_argument("--cifar10", metavar="folder:PATH", help="the images of sets of photographs")
    options = parser.parse_args()
    if options.set:
        record_sets(options.set, options.configs, options.jobs, options.cifar10)
        return
    done = {curve.number for curve in read_curves()}
    for number in range(options.configs):
        if number not in done:
            curve = record(number)
            append(curve)
            final = curve.val_error[-1] if curve.val_error else float("nan")
            print(f"{number}: {final:g} % after {len(curve.val_error)} epochs, {curve.seconds} s", flush=True)


if __name__ == "__main__":
    main()
