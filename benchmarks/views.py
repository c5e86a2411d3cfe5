"""Views alone, images/s on one core: batched tensor operations against PIL and torchvision, an image at a time.

    python -m benchmarks.views

A FixMatch step of 960 images needs weak views of 64 labelled and 448 unlabelled images and strong views of the same
448, all of them normalised for the network. The plain pipeline is that of `plain_recipe`, without workers, so that both
have one core. It runs in two forms: as it is written (each drawn operation is skipped half of the time), and applying
every operation, as this project does. They take turns. Time is processor time, which other work on the machine hardly
affects. Rates are medians over the rounds, ratios are medians of the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch.utils.data import default_collate

from benchmarks.plain_views import PlainViews
from benchmarks.setting import cell_of, config_of, data_of
from ssl_core.data.datasets import Dataset
from ssl_core.training.run import Run
from ssl_core.training.step import unlabelled_views

BATCH, MU = 64, 7
WAYS = ("ours", "PIL, every operation applied", "PIL, each skipped half of the time")


def measure(rounds: int, batch: int = BATCH, mu: int = MU, side: int = 32) -> dict[str, list[float]]:
    """Images/s of each way, one a round."""
    cell = cell_of(
        method="fixmatch",
        network="wrn-10-1",
        batch_size=batch,
        mu=mu,
        steps=2,
        threads=1,
        side=side,
        device="cpu",
        precision="float32",
    )
    data, split = data_of(cell)
    run = Run(config_of(cell, data), data, split)  # sets one thread
    every, half = (PlainViews(side, data.mean, data.std, probability) for probability in (1.0, 0.5))
    ways: tuple[Callable[[int], Any], ...] = (
        lambda step: batched(run, step),
        lambda _: plain(data, every, batch, mu),
        lambda _: plain(data, half, batch, mu),
    )
    images = batch * (1 + 2 * mu)
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(rounds + 1):  # the first round is not counted: it is slow
        for name, way in zip(WAYS, ways, strict=True):
            began = time.process_time()
            way(number)
            if number:
                rates[name].append(images / (time.process_time() - began))
    return rates


def batched(run: Run, step: int) -> list[torch.Tensor]:
    """The views of a step, as the loop makes them."""
    labelled, unlabelled = run.labelled_rows.at(step).indices, run.unlabelled_rows.at(step).indices
    weak, _ = unlabelled_views(run, run.fetch(labelled), step, {"weak": 1})
    both, _ = unlabelled_views(run, run.fetch(unlabelled), step, {"weak": 1, "strong": 1})
    return [*weak.values(), *both.values()]


def plain(data: Dataset, views: PlainViews, batch: int, mu: int) -> list[torch.Tensor]:
    """The same number of views from PIL, an image at a time, collated to batches."""
    images = [Image.fromarray(data.images[place % len(data.images)]) for place in range(batch * (1 + mu))]
    labelled = default_collate([views.weak(image) for image in images[:batch]])
    return [labelled, *default_collate([views.both(image) for image in images[batch:]])]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=BATCH, help="labelled images")
    parser.add_argument("--side", type=int, default=32, help="of the images, in pixels")
    parser.add_argument("--json", action="store_true", help="print plain data instead of the table")
    options = parser.parse_args(arguments)
    rates = measure(options.rounds, options.batch, side=options.side)
    if options.json:
        print(json.dumps(rates, indent=1))
        return
    print(
        f"weak and strong views of {options.batch * (1 + 2 * MU)} images, one core, median of {options.rounds}\n"
    )
    print("| views | images/s | ours is faster by |\n|---|---|---|")
    for name in WAYS:
        faster = statistics.median(a / b for a, b in zip(rates["ours"], rates[name], strict=True))
        print(
            f"| {name} | {statistics.median(rates[name]):.0f} | {'' if name == 'ours' else f'{faster:.2f}'} |"
        )


if __name__ == "__main__":
    main()
