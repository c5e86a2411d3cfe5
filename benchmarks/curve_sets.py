"""Five sets of learning curves for judging searches: what each holds, how a run of it is trained, and where it is kept.

A set is one method on the digits with few labels (wrn-10-1 at 8x8, 12 epochs of 24 steps), or on two classes of
photographs at 16x16. Its configurations are drawn uniformly from data/spaces/METHOD.yaml. A run is evaluated after
every epoch on POOL training images that no loss and no pseudo-label uses; the test set is not read. Which of the pool
are a study's validation images is drawn PARTS times, the same number of each class (so val/error_balanced is
val/error); all others measure how good a configuration really is.
One fixed validation set would make every simulated search lucky or unlucky in the same way.

data/curves-SET.npz has the runs of a set, packed: what each part's validation images say after each epoch, and how many
of the pool are wrong. `python -m benchmarks.curve_sets` makes it from the recorded files.

CHOOSING and REPORTING were named before any of these curves was recorded: rules are chosen on the first, figures come
from the second. The 105 curves of `benchmarks.record_curves`, which had been looked at before, belong to neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from search_spaces import SearchSpace

DATA = Path(__file__).resolve().parent / "data"
RAW = Path(__file__).resolve().parent.parent / "ssl-tune-home" / "curves"
CACHE = RAW.parent / "cache"
EPOCHS, POOL, PARTS, BLOCK = 12, 1000, 25, 80
LONGEST = 4.0
"""Losses are kept as bytes: a 255th of the way from 0 to LONGEST on the axis of log(1 + 100 loss) / log(10)."""


@dataclass(frozen=True)
class CurveSet:
    """What is trained.

    Attributes:
        name: also the method's, and that of the file of its space.
        labels: labelled images.
        valid: validation images of a study.
        fixed: further settings.
        classes: number of classes.
        photographs: whether it is trained on the CIFAR-10 images of `record`'s source instead of the digits.
    """

    name: str
    labels: int
    valid: int
    fixed: dict[str, Any]
    classes: int = 10
    photographs: bool = False

    @property
    def method(self) -> str:
        """What trains it."""
        return self.name.removesuffix("-photographs")

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration that all its runs share."""
        return {
            "method": self.method,
            "dataset": "digits",
            "labels": self.labels,
            "network": "wrn-10-1",
            "epochs": EPOCHS,
            "steps_per_epoch": 24,
            "batch_size": 8,
            "mu": 2,
            "threads": 1,
            "precision": "float32",
            "data": {"valid": POOL, "image_size": 16 if self.photographs else 8},
            **self.fixed,
        }

    @property
    def space(self) -> SearchSpace:
        """What its configurations are drawn from."""
        from search_spaces import load_space

        return load_space(self.method, str(DATA / "spaces" / f"{self.method}.yaml"))


SETS = {
    s.name: s
    for s in (
        CurveSet("pseudo_label", labels=50, valid=50, fixed={}),
        CurveSet("vat", labels=50, valid=50, fixed={"vat": {"iterations": 1}}),
        CurveSet("fixmatch", labels=40, valid=40, fixed={}),
        CurveSet("mean_teacher", labels=50, valid=500, fixed={"mu": 1}),
        CurveSet("fixmatch-photographs", labels=40, valid=40, fixed={}, classes=2, photographs=True),
    )
}
CHOOSING, REPORTING = ("pseudo_label", "fixmatch"), ("vat", "mean_teacher", "fixmatch-photographs")


@dataclass(frozen=True)
class Job:
    """A run that is declared: a configuration's number draws its parameters; `seed` is that of the training."""

    set: str
    number: int
    seed: int

    @property
    def path(self) -> Path:
        """The file of its result."""
        return RAW / self.set / f"{self.number:04d}-{self.seed}.npz"


