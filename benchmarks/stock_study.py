"""A whole study of pseudo_label, this project's against stock wiring, at equal work: wall time from start to end.

    python -m benchmarks.stock_study folder:PATH                   # a round of all contenders: minutes
    python -m benchmarks.stock_study folder:PATH --rounds 3 --json

`PATH` is CIFAR-10 as an image folder: train/<class>, test/<class>. The contenders run one after the other, the whole
list of them again in each round, each in a process of its own from nothing to its exit:

stock           benchmarks/stock_wiring.py: Ray Tune, OptunaSearch, ASHA, Ray's MLflow callback, the plain recipe.
ours            `ssl-tune search` in float32, `pool: all`: the same work.
ours, bfloat16  the same, where the processor multiplies bfloat16 in hardware.
sampled         `pool: sampled`: it predicts only the images that an epoch draws. A row of its own: it is less work.

All have the same images, split, network, trials (thresholds), epochs, steps, batch sizes and warm-up, two trials side
by side with a core each, SQLite for MLflow and a checkpoint an epoch. The thresholds are so low that every image is
accepted: all trials train on the same number of images, whatever they have learnt. ASHA judges a trial at its end
alone. Every trial trains its own warm-up (`--warmup-cache 0`). Decoding is left out: stock's images lie decoded in a
file, as torchvision's CIFAR-10 does, ours in the home's cache, with the hashes of the test images that ours compares.
Contenders that tried other thresholds, or trained another number of epochs or images, are refused.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

ROOT = Path(__file__).resolve().parent.parent
STOCK = "stock"
CONTENDERS: dict[str, dict[str, str]] = {
    STOCK: {},
    "ours": {"precision": "float32", "pseudo_label.pool": "all"},
    "ours, bfloat16": {"precision": "bfloat16", "pseudo_label.pool": "all"},
    "sampled": {"precision": "float32", "pseudo_label.pool": "sampled"},
    "sampled, bfloat16": {"precision": "bfloat16", "pseudo_label.pool": "sampled"},
}
PLANNED = ("network", "epochs", "warmup", "steps", "batch_size", "mu", "concurrent", "workers")
"""Of the work, what the stock study is told as it is."""
LOWEST, HIGHEST = 0.02, 0.1
"""Thresholds that every prediction of ten classes exceeds."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every contender has to do."""

    dataset: str
    labels: int = 4000
    network: str = "wrn-10-1"
    trials: int = 3
    epochs: int = 3
    warmup: int = 1
    steps: int = 16
    batch_size: int = 32
    mu: int = 7
    concurrent: int = 2
    workers: int = 2
    image_size: int | None = None

    @property
    def thresholds(self) -> tuple[float, ...]:
        """One a trial."""
        return tuple(float(value) for value in np.linspace(HIGHEST, LOWEST, self.trials).round(4))

    @property
    def images(self) -> int:
        """How many images a trial trains on: B a step, after the warm-up mu * B more."""
        return self.steps * self.batch_size * (self.epochs + (self.epochs - self.warmup) * self.mu)

    def settings(self) -> dict[str, Any]:
        """What `ssl-tune search` fixes, by name."""
        fixed = {
            "warmup_epochs": self.warmup,
            "steps_per_epoch": self.steps,
            "batch_size": self.batch_size,
            "mu": self.mu,
            "threads": 1,
        }
        return fixed | ({} if self.image_size is None else {"data.image_size": self.image_size})


@dataclass(frozen=True)
class Row:
    """One contender in one round.

    Attributes:
        contender, round: which; rounds count from 0.
        seconds: of the wall clock, from the program's start to its exit.
        thresholds, epochs, images, val_error: of each trial, the highest threshold first; images that were trained on,
            the error in percent.
        epoch_seconds: median of all trials' epochs after the warm-up, by each contender's own clock: without what comes
            before, between and after them.
    """

    contender: str
    round: int
    seconds: float
    thresholds: list[float]
    epochs: list[int]
    images: list[int]
    val_error: list[float]
    epoch_seconds: float


def row_of(contender: str, number: int, seconds: float, trials: Sequence[dict[str, Any]], warmup: int) -> Row:
    """A row of trials: dicts with `threshold`, `epochs`, `images`, `val_error`, and `seconds`, those of each epoch."""
    ordered = sorted(trials, key=lambda trial: -float(trial["threshold"]))
    columns = {name: [trial[name] for trial in ordered] for name in ("epochs", "images", "val_error")}
    epoch = statistics.median(each for trial in trials for each in trial["seconds"][warmup:])
    thresholds = [trial["threshold"] for trial in ordered]
    return Row(contender, number, seconds, thresholds, **columns, epoch_seconds=epoch)


