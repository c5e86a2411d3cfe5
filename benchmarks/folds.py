"""Whether trials on several folds choose better than more trials on one split, at the same number of epochs.

    python -m benchmarks.folds --configs 40       # about half an hour of one core; carries on where it was
    python -m benchmarks.folds --table            # the comparison of what is recorded; trains nothing

Pseudo-labelling on digits as in `benchmarks.curve_sets` (50 labelled and 50 validation images, wrn-10-1 at 8x8, 12
epochs of 24 steps), configurations drawn uniformly from its space. Each is trained on FOLDS folds, and once more on
fold 0 with another training seed: the fresh run, as `confirm` would make it. HELD training images that no loss, no
pseudo-label and no validation uses say how good each training is; the test set is not read. All of it is done for
several pools, which differ in the images that are labelled and validate.

The comparison draws configurations at random from those recorded, as many as a number of trainings pays for:

- one split: each has one training; the lowest val/error on fold 0 is chosen, of ties the lowest val/loss;
- all folds: a FOLDS-th as many configurations, each trained on all folds; the lowest mean is chosen;
- ASHA: each is trained on fold 0, and gets its next fold where it is among the best third of those that came there
  before; of those with all folds the lowest mean is chosen. As many configurations as the trainings last for.

What counts is the regret of the chosen configuration: its held-out error less the lowest of all in the pool. That is
measured on the fresh run and, as a second yardstick, as the mean over the folds. Standard errors come from drawing the
recorded configurations again with replacement.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.curve_sets import CACHE, DATA, EPOCHS, SETS, parameters_of

TABLE = DATA / "folds.csv"
SET, FOLDS, HELD = "pseudo_label", 3, 1000
POOLS = (0, 1, 2)
FRESH = 1
"""Training seed of the fresh run."""
TRAININGS = (6, 12, 18)
DRAWS, BOOTSTRAPS = 300, 100


@dataclass(frozen=True)
class Row:
    """One training: of a configuration, in a pool, on a fold; errors in percent, the loss in nats. NaN: it diverged."""

    pool: int
    number: int
    fold: int
    seed: int
    val_error: float
    val_loss: float
    held_error: float
    seconds: float


def declared(configs: int) -> Iterator[tuple[int, int, int, int]]:
    """Pool, configuration, fold and training seed of every training, one pool after the other."""
    for pool in POOLS:
        for number in range(configs):
            yield from ((pool, number, fold, 0) for fold in range(FOLDS))
            yield pool, number, 0, FRESH


def record(pool: int, number: int, fold: int, seed: int) -> Row:
    """Train one configuration on one fold."""
    from ssl_core.config import from_document
    from ssl_core.data.splits.balanced import split_from
    from ssl_core.preparation import of_fold, prepare, split_of
    from ssl_core.system.errors import NonFiniteError
    from ssl_core.training.loop import run_epochs
    from ssl_core.training.run import Run
    from tune.definition.inputs import with_overrides

    chosen = SETS[SET]
    overrides = chosen.space.resolve(parameters_of(SET, number), EPOCHS)
    images = {"valid": chosen.valid, "image_size": 8, "split_seed": pool, "label_seed": pool}
    document = with_overrides(chosen.settings | {"seed": seed, "data": images}, overrides)
    config, data, base = prepare(from_document(document), cache=CACHE)
    config = of_fold(config, fold)
    split = split_of(config, data, base)
    others = np.setdiff1d(np.arange(len(data.labels)), np.concatenate([base.labelled, base.valid]))
    held = np.sort(np.random.default_rng([pool, HELD]).choice(others, HELD, replace=False))
    split = split_from(split.labelled, split.valid, np.setdiff1d(split.unlabelled, held), data.fingerprint)
    began = time.process_time()
    run = Run(config, data, split)
    errors = (np.nan, np.nan, np.nan)
    try:
        *_, last = run_epochs(run)
        errors = (last.metrics["val/error"], last.metrics["val/loss"], _held_error(run, held))
    except NonFiniteError:
        pass
    return Row(
        pool, number, fold, seed, *(round(e, 5) for e in errors), round(time.process_time() - began, 1)
    )


def _held_error(run: Any, held: np.ndarray) -> float:
    import torch

    indices = torch.from_numpy(held)
    wrong = run.evaluated_by_index(indices).argmax(dim=1) != run.labels[indices]
    return 100 * float(wrong.float().mean())


def read(path: Path = TABLE) -> list[Row]:
    """What is recorded."""
    if not path.exists():
        return []
    kinds = {f.name: int if f.type == "int" else float for f in dataclasses.fields(Row)}
    with path.open(newline="") as file:
        return [Row(**{k: kinds[k](v) for k, v in row.items()}) for row in csv.DictReader(file)]  # type: ignore[arg-type]


def append(row: Row, path: Path = TABLE) -> None:
    """Add a training to the table."""
    cells, new = dataclasses.asdict(row), not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(cells), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(cells)


@dataclass(frozen=True)
class Pool:
    """The whole recorded configurations of a pool: those with all folds and the fresh run.

    Attributes:
        error, loss, held: (configurations, FOLDS); a training that diverged has infinite error and loss, and the
            held-out error of a guess.
        fresh: (configurations,), held-out error of the fresh run.
    """

    error: np.ndarray
    loss: np.ndarray
    held: np.ndarray
    fresh: np.ndarray


def pools_of(rows: list[Row]) -> list[Pool]:
    """The rows by pool, those of configurations that are not whole left out."""
    found = []
    for pool in POOLS:
        by = {(r.number, r.fold, r.seed): r for r in rows if r.pool == pool}
        keys = [(fold, 0) for fold in range(FOLDS)] + [(0, FRESH)]
        whole = sorted({n for n, _, _ in by if all((n, *key) in by for key in keys)})
        values = np.array(
            [
                [[getattr(by[n, *key], name) for key in keys] for n in whole]
                for name in ("val_error", "val_loss", "held_error")
            ]
        ).reshape(3, len(whole), FOLDS + 1)
        held = np.nan_to_num(values[2], nan=90.0)
        error, loss = (np.nan_to_num(v[:, :FOLDS], nan=np.inf) for v in values[:2])
        found.append(Pool(error, loss, held[:, :FOLDS], held[:, FOLDS]))
    return found


def _lowest(pool: Pool, drawn: np.ndarray, folds: int) -> int:
    """Of drawn configurations the one with the lowest mean error over the first folds, of ties the lowest mean loss."""
    order = np.lexsort((pool.loss[drawn, :folds].mean(axis=1), pool.error[drawn, :folds].mean(axis=1)))
    return int(drawn[order[0]])


def one_split(pool: Pool, order: np.ndarray, trainings: int) -> int:
    """The configuration that is chosen on one split."""
    return _lowest(pool, order[:trainings], 1)


def all_folds(pool: Pool, order: np.ndarray, trainings: int) -> int:
    """The configuration that is chosen by the mean over all folds."""
    return _lowest(pool, order[: trainings // FOLDS], FOLDS)


def asha(pool: Pool, order: np.ndarray, trainings: int) -> int:
    """The configuration that a search with ASHA over folds chooses: a study's rungs, one trial after the other."""
    from tune.definition.rungs import Stopping
    from tune.engine.scheduler import Bracket

    stopping = Stopping(folds=FOLDS)
    rungs, spent = Bracket(stopping.fold_rungs(EPOCHS), stopping.eta), 0
    reached: dict[int, list[int]] = {fold: [] for fold in range(1, FOLDS + 1)}
    for place, number in enumerate(order):
        for fold in range(1, FOLDS + 1):
            if spent == trainings:
                break
            spent += 1
            reached[fold].append(int(number))
            value = min(pool.error[number, :fold].mean(), 100.0)
            trial: Any = SimpleNamespace(trial_id=str(place))
            if fold == FOLDS or rungs.on_result(trial, fold * EPOCHS, -value) == "STOP":
                break
    if spent < trainings:
        raise ValueError(f"{len(order)} configurations are too few for {trainings} trainings")
    deepest = max(fold for fold, numbers in reached.items() if numbers)
    return _lowest(pool, np.array(reached[deepest]), deepest)