def declared(names: tuple[str, ...], configs: int) -> list[Job]:
    """All runs, the sets in turn, so that an interrupted recording has as much of each.

    Every fourth configuration has a second seed; those of a BLOCK of configurations come after it.
    """
    jobs = []
    for first in range(0, configs, BLOCK):
        block = range(first, min(first + BLOCK, configs))
        jobs += [Job(name, number, 0) for number in block for name in names]
        jobs += [Job(name, number, 1) for number in block if number % 4 == 0 for name in names]
    return jobs


def parameters_of(name: str, number: int) -> dict[str, float]:
    """A random point of a set's space."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=number))
    return dict(study.ask(SETS[name].space.distributions(EPOCHS)).params)


def record(job: Job, photographs: str | None = None) -> str:
    """Train a run and write its file; a line about it.

    Args:
        job: the run.
        photographs: for sets that are trained on them, the data set of the two classes.

    The file has `classes` (POOL,), `wrong` (epochs, POOL) as bits of the pool's images, `loss` (epochs, POOL) as bytes.
    A run that diverges has fewer epochs.
    """
    import time
    import warnings

    from ssl_core.config import from_document
    from ssl_core.system.errors import NonFiniteError
    from ssl_core.training.loop import run_epochs
    from ssl_core.training.result import prepare
    from ssl_core.training.run import Run
    from tune.definition.inputs import with_overrides

    warnings.simplefilter("ignore")  # that the pool is larger than the labelled set
    chosen = SETS[job.set]
    overrides = chosen.space.resolve(parameters_of(job.set, job.number), EPOCHS)
    settings = chosen.settings | {"seed": job.seed}
    if chosen.photographs:
        settings["dataset"] = photographs
    config, data, split = prepare(from_document(with_overrides(settings, overrides)), cache=CACHE)
    began = time.process_time()
    run = Run(config, data, split)
    wrong, losses = [], []
    evaluated, kept = run.evaluated_by_index, []

    def watched(indices: Any) -> Any:
        """As before; the loop's own validation, the last of an epoch, is not made twice."""
        kept[:] = [evaluated(indices)]
        return kept[0]

    run.evaluated_by_index = watched  # type: ignore[method-assign]
    try:
        for _ in run_epochs(run):
            bad, loss = _judged(kept[0], run.labels[run.valid])
            wrong.append(bad)
            losses.append(loss)
    except NonFiniteError:
        pass
    seconds = time.process_time() - began
    job.path.parent.mkdir(parents=True, exist_ok=True)
    written = job.path.with_suffix(".part")
    with written.open("wb") as file:
        np.savez_compressed(
            file,
            classes=run.labels[run.valid].numpy().astype(np.uint8),
            wrong=np.packbits(np.array(wrong, dtype=bool).reshape(-1, POOL), axis=1),
            loss=to_bytes(np.array(losses, dtype=np.float32).reshape(-1, POOL)),
            seconds=np.float32(seconds),
        )
    written.rename(job.path)
    final = f"{100 * wrong[-1].mean():.1f} %" if wrong else "no epoch"
    return f"{job.set} {job.number}, seed {job.seed}: {final} after {len(wrong)} epochs, {seconds:.1f} s"