class Study:
    """The contenders over one place of prepared data.

    Args:
        work: of each.
        place: an empty folder.
    """

    def __init__(self, work: Work, place: Path) -> None:
        from ssl_core.config import from_document, options_of
        from ssl_core.data.inspecting.overlaps import check_test_images
        from ssl_core.training.result import prepare

        self.work, self.place = work, place
        document = {name: getattr(work, name) for name in ("dataset", "labels", "network", "epochs")}
        document |= {"method": "pseudo_label", "data": {"image_size": work.image_size}}
        cache = place / "cache"
        config, data, split = prepare(from_document(document), cache=cache)
        check_test_images(data, options_of(config), cache=cache)  # which decodes them, too
        self.split_hash, self.classes = split.hash, data.num_classes
        np.savez(
            place / "images.npz",
            images=data.images,
            labels=data.labels,
            labelled=split.labelled,
            pool=np.setdiff1d(split.unlabelled, split.labelled),
            valid=split.valid,
            mean=np.array(data.mean),
            std=np.array(data.std),
        )
        own = {
            "type": "float",
            "low": LOWEST,
            "high": HIGHEST,
            "role": "scientific",
            "why": "all are accepted",
        }
        space = {
            "method": "pseudo_label",
            "default": {"pseudo_label.threshold": own},
            "baseline": {"pseudo_label.threshold": work.thresholds[0]},
        }
        (place / "space.yaml").write_text(yaml.safe_dump(space))
        points = [{"pseudo_label.threshold": value} for value in work.thresholds[1:]]
        (place / "points.yaml").write_text(yaml.safe_dump(points))

    def run(self, contender: str, number: int) -> Row:
        """One contender in one round, in a new folder that is removed."""
        with tempfile.TemporaryDirectory(dir=self.place) as folder:
            if contender == STOCK:
                return self._stock(Path(folder), number)
            return self._ours(Path(folder), contender, number)

    def plan(self, folder: Path) -> dict[str, Any]:
        """The stock study's, which writes into this folder."""
        work = self.work
        return {
            "images": str(self.place / "images.npz"),
            "folder": str(folder),
            "out": str(folder / "result.json"),
            "classes": self.classes,
            "thresholds": work.thresholds,
            **{name: getattr(work, name) for name in PLANNED},
        }

    def _stock(self, folder: Path, number: int) -> Row:
        (folder / "plan.json").write_text(json.dumps(self.plan(folder)))
        seconds = _timed([sys.executable, "-m", "benchmarks.stock_wiring", str(folder / "plan.json")], folder)
        trials = json.loads((folder / "result.json").read_text())["trials"]
        return row_of(STOCK, number, seconds, trials, self.work.warmup)

    def _ours(self, folder: Path, contender: str, number: int) -> Row:
        from tune.findings.study import load_study

        work, home = self.work, folder / "home"
        shutil.copytree(self.place / "cache", home / "cache")
        words = ["search", "--home", str(home), "--name", "ours", "--method", "pseudo_label"]
        words += ["--dataset", work.dataset, "--labels", str(work.labels), "--network", work.network]
        words += ["--trials", str(work.trials), "--epochs", str(work.epochs)]
        words += ["--concurrent", str(work.concurrent), "--grace", str(work.epochs - work.warmup)]
        words += ["--warmup-cache", "0"]
        words += ["--space", str(self.place / "space.yaml")]
        if work.trials > 1:
            words += ["--points", str(self.place / "points.yaml")]
        for name, value in (work.settings() | CONTENDERS[contender]).items():
            words += ["--set", f"{name}={value}"]
        seconds = _timed([sys.executable, "-c", "from tune.cli import main; main()", *words], folder)
        study = load_study("ours", home=home)
        if study.spec.split_hash != self.split_hash:
            raise RuntimeError(f"{contender} had another split than {STOCK}")
        trials, curves = [], study.curves()
        for record in study.records():
            own = curves[curves["trial"] == record.trial].sort_values("epoch")
            trials.append(
                {
                    "threshold": record.params["pseudo_label.threshold"],
                    "epochs": record.epoch,
                    "images": round(float((own["images_per_second"] * own["time/epoch_seconds"]).sum())),
                    "seconds": own["time/epoch_seconds"].tolist(),
                    "val_error": record.val_error,
                }
            )
        return row_of(contender, number, seconds, trials, work.warmup)


def _timed(words: list[str], place: Path) -> float:
    """Wall seconds of a program, run in this folder, from its start to its exit.

    Raises:
        RuntimeError: it failed; the message has the end of what it said.
    """
    # Importing our driver sets Ray's variables in this process; stock wiring must not inherit them.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "TUNE_"))}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    began = time.perf_counter()
    done = subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        said = (done.stdout + done.stderr)[-3000:]
        raise RuntimeError(f"{' '.join(words[:4])} ... ended with {done.returncode}:\n{said}")
    return seconds


