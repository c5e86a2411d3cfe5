"""Memory of trials side by side on one machine: they share one copy of the decoded data set.

    python -m benchmarks.memory --trials 4

Each trial is a process of its own that opens the cache of decoded images, makes its run and trains a step, by the calls
that a study's worker makes (`tune.worker.trainable`). While all of them are alive, each reads its memory from the
system: the resident size counts a page once for every process that has it, the proportional set size divides it among
them. The data set is a folder made for this purpose; its 1000 images are decoded to the size of CIFAR-10's 50,000:
147 MiB.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES, PER_CLASS, SIDE = 10, 100, 224
PATIENCE = 1200  # seconds that the slowest trial may take, on a machine with other work


@dataclass(frozen=True)
class Usage:
    """Memory of a process, in MiB: all of it, and that of the decoded images' file."""

    resident: float
    proportional: float
    images_resident: float
    images_proportional: float


def usage(cache: Path) -> Usage:
    """Of this process. Linux only."""
    whole = _fields(Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    images = {"Rss": 0.0, "Pss": 0.0}
    mapped = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.split(maxsplit=1)[0].endswith(":"):
            if mapped and line.startswith(("Rss:", "Pss:")):
                images[line[:3]] += _fields([line])[line[:3]]
        else:  # where a mapping begins: its addresses, and the file that is mapped
            mapped = str(cache) in line
    return Usage(whole["Rss"], whole["Pss"], images["Rss"], images["Pss"])


def _fields(lines: Sequence[str]) -> dict[str, float]:
    """`Name: 123 kB` as MiB by name."""
    pairs = (line.split(":") for line in lines)
    return {name: int(rest.split()[0]) / 1024 for name, rest in pairs if rest.strip().endswith("kB")}


def make_folder(place: Path, per_class: int = PER_CLASS) -> None:
    """An image folder of small pictures, cheap to make; they are enlarged when decoded."""
    random = np.random.default_rng(0)
    for part, count in (("train", per_class), ("test", 1)):
        for name in "abcdefghij"[:CLASSES]:
            folder = place / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")


def config_of(folder: Path, seed: int, side: int) -> dict[str, Any]:
    """The configuration of a trial: a small one, so that the images are most of what it holds."""
    return {
        "method": "fixmatch",
        "dataset": f"folder:{folder}",
        "labels": 2 * CLASSES,
        "network": "wrn-10-1",
        "epochs": 2,
        "steps_per_epoch": 1,
        "batch_size": 2,
        "mu": 1,
        "threads": 1,
        "device": "cpu",
        "seed": seed,
        "data": {"image_size": side, "valid": CLASSES},
    }


def _trial(config: dict[str, Any], cache: Path, together: Barrier, results: Any) -> None:
    """A trial's process; it ends when all have looked."""
    from ssl_core.config import from_document
    from ssl_core.training.loop import take_steps
    from ssl_core.training.result import prepare
    from ssl_core.training.run import Run

    run = Run(*prepare(from_document(config), cache=cache))
    take_steps(run, 1)
    together.wait()
    results.put(usage(cache))
    together.wait()


def measure(trials: int, *, side: int = SIDE, per_class: int = PER_CLASS) -> list[Usage]:
    """Memory of each of so many trials while all of them are alive."""
    context = multiprocessing.get_context(
        "spawn"
    )  # like a study's workers, no child shares its parent's memory
    with tempfile.TemporaryDirectory() as place:
        folder, cache = Path(place) / "images", Path(place) / "cache"
        make_folder(folder, per_class)
        together, results = context.Barrier(trials), context.Queue()
        processes = [
            context.Process(
                target=_trial, args=(config_of(folder, seed, side), cache, together, results), daemon=True
            )
            for seed in range(trials)
        ]
        for process in processes:
            process.start()
        found = [results.get(timeout=PATIENCE) for _ in processes]
        for process in processes:
            process.join()
    return found


def table(found: Sequence[Usage]) -> Iterator[str]:
    """The table, in Markdown."""
    yield "| trial | resident | proportional | of which images, resident | images, proportional |"
    yield "|---|---|---|---|---|"
    for number, each in enumerate(found, start=1):
        yield f"| {number} | {' | '.join(f'{value:.0f}' for value in asdict(each).values())} |"
    sums = [sum(values) for values in zip(*(asdict(each).values() for each in found), strict=True)]
    yield f"| together | {' | '.join(f'{value:.0f}' for value in sums)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=4, help="side by side")
    parser.add_argument("--json", action="store_true", help="print plain data instead of the table")
    options = parser.parse_args(arguments)
    found = measure(options.trials)
    if options.json:
        print(json.dumps([asdict(each) for each in found], indent=1))
    else:
        print(
            f"MiB; {options.trials} trials, images of {CLASSES * PER_CLASS * SIDE**2 * 3 / 2**20:.0f} MiB\n"
        )
        print("\n".join(table(found)))


if __name__ == "__main__":
    main()
