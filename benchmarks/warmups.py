"""Warm-ups that are trained once: the same study with and without them, and with a store that is damaged at random.

    python -m benchmarks.warmups study                                       # 24 trials of VAT on digits, 30 epochs
    python -m benchmarks.warmups study --method pseudo_label --trials 64
    python -m benchmarks.warmups table --cell cifar10@4000,tau=0.95 --cell cifar10@4000,tau=0.75 --cell \
cifar10@4000,tau=0.6 --data cifar10=folder:PATH --network wrn-10-1 --epochs 12

`study` compares trials, parameters, values, bits and stops, prints the epochs that were saved beside those that should
be (for each key the sum of the warm-ups less the longest), and the wall times beside that of `off` less the seconds of
those epochs. One trial runs at a time, so that all of it is decided. `table` compares the test errors of one column of
a reproduced table. Anything that differs ends the program with status 1. Nothing else may run on the machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_core.system import environment
from ssl_core.training.warmups.names import SAVED, SECONDS

if TYPE_CHECKING:
    from tune.findings.study import Study

NAME = "warmups"
TIMES = (SECONDS, SAVED, "images_per_second")


@dataclass(frozen=True)
class Made:
    """A study, and what it took.

    Attributes:
        trials: by number: parameters, state, end, values by epoch, and a digest of the last checkpoint, which has
            weights, average, momenta, the method's state and all reports in it.
        warmups: by number: what the warm-up depends on, and how many epochs of it can be taken over.
        shared: by number: epochs that were taken over.
        epoch_seconds: by number: seconds of each epoch.
        wall: seconds of the whole study.
    """

    trials: dict[str, dict[str, Any]]
    warmups: dict[str, tuple[str, int]]
    shared: dict[str, int]
    epoch_seconds: dict[str, list[float]]
    wall: float


def make(home: Path, options: dict[str, Any]) -> Made:
    """Search once, in a home that may have stored warm-ups already."""
    import tune

    began = time.monotonic()
    study = tune.search(home=home, quiet=True, **options)
    wall = time.monotonic() - began
    print(f"{home.name}: {wall:.1f} s", file=sys.stderr, flush=True)
    return _look(study, wall)


def _look(study: Study, wall: float) -> Made:
    from tune.launch.pricing.shared_warmups import warmup_of
    from tune.store.event_log import EventLog

    records, base = study.records(), study.spec.base_config()
    trials, seconds, shared, warmups = {}, {}, {}, {}
    with EventLog(study.folder.events_db, read_only=True) as log:
        for record in records:
            reports = log.reports(f"{study.name}/{record.trial}")
            seconds[record.trial] = [report.metrics[SECONDS] for report in reports]
            shared[record.trial], warmups[record.trial] = record.shared, warmup_of(base, record.params)
            values = [{k: v for k, v in r.metrics.items() if k not in TIMES} | r.classes for r in reports]
            trials[record.trial] = {
                "parameters": record.params,
                "state": record.state,
                "end": [record.stop_reason, record.epoch, record.ssl_epoch],
                "values": values,
                "optuna": dict(record.intermediate),
                "bits": _bits(study.folder.trials / record.trial),
            }
    return Made(trials, warmups, shared, seconds, wall)


def _bits(folder: Path) -> str | None:
    """A digest of a trial's newest checkpoint without its times; None of a trial that keeps none."""
    import torch

    from ssl_core.training import checkpoint

    if not folder.is_dir() or (state := checkpoint.load_newest(folder)) is None:
        return None
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, dict):
            for name, part in value.items():
                if name not in (*TIMES, "time_ms"):
                    digest.update(str(name).encode())
                    add(part)
        elif isinstance(value, list | tuple):
            for part in value:
                add(part)
        else:
            digest.update(repr(value).encode())

    add(state)
    return digest.hexdigest()


def expected_saving(made: Made) -> int:
    """For each key the sum of the warm-ups less the longest, where nothing was stored before."""
    lengths = defaultdict(list)
    for part, length in made.warmups.values():
        lengths[part].append(length)
    return sum(sum(each) - max(each) for each in lengths.values())


def damage(folder: Path, seed: int) -> int:
    """Harm two thirds of the stored warm-ups in one way or another; how many were harmed."""
    chance, harmed = random.Random(seed), 0
    for path in sorted(folder.rglob("*.ckpt")):
        if chance.random() < 1 / 3:
            continue
        data, harmed = bytearray(path.read_bytes()), harmed + 1
        way = chance.choice(["cut", "flip", "gone"])
        if way == "gone":
            path.unlink()
            continue
        if way == "cut":
            data = data[: chance.randrange(len(data))]
        else:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
    return harmed


