"""What there is to show on a GPU, within ten minutes: training speed, kernels a step, and errors after 4,000 steps.

    make gpu-evidence CIFAR10=folder:PATH                       # on a machine with a GPU; stops itself after 600 s
    python -m benchmarks.gpu_evidence --seconds 300 --cifar10 folder:PATH
    python -m benchmarks.gpu_evidence --table                   # the tables of what is done, measures nothing
    python -m benchmarks.gpu_evidence --tiny                    # a minute on a CPU: tries the program, shows nothing

It needs torch and `ssl_core`: neither Ray nor MLflow nor Optuna. What is done is a line of a file (`--out`), written as
soon as it is known; the next call carries on with the rest, a training from its last epoch. One process does one thing
after the other, and never two at once. Another watches it: it ends it at the given second, whatever it does, and starts
it again where it died; what it was at then counts as failed.

Three kinds of lines:

- `speed`: a method on WRN-28-2 at its defaults, this project's steps beside the bare passes (`own_step`, `bare_model`),
  which take turns; with the kernels that a step launches, or on a CPU the operations at the top.
- `training`: a cell of the report's three tables with 4,000 labels of CIFAR-10, and methods beside them, all with the
  same steps, split and seed. The test set is read once, at the end.
- `failed`: what went wrong, and in which of them. It is not tried again: take the line out of the file for that.

The first part of the time goes to speeds, then come trainings, then what is left of the speeds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_rows import machine, read, tables, write
from ssl_core.system.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "tables" / "gpu" / "runs.jsonl"
NOT_DONE = 3
"""What the process that measures exits with where it lacks something."""
SPEED_SHARE = 0.4
"""Of the time, that speeds may take before the trainings begin."""
SPEEDS = (
    "fixmatch",
    "supervised",
    "pseudo_label",
    "vat",
    "attention_fixmatch",
    "flexmatch",
    "entropy_minimisation",
    "random_perturbation",
)
"""The methods whose bare passes `bare_model` has, the most telling first."""
PSEUDO_LABEL: dict[str, Any] = {"accumulate": False}
VAT: dict[str, Any] = {"xi": 10.0, "eps": 10.0, "iterations": 5, "alpha": 1.0, "use_entmin": False}
ATTENTION: dict[str, Any] = {"align": "none", "maps": 2, "lambda_att": 1.0}
WARMUP_SHARE = {"pseudo_label": 10 / 300, "vat": 35 / 300}
"""The report's parameters, as `tune.paper_tables.paper.SETTINGS` has them (a test compares them)."""


@dataclass(frozen=True)
class Training:
    """One training: its name, its method, the method's parameters."""

    name: str
    method: str
    parameters: dict[str, Any] = field(default_factory=dict)


def _thresholds(method: str, parameters: dict[str, Any]) -> list[Training]:
    cells = (0.95, 0.75, 0.6)
    return [Training(f"{method} {tau:g}", method, {**parameters, "threshold": tau}) for tau in cells]


TRAININGS = (
    Training("supervised", "supervised"),
    Training("fixmatch", "fixmatch"),
    Training("flexmatch", "flexmatch"),
    *_thresholds("pseudo_label", PSEUDO_LABEL),
    *_thresholds("attention_fixmatch", ATTENTION),
    Training("vat", "vat", VAT),  # last: five power iterations a step take longest
)


@dataclass(frozen=True)
class Size:
    """How large everything is.

    Attributes:
        network, batch, mu, rounds: of the speeds; slices of `steps` steps.
        epochs, steps_per_epoch: of a training.
        data: more of its configuration.
        methods, trainings: how many of each there are.
    """

    network: str = "wrn-28-2"
    batch: int = 64
    mu: int = 7
    steps: int = 20
    rounds: int = 5
    epochs: int = 10
    steps_per_epoch: int = 400
    data: dict[str, Any] = field(default_factory=lambda: {"labels": 4000})
    methods: int = len(SPEEDS)
    trainings: int = len(TRAININGS)