RULES: dict[str, Callable[[Pool, np.ndarray, int], int]] = {
    "one split": one_split,
    "all folds": all_folds,
    "ASHA over folds": asha,
}


def regrets(pools: list[Pool], trainings: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The mean regret of each rule over pools and draws: of the fresh run, and as the mean over folds."""
    sums = {rule: np.zeros(2) for rule in RULES}
    for pool in pools:
        judged = np.stack([pool.fresh, pool.held.mean(axis=1)])
        judged = judged - judged.min(axis=1, keepdims=True)
        for _ in range(DRAWS):
            order = rng.permutation(len(pool.fresh))
            for rule, choose in RULES.items():
                sums[rule] += judged[:, choose(pool, order, trainings)]
    return {rule: total / (DRAWS * len(pools)) for rule, total in sums.items()}


def _again(pool: Pool, rng: np.random.Generator) -> Pool:
    """Configurations of a pool drawn with replacement."""
    rows = rng.integers(0, len(pool.fresh), len(pool.fresh))
    return Pool(pool.error[rows], pool.loss[rows], pool.held[rows], pool.fresh[rows])


def _enough(pools: list[Pool], trainings: int) -> list[Pool]:
    """Pools of whose configurations no search with so many trainings uses more than half."""
    return [pool for pool in pools if len(pool.fresh) >= 2 * trainings]


def table(rows: list[Row]) -> Iterator[str]:
    """The comparison, line by line, in Markdown."""
    every = pools_of(rows)
    seconds = np.median([r.seconds for r in rows]) if rows else 0.0
    configs = [len(pool.fresh) for pool in every]
    yield f"{len(rows)} trainings, {seconds:.1f} s each; configurations of each pool: {configs}"
    judged = _enough(every, min(TRAININGS))
    if not judged:
        yield f"No pool has {2 * min(TRAININGS)} configurations yet."
        return
    for name, number in (("one split", 1), ("mean of folds", FOLDS)):
        found = [stats.spearmanr(p.error[:, :number].mean(axis=1), p.fresh).statistic for p in judged]
        yield f"rank correlation of val/error ({name}) with the fresh run's held-out error: {np.mean(found):.2f}"
    than = "against one split"
    yield f"| trainings | rule | regret of the fresh run | {than} | mean over the folds | {than} |"
    yield "|---|---|---|---|---|---|"
    for trainings in TRAININGS:
        pools = _enough(every, trainings)
        if not pools:
            continue
        found_here = regrets(pools, trainings, np.random.default_rng(trainings))
        again = []
        for number in range(BOOTSTRAPS):
            rng = np.random.default_rng([trainings, number])
            again.append(regrets([_again(pool, rng) for pool in pools], trainings, rng))
        for rule, values in found_here.items():
            cells = [str(trainings), rule]
            for place in range(2):
                difference = values[place] - found_here["one split"][place]
                spread = np.std([each[rule][place] for each in again])
                moved = np.std([each[rule][place] - each["one split"][place] for each in again])
                cells += [f"{values[place]:.2f} ± {spread:.2f}"]
                cells += ["" if rule == "one split" else f"{difference:+.2f} ± {moved:.2f}"]
            yield "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--configs", type=int, default=40)
    parser.add_argument("--table", action="store_true", help="show the comparison of what is recorded")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if not options.table:
        there = {(r.pool, r.number, r.fold, r.seed) for r in read()}
        for key in declared(options.configs):
            if key not in there:
                append(found := record(*key))
                print(found, flush=True)
    for line in table(read()):
        print(line)


if __name__ == "__main__":
    main()