def contenders_here() -> list[str]:
    """The contenders that this machine can run."""
    from ssl_core.system.environment import has_fast_cpu_bfloat16

    fast = has_fast_cpu_bfloat16()
    return [name for name, fixed in CONTENDERS.items() if fast or fixed.get("precision") != "bfloat16"]


def check_equal_work(rows: Sequence[Row], work: Work) -> None:
    """Refuse rows of contenders that tried other thresholds, or trained another number of epochs or images.

    Raises:
        RuntimeError: one did.
    """
    expected = {
        "thresholds": list(work.thresholds),
        "epochs": [work.epochs] * work.trials,
        "images": [work.images] * work.trials,
    }
    for row in rows:
        for name, values in expected.items():
            if getattr(row, name) != values:
                raise RuntimeError(
                    f"{row.contender}, round {row.round}: its trials have the {name} {getattr(row, name)}; expected "
                    f"are {values}."
                )


def table(rows: Sequence[Row], machine: str) -> Iterator[str]:
    """The rows as Markdown: medians over the rounds, and the ratio within each round."""
    yield f"{machine}\n"
    yield (
        "| contender | rounds | trials | epochs, all trials | images trained on | wall s | stock / it, each round "
        "| s an epoch after the warm-up | stock / it |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    stock = {row.round: row for row in rows if row.contender == STOCK}
    for name in dict.fromkeys(row.contender for row in rows):
        own = [row for row in rows if row.contender == name]
        pairs = [(stock[row.round], row) for row in own if row.round in stock]
        whole = ", ".join(f"{theirs.seconds / row.seconds:.2f}" for theirs, row in pairs)
        epoch = ", ".join(f"{theirs.epoch_seconds / row.epoch_seconds:.2f}" for theirs, row in pairs)
        yield (
            f"| {name} | {len(own)} | {len(own[0].epochs)} | {sum(own[0].epochs)} | {sum(own[0].images)} "
            f"| {statistics.median(row.seconds for row in own):.1f} | {whole} "
            f"| {statistics.median(row.epoch_seconds for row in own):.1f} | {epoch} |"
        )


def machine_name() -> str:
    """The processor, how many cores this process may use, and versions."""
    from ssl_core.system.environment import fingerprint

    words = fingerprint("cpu")
    versions = ", ".join(f"{name} {value}" for name, value in words.items() if name != "processor")
    return f"{len(os.sched_getaffinity(0))} cores, {words['processor']}; {versions}"


def measure(work: Work, rounds: int, contenders: Sequence[str]) -> list[Row]:
    """All contenders in every round, one after the other; each round begins with another one."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="ssl-tune-stock-") as place:
        study = Study(work, Path(place))
        for number in range(rounds):
            first = number % len(contenders)
            for name in [*contenders[first:], *contenders[:first]]:
                rows.append(study.run(name, number))
                said = f"{rows[-1].seconds:.1f} s, an epoch {rows[-1].epoch_seconds:.1f} s"
                print(f"round {number}: {name}: {said}", file=sys.stderr, flush=True)
    check_equal_work(rows, work)
    return sorted(rows, key=lambda row: (list(CONTENDERS).index(row.contender), row.round))


def main(arguments: Sequence[str] | None = None) -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("dataset", help="folder:PATH with train/<class> and test/<class>")
    defaults = Work(dataset="")
    for name in ("labels", "trials", "epochs", "warmup", "steps", "mu", "concurrent", "workers"):
        parser.add_argument(f"--{name}", type=int, default=getattr(defaults, name))
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size)
    parser.add_argument("--network", default=defaults.network)
    parser.add_argument("--image-size", type=int, help="pixels of a side, where they are not the images' own")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=contenders_here())
    parser.add_argument("--json", action="store_true")
    options = vars(parser.parse_args(arguments))
    as_json, rounds, contenders = (options.pop(name) for name in ("json", "rounds", "contenders"))
    if options["dataset"].startswith("folder:"):  # the programs run elsewhere
        options["dataset"] = f"folder:{Path(options['dataset'].removeprefix('folder:')).resolve()}"
    work, machine = Work(**options), machine_name()
    rows = measure(work, rounds, contenders)
    if as_json:
        document = {"machine": machine, "work": asdict(work), "rows": [asdict(row) for row in rows]}
        print(json.dumps(document, indent=1))
        return
    print("\n".join(table(rows, machine)))


if __name__ == "__main__":
    main()
