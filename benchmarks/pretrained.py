"""What weights from other images are worth: ResNet-18 from random weights, and from half of the CIFAR-10 classes.

    python -m benchmarks.pretrained --cifar10 folder:PATH   # carries on where it was
    python -m benchmarks.pretrained --table                 # the table of what is done so far, trains nothing

A ResNet-18 is trained on all images of the first five classes and saved as FILE. Then the other five classes are
learned from 100 labels, with random weights and from FILE, everything else the same. Nothing is tuned. The images have
16 x 16 pixels and the runs are short, so that one core needs half an hour; every run has one thread, because their
number changes the bits. Each run reads the test set once, at its end; its result is a row of docs/pretrained.csv.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.rows import append, read_rows, spread

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "pretrained.csv"
RUNS = ROOT / "ssl-tune-home" / "pretrained"
CLASSES = {
    "source": ("airplane", "automobile", "bird", "cat", "deer"),
    "target": ("dog", "frog", "horse", "ship", "truck"),
}
SEEDS = (0, 1, 2)
METHODS = ("supervised", "fixmatch")
STARTS = ("random", "FILE")
LABELS = 100
COMMON: dict[str, Any] = {"network": "resnet18", "threads": 1, "data": {"image_size": 16}}
SOURCE = {"method": "supervised", "labels": 22_500, "epochs": 5, "steps_per_epoch": 80, "batch_size": 64}
TARGET = {"labels": LABELS, "epochs": 4, "steps_per_epoch": 30, "batch_size": 16, "mu": 2}


class Key(NamedTuple):
    """Which run it is."""

    method: str
    start: str
    seed: int


@dataclass(frozen=True)
class Row:
    """A finished run, as docs/pretrained.csv has it; errors in percent, seconds spent in epochs."""

    method: str
    start: str
    seed: int
    val_error: float
    test_error: float
    seconds: float
    split_hash: str

    @property
    def key(self) -> Key:
        return Key(self.method, self.start, self.seed)


def declared() -> list[Key]:
    """Every run on the target classes; those of a seed, which are compared, one after the other."""
    return [Key(method, start, seed) for seed in SEEDS for method in METHODS for start in STARTS]


def half_of(part: str, cifar10: Path) -> str:
    """A folder of links to the images of some classes, as a data set."""
    links = RUNS / part
    for split in ("train", "test"):
        (links / split).mkdir(parents=True, exist_ok=True)
        for name in CLASSES[part]:
            if not (links / split / name).exists():
                (links / split / name).symlink_to(cifar10 / split / name)
    return f"folder:{links}"


def source_weights(cifar10: Path) -> Path:
    """The file of weights, trained on the source classes where it is not there yet.

    Mean and deviation of the pixels are in its metadata, so that runs that start from it normalise alike.
    """
    from safetensors.torch import save_file

    import ssl_core
    from ssl_core.training import checkpoint
    from ssl_core.training.result import CHECKPOINTS, prepare

    path = RUNS / "resnet18.safetensors"
    if path.exists():
        return path
    config = {
        **COMMON,
        **SOURCE,
        "dataset": half_of("source", cifar10),
        "data": {**COMMON["data"], "valid": 2500},
    }
    out = RUNS / "source-run"
    result = ssl_core.train(config, cache=RUNS / "cache", out=out, resume=True)
    print(f"source classes: val/error {result.val_error:.2f} %, {result.seconds:.0f} s", flush=True)
    state = checkpoint.load_newest(out / CHECKPOINTS)
    assert state is not None
    data = prepare(config, cache=RUNS / "cache")[1]
    metadata = {"mean": json.dumps(data.mean), "std": json.dumps(data.std)}
    save_file({k: v.contiguous() for k, v in state["ema"].items()}, path, metadata=metadata)
    return path


def run_one(key: Key, cifar10: Path, weights: Path) -> Row:
    """Train one run, or carry it on."""
    import ssl_core

    config = {
        **COMMON,
        **TARGET,
        "method": key.method,
        "dataset": half_of("target", cifar10),
        "seed": key.seed,
        "data": {**COMMON["data"], "label_seed": key.seed},
        "backbone": {"weights": str(weights) if key.start == "FILE" else "none"},
    }
    out = RUNS / f"{key.method}-{key.start}-{key.seed}"
    result = ssl_core.train(config, cache=RUNS / "cache", out=out, resume=True, final=True)
    assert result.val_error is not None and result.test_error is not None
    errors = {"val_error": result.val_error, "test_error": result.test_error}
    return Row(**key._asdict(), **errors, seconds=round(result.seconds, 1), split_hash=result.split_hash)


def table(rows: Sequence[Row]) -> Iterator[str]:
    """A Markdown table: mean ± standard deviation of the test error, and of the differences between both starts."""
    yield "| method | seeds | from random weights, test/error % | from FILE, test/error % | difference, paired |"
    yield "|---|---|---|---|---|"
    for method in METHODS:
        errors = {
            start: {r.seed: r.test_error for r in rows if (r.method, r.start) == (method, start)}
            for start in STARTS
        }
        both = sorted(errors["random"].keys() & errors["FILE"].keys())
        paired = [errors["FILE"][seed] - errors["random"][seed] for seed in both]
        shown = [spread([errors[start][seed] for seed in both]) for start in STARTS]
        yield f"| {method} | {len(both)} | {shown[0]} | {shown[1]} | {spread(paired, sign=True)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--cifar10", help="CIFAR-10 as an image folder: folder:PATH")
    parser.add_argument("--table", action="store_true", help="print the table of what is done, train nothing")
    options = parser.parse_args()
    if not options.table:
        if not options.cifar10:
            parser.error("--cifar10 folder:PATH is needed, except with --table")
        place = Path(options.cifar10.removeprefix("folder:")).resolve()
        weights = source_weights(place)
        done = {row.key for row in read_rows(TABLE, Row)}
        for key in (key for key in declared() if key not in done):
            row = run_one(key, place, weights)
            append(TABLE, row)
            print(row, flush=True)
    print("\n".join(table(read_rows(TABLE, Row))))


if __name__ == "__main__":
    main()