def _judged(logits: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Whether each image of the pool is misclassified, and its cross-entropy."""
    import torch

    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    return (logits.argmax(dim=1) != labels).numpy(), loss.numpy()


def to_bytes(loss: np.ndarray) -> np.ndarray:
    """Losses of at least 0 as bytes, which LONGEST describes; larger ones than its end are cut."""
    share = np.log10(1 + 100 * loss) / LONGEST
    return np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)


def from_bytes(kept: np.ndarray) -> np.ndarray:
    """The losses that bytes stand for."""
    return (10 ** (kept.astype(np.float64) / 255 * LONGEST) - 1) / 100


@dataclass(frozen=True)
class Runs:
    """The runs of a set, one a row. After the last epoch of a run that diverged there is NaN.

    Attributes:
        number, seed: (runs,).
        params: (runs, parameters), in the order of the space.
        seconds: (runs,), of one core.
        wrong: (runs, EPOCHS), share of the pool that is misclassified.
        val_wrong: (runs, EPOCHS, PARTS), share of a part's validation images that is.
        val_loss: (runs, EPOCHS, PARTS), their mean cross-entropy.
    """

    number: np.ndarray
    seed: np.ndarray
    params: np.ndarray
    seconds: np.ndarray
    wrong: np.ndarray
    val_wrong: np.ndarray
    val_loss: np.ndarray


def validation_images(name: str, part: int, classes: np.ndarray) -> np.ndarray:
    """Places in the pool of a part's validation images, as many of each class."""
    chosen = SETS[name]
    rng = np.random.default_rng([part, chosen.valid])
    each = chosen.valid // chosen.classes
    return np.concatenate(
        [rng.choice(np.flatnonzero(classes == c), each, replace=False) for c in range(chosen.classes)]
    )


def packed(name: str, folder: Path = DATA) -> Path:
    """A set's file."""
    return folder / f"curves-{name}.npz"


def done(name: str, folder: Path = DATA) -> set[Job]:
    """The runs of a set that are recorded: those in its file, and those that have a file of their own."""
    found = {Job(name, *map(int, path.stem.split("-"))) for path in (RAW / name).glob("*.npz")}
    if packed(name, folder).exists():
        runs = read_runs(name, folder)
        found |= {Job(name, int(n), int(s)) for n, s in zip(runs.number, runs.seed, strict=True)}
    return found


def pack(name: str, folder: Path = DATA) -> int:
    """Add recorded runs to a set's file; returns how many it has then."""
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    if packed(name, folder).exists():
        with np.load(packed(name, folder)) as kept:
            arrays = {key: kept[key] for key in kept.files}
        for place, key in enumerate(zip(arrays["number"], arrays["seed"], strict=True)):
            rows[int(key[0]), int(key[1])] = {column: values[place] for column, values in arrays.items()}
    for path in (RAW / name).glob("*.npz"):
        number, seed = map(int, path.stem.split("-"))
        if (number, seed) not in rows:
            rows[number, seed] = {"number": number, "seed": seed, **_packed_run(name, number, path)}
    ordered = [rows[key] for key in sorted(rows)]
    kinds = {"number": "u2", "seed": "u1", "params": "f4"}
    columns = {
        key: np.array([row[key] for row in ordered]).astype(kinds.get(key, "f2"))
        for key in Runs.__dataclass_fields__
    }
    np.savez_compressed(packed(name, folder), **columns)
    return len(ordered)


def _packed_run(name: str, number: int, path: Path) -> dict[str, Any]:
    with np.load(path) as kept:
        wrong = np.unpackbits(kept["wrong"], axis=1, count=POOL).astype(float)
        loss, classes, seconds = from_bytes(kept["loss"]), kept["classes"], float(kept["seconds"])
    places = np.stack([validation_images(name, part, classes) for part in range(PARTS)])
    params = parameters_of(name, number)
    return {
        "params": [params[p.name] for p in SETS[name].space.parameters],
        "seconds": seconds,
        "wrong": _padded(wrong.mean(axis=1)),
        "val_wrong": _padded(wrong[:, places].mean(axis=2)),
        "val_loss": _padded(loss[:, places].mean(axis=2)),
    }


def _padded(rows: np.ndarray) -> np.ndarray:
    found = np.full((EPOCHS, *rows.shape[1:]), np.nan)
    found[: len(rows)] = rows
    return found


def read_runs(name: str, folder: Path = DATA) -> Runs:
    """A set's runs from its file. Shares are those of whole numbers of images again, which float16 rounds."""
    with np.load(packed(name, folder)) as kept:
        arrays = {key: kept[key].astype(np.float64) for key in kept.files}
    arrays["wrong"] = np.rint(arrays["wrong"] * POOL) / POOL
    arrays["val_wrong"] = np.rint(arrays["val_wrong"] * SETS[name].valid) / SETS[name].valid
    arrays |= {key: arrays[key].astype(int) for key in ("number", "seed")}
    return Runs(**arrays)


def main() -> None:
    for name in SETS:
        print(f"{name}: {pack(name)} runs")


if __name__ == "__main__":
    main()