def compare(place: Path, options: dict[str, Any]) -> dict[str, Any]:
    """The same study without a store, with one, and with one that was damaged at random.

    Args:
        place: a folder for the homes.
        options: of `tune.search`.
    """
    options = {"name": NAME, "concurrent": 1, **options}
    off = make(place / "off", options | {"warmup_cache": 0})
    on = make(place / "on", options)
    stored = place / "on" / "cache" / "warmups"
    shutil.copytree(stored, place / "damaged" / "cache" / "warmups")
    harmed = damage(place / "damaged" / "cache" / "warmups", seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        harmed_made = make(place / "damaged", options)
    saved = sum(sum(off.epoch_seconds[t][: on.shared[t]]) for t in off.trials)
    return {
        "options": {name: str(value) for name, value in options.items()},
        "trials": len(off.trials),
        "with_bits": sum(trial["bits"] is not None for trial in off.trials.values()),
        "same": differing(off, on) == [],
        "same_damaged": differing(off, harmed_made) == [],
        "differing": differing(off, on) + differing(off, harmed_made),
        "epochs": sum(len(each) for each in off.epoch_seconds.values()),
        "saved": sum(on.shared.values()),
        "expected": expected_saving(off),
        "entries": sum(1 for _ in stored.rglob("*.ckpt")),
        "bytes": sum(path.stat().st_size for path in stored.rglob("*.ckpt")),
        "damaged": harmed,
        "seconds": {
            "off": off.wall,
            "on": on.wall,
            "of the epochs saved": saved,
            "damaged": harmed_made.wall,
        },
        "wall_ratio": on.wall / (off.wall - saved),
    }


def differing(one: Made, other: Made) -> list[str]:
    """What is not the same in two studies: trial and part."""
    names = sorted(one.trials.keys() | other.trials.keys(), key=int)
    return [
        f"trial {name}: {part}"
        for name in names
        for part in ("parameters", "state", "end", "values", "optuna", "bits")
        if one.trials.get(name, {}).get(part) != other.trials.get(name, {}).get(part)
    ]


def compare_tables(place: Path, options: argparse.Namespace) -> dict[str, Any]:
    """A column of a reproduced table without a store and with one: test errors, seconds and epochs saved."""
    import tune

    order: dict[str, Any] = {
        "cells": options.cell,
        "data": options.data,
        "seeds": options.seeds,
        "concurrent": 1,
    }
    order |= {"network": options.network, "epochs": options.epochs, "settings": options.set}
    found, walls = [], []
    for name, size in (("off", 0), ("on", None)):
        began = time.monotonic()
        tune.reproduce("table1", home=place / name, warmup_cache=size, **order)
        walls.append(time.monotonic() - began)
        found.append(_results(place / name / "reproduce"))
    off, on = found
    taken = [run["shared"] for run in on.values()]
    return {
        "options": {name: str(value) for name, value in order.items()},
        "runs": len(off),
        "same": {k: v["result"] for k, v in off.items()} == {k: v["result"] for k, v in on.items()},
        "saved": sum(taken),
        "seconds": {"off": walls[0], "on": walls[1]},
    }


def _results(folder: Path) -> dict[str, dict[str, Any]]:
    """Of each run: its result without times, and how many epochs it took over."""
    from ssl_core.training import checkpoint

    found = {}
    for path in sorted(folder.rglob("result.json")):
        result = json.loads(path.read_text())
        for name in ("seconds", "images_per_second"):
            del result[name]
        state = checkpoint.load_newest(path.parent / "checkpoints") or {"history": []}
        shared = sum(SAVED in report["metrics"] for report in state["history"])
        found[str(path.parent.relative_to(folder))] = {
            "result": result | {"bits": _bits(path.parent / "checkpoints")},
            "shared": shared,
        }
    return found


def _print(row: dict[str, Any]) -> None:
    """The figures as sentences."""
    print(json.dumps({**row, "machine": environment.fingerprint("cpu")}, indent=1))
    words = [f"{name} {seconds:.1f} s" for name, seconds in row["seconds"].items()]
    print(f"the same: {row['same']}; epochs saved: {row['saved']}; {', '.join(words)}")
    if "expected" in row:
        print(f"of {row['epochs']} epochs {row['expected']} were to be saved")
        print(f"wall time over that of `off` less the seconds of the epochs saved: {row['wall_ratio']:.3f}")
        print(f"{row['damaged']} of {row['entries']} entries damaged: the same: {row['same_damaged']}")


def options_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    study = kinds.add_parser("study")
    study.add_argument("--method", default="vat")
    study.add_argument("--dataset", default="digits")
    study.add_argument("--trials", type=int, default=24)
    study.add_argument("--epochs", type=int, default=30)
    study.add_argument("--steps", type=int, help="of an epoch; without: as many as a study takes")
    table = kinds.add_parser("table")
    table.add_argument("--cell", action="append", default=[])
    table.add_argument("--data", action="append", default=[])
    table.add_argument("--set", action="append", default=[])
    table.add_argument("--network")
    table.add_argument("--epochs", type=int)
    table.add_argument("--seeds", type=int, default=1)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Run what is asked for; returns the exit status."""
    options = options_of(words)
    with tempfile.TemporaryDirectory(prefix="ssl-tune-warmups-") as place:
        if options.kind == "table":
            row = compare_tables(Path(place), options)
        else:
            from tune.cluster import local_ray
            from tune.worker.task import PRELOAD

            asked = {name: getattr(options, name) for name in ("method", "dataset", "trials", "epochs")}
            if options.steps is not None:
                asked["settings"] = {"steps_per_epoch": options.steps}
            cores = len(os.sched_getaffinity(0))  # all are the one trial's
            with local_ray.running(cores, PRELOAD, 1):  # the start of Ray is no part of a study's time
                make(Path(place) / "first", asked | {"name": "first", "trials": 1, "concurrent": 1})
                row = compare(Path(place), asked)
    _print(row)
    good = row["same"] and row.get("same_damaged", True) and row["saved"] == row.get("expected", row["saved"])
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