FULL = Size()
TINY = Size(
    network="wrn-10-1",
    batch=4,
    mu=2,
    steps=1,
    rounds=2,
    epochs=2,
    steps_per_epoch=2,
    data={"labels": 50, "threads": 1, "data": {"image_size": 8}},
    methods=4,
    trainings=4,
)


@dataclass(frozen=True)
class Job:
    """One line of the file: what it is called there, and what makes it."""

    part: str
    name: str
    make: Callable[[], dict[str, Any]]


def training_document(training: Training, size: Size, dataset: str) -> dict[str, Any]:
    """The configuration of a training, as `ssl_core.train` takes it."""
    document: dict[str, Any] = {
        "method": training.method,
        "dataset": dataset,
        "network": size.network,
        "epochs": size.epochs,
        "steps_per_epoch": size.steps_per_epoch,
        "batch_size": size.batch,
        "mu": size.mu,
        "warmup_epochs": round(WARMUP_SHARE.get(training.method, 0) * size.epochs),
        **size.data,
    }
    return document | ({training.method: training.parameters} if training.parameters else {})


def train(training: Training, size: Size, dataset: str, folder: Path) -> dict[str, Any]:
    """Train, from the last epoch where it had begun, and read the test set once."""
    import ssl_core

    result = ssl_core.train(
        training_document(training, size, dataset),
        out=folder / training.name.replace(" ", "-"),
        cache=folder / "cache",
        resume=True,
        final=True,
    )
    return {
        "steps": size.epochs * size.steps_per_epoch,
        "test_error": result.test_error,
        "val_error": result.val_error,
        "seconds": result.seconds,
        "split_hash": result.split_hash,
        "seed": result.seed,
    }


def speed(method: str, size: Size) -> dict[str, Any]:
    """Images/s of this project's steps and of the bare passes, slice by slice in turns, and the kernels of a step."""
    import torch

    from benchmarks.bare_model import BareModel
    from benchmarks.own_step import OwnStep
    from benchmarks.setting import cell_of

    threads = torch.get_num_threads()
    cell = cell_of(
        method=method,
        network=size.network,
        batch_size=size.batch,
        mu=size.mu,
        steps=size.steps,
        threads=threads,
        device="auto",
        precision="auto",
        compile="auto",
    )
    contenders = {"ours": OwnStep(cell), "bare": BareModel(cell)}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(-1, size.rounds):  # a first slice is slow, and is not measured
        for name in ("ours", "bare") if number % 2 else ("bare", "ours"):
            images, seconds = contenders[name].slice()  # type: ignore[attr-defined]
            if number >= 0:
                rates[name].append(images / seconds)
    pairs = zip(rates["ours"], rates["bare"], strict=True)
    return {
        "precision": cell.precision,
        "compile": cell.compile,
        "ours": statistics.median(rates["ours"]),
        "bare": statistics.median(rates["bare"]),
        "ratio": statistics.median(ours / bare for ours, bare in pairs),
        "launches": launches(contenders["ours"].slice, size.steps),  # type: ignore[attr-defined]
    }


