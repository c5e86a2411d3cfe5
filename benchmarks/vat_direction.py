"""How precise VAT's power iteration is in float32 and in bfloat16, by the length xi of its finite difference.

    python -m benchmarks.vat_direction

The direction of each image is compared with that of the same network and the same noise in float64: the cosine between
both, which is 1 where they are the same and about 0 where one of them is rounding noise. The network is trained for
some epochs on digits first, because an untrained one predicts the same for every image.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch

from ssl_core.methods.vat import adversarial_direction
from ssl_core.networks.base import Network, NetworkOutput
from ssl_core.networks.statistics import batchnorms_of, frozen_statistics
from ssl_core.preparation import prepare
from ssl_core.training.loop import run_epochs
from ssl_core.training.rng import generator
from ssl_core.training.run import Run

LENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
ITERATIONS = (1, 5)
IMAGES = 96


def trained(epochs: int) -> Run:
    """A supervised run on digits, in float32."""
    config = {
        "method": "supervised",
        "dataset": "digits",
        "labels": 100,
        "epochs": epochs,
        "steps_per_epoch": 32,
    }
    run = Run(*prepare({**config, "precision": "float32", "device": "cpu", "threads": 1}))
    for _ in run_epochs(run):
        pass
    return run


def directions(network: Network, images: torch.Tensor, bfloat16: bool, **how: Any) -> torch.Tensor:
    """The directions (n, 3, H, W) that this network gives, in float64 from the same noise for every precision."""

    def forward(batch: torch.Tensor, **_: Any) -> NetworkOutput:
        precision = torch.autocast("cpu", torch.bfloat16) if bfloat16 else nullcontext()
        with frozen_statistics(batchnorms_of(network)), precision:
            output: NetworkOutput = network(batch)
        return output

    noise = torch.randn(images.shape, generator=generator(0, "noise"), dtype=torch.float64).to(images.dtype)
    return adversarial_direction(forward, images, noise, **how).double()


def cosines(run: Run, xi: float, iterations: int) -> dict[str, torch.Tensor]:
    """By precision: the cosine of each image's direction with that in float64, (n,)."""
    network = run.network.train()
    exact = copy.deepcopy(network).double()
    images = run.normalise(run.pixels(run.unlabelled[:IMAGES]))
    how = {"xi": xi, "iterations": iterations}
    expected = directions(exact, images.double(), False, **how)
    found = {name: directions(network, images, name == "bfloat16", **how) for name in ("float32", "bfloat16")}
    return {name: (d * expected).sum(dim=(1, 2, 3)) for name, d in found.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--epochs", type=int, default=10, help="of 32 steps, before the comparison")
    run = trained(parser.parse_args(arguments).epochs)
    print(f"digits, {run.config.network}, |x| of {run.data.image_size} pixels a side, {IMAGES} images\n")
    print("| xi | iterations | float32, mean | lowest | bfloat16, mean | lowest |\n|---|---|---|---|---|---|")
    for xi in LENGTHS:
        for iterations in ITERATIONS:
            found = cosines(run, xi, iterations)
            cells = [f"{value:.3f}" for c in found.values() for value in (float(c.mean()), float(c.min()))]
            print(f"| {xi:g} | {iterations} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