def launches(action: Callable[[], object], steps: int) -> float:
    """Kernels that a step launches, a graph of them counted once; on a CPU the operations at the top, which do that.

    Args:
        action: takes steps.
        steps: how many.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    on_gpu = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiled:
        action()
    if on_gpu:
        asked = (
            "cudaLaunchKernel",
            "cuLaunchKernel",
            "cudaGraphLaunch",
            "cudaMemcpyAsync",
            "cudaMemsetAsync",
        )
        count = sum(event.count for event in profiled.key_averages() if event.key.startswith(asked))
    else:
        events = profiled.events() or []
        count = sum(event.cpu_parent is None and event.name.startswith("aten::") for event in events)
    return float(count / steps)


def jobs(size: Size, dataset: str | None, folder: Path) -> tuple[list[Job], list[Job]]:
    """Speeds and trainings; without images there are none of the latter."""

    def of_speed(method: str) -> Job:
        return Job("speed", method, lambda: speed(method, size))

    def of_training(training: Training, place: str) -> Job:
        return Job("training", training.name, lambda: train(training, size, place, folder))

    speeds = [of_speed(method) for method in SPEEDS[: size.methods]]
    if dataset is None:
        return speeds, []
    return speeds, [of_training(each, dataset) for each in TRAININGS[: size.trainings]]


def work(size: Size, dataset: str | None, out: Path, until: float, seconds: float) -> None:
    """Do what is left until it is time; in a process of its own, which is ended then.

    Args:
        size: how large everything is.
        dataset: the images to train on; None: no trainings.
        out: the file of lines.
        until: by the system's clock.
        seconds: of the whole call.
    """
    here = machine()
    speeds, trainings = jobs(size, dataset, out.parent / "trainings")
    speeds_until, code = until - (1 - SPEED_SHARE) * seconds, 0
    for job in [*speeds, None, *trainings, None, *speeds]:
        if job is None:
            speeds_until = until
            continue
        done = {(row["part"], row["name"]) for row in read(out) if row["machine"] == here}
        late = time.time() >= (speeds_until if job.part == "speed" else until)
        if late or (job.part, job.name) in done or ("failed", f"{job.part} {job.name}") in done:
            continue
        at = {"part": "failed", "name": f"{job.part} {job.name}", "machine": here}
        (note := out.with_suffix(".at")).write_text(json.dumps(at | {"problem": "the process died"}))
        print(f"{job.part} {job.name}", flush=True)
        try:
            row = {"part": job.part, "name": job.name, "machine": here, **job.make()}
        except ConfigError as error:  # images that are not there, say: it is done once they are
            print(f"not done: {error}", flush=True)
            code = NOT_DONE
            continue
        except Exception:
            row = at | {"problem": traceback.format_exc()}
        write(out, row)
        note.unlink()
    if code:
        sys.exit(code)


def watch(
    size: Size, dataset: str | None, out: Path, seconds: float, worker: Callable[..., None] = work
) -> bool:
    """Have everything done within so many seconds; returns whether nothing is left."""
    until, context = time.time() + seconds, multiprocessing.get_context("spawn")
    note = out.with_suffix(".at")
    out.parent.mkdir(parents=True, exist_ok=True)
    note.unlink(missing_ok=True)  # what was under way when time was up is carried on
    while (left := until - time.time()) > 0:
        process = context.Process(target=worker, args=(size, dataset, out, until, seconds))
        process.start()
        process.join(left)
        if process.exitcode is None:
            process.kill()
            process.join()
            return False
        if process.exitcode in (0, NOT_DONE):
            return process.exitcode == 0 and time.time() < until
        if not note.exists():
            raise SystemExit("the process that measures ended before it began; its message is above")
        write(out, json.loads(note.read_text()))
        note.unlink()
    return False


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=600.0, help="stop after so many")
    parser.add_argument(
        "--cifar10", help="the images: cifar10 (downloaded), or folder:PATH; without: speeds alone"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="the file of lines, which is carried on")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes and the digits: tries the program")
    parser.add_argument("--table", action="store_true", help="print the tables of what is done")
    options = parser.parse_args(arguments)
    if options.tiny and options.out == OUT:
        parser.error("--tiny needs an --out of its own: what it measures is no evidence")
    if not options.table:
        size, dataset = (TINY, "digits") if options.tiny else (FULL, options.cifar10)
        if dataset is None:
            print("without --cifar10 nothing is trained: speeds alone")
        done = watch(size, dataset, options.out, options.seconds)
        print("nothing is left to do" if done else "something is left: the same command carries on")
    print("\n".join(tables(read(options.out))))


if __name__ == "__main__":
    main()
