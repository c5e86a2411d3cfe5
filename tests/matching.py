"""What the tests of FixMatch and its descendants share: outputs handed in, and short runs on digits."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_core.augment.randaugment import Geometry
from ssl_core.config import from_document, resolve
from ssl_core.data.datasets import Dataset, describe, load_train
from ssl_core.methods.base import Batch, LossOutput, Progress, Step
from ssl_core.networks.base import NetworkOutput
from ssl_core.registry import get_method
from ssl_core.training import checkpoint
from ssl_core.training.result import split_of
from ssl_core.training.run import Report, Run
from tests.tiny import assert_same_bits, everything, finish

PROGRESS = Progress(step=0, total_steps=10, step_in_epoch=0, epoch=1, ssl_epoch=1)

# Four images of three classes. The expected values of tests that use them were computed with independent code.
WEAK = [[4, 0, -1], [3, 1, 0], [-2, 5, 0], [0.2, 0.1, 0]]
WEAK2 = [[3, 0.5, -1], [4, 0, 0], [-1, 4, 1], [0, 0.3, 0.1]]
STRONG = [[1, 0.5, -0.5], [0, 1, 0.2], [-1, 2, 0.5], [0.3, 0, -0.2]]


def leaf(values: Any) -> Tensor:
    """A float64 tensor that takes a gradient."""
    return torch.as_tensor(values, dtype=torch.float64).clone().requires_grad_()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def compute(
    method: str,
    config: Any,
    logits: tuple[Tensor, Tensor, Tensor],
    labels: list[int],
    *,
    maps: tuple[Tensor, Tensor, Tensor] | None = None,
    indices: list[int] | None = None,
    state: Any = None,
    geometry: Geometry | None = None,
) -> LossOutput[Any]:
    """A method's loss for a network that gives these outputs of labelled, weak and strong images.

    It is called once, for all images in this order, or the test fails.
    """
    pictures = [torch.full((len(part), 3, 32, 32), float(n)) for n, part in enumerate(logits)]
    calls = []

    def forward(images: Tensor, **options: Any) -> NetworkOutput:
        calls.append(images)
        assert torch.equal(images, torch.cat(pictures)) and not options
        return NetworkOutput(torch.cat(logits), torch.empty(0), None if maps is None else torch.cat(maps))

    batch = Batch(
        labelled=pictures[0],
        labels=torch.tensor(labels),
        indices=torch.arange(len(logits[1])) if indices is None else torch.tensor(indices),
        views={"weak": pictures[1], "strong": pictures[2]},
        geometry=geometry,
    )
    output = get_method(method).compute_loss(config, Step(forward, batch, state, PROGRESS, torch.Generator()))
    assert len(calls) == 1
    return output


@functools.cache
def digits() -> Dataset:
    return load_train("digits")


def digits_run(method: str, **fields: Any) -> Run:
    """3 epochs of 2 steps with 4 labelled and 4 unlabelled images each, no warm-up."""
    document = {
        "method": method,
        "labels": 20,
        "epochs": 3,
        "steps_per_epoch": 2,
        "batch_size": 4,
        "mu": 1,
        "precision": "float32",
        "device": "cpu",
        "threads": 1,
        **fields,
    }
    config = resolve(from_document(document), describe("digits"))
    return Run(config, digits(), split_of(config, digits()))


def check_resumption(folder: Path, method: str, **fields: Any) -> list[Report]:
    """A run stopped after any epoch and resumed ends with the bits of the uninterrupted one."""
    whole, reports = digits_run(method, **fields), []
    for epoch in range(1, 4):
        reports += finish(whole, until=epoch)
        checkpoint.save(folder, epoch, whole.state(), keep=9)
    for stop in (1, 2):
        resumed = digits_run(method, **fields)
        resumed.load_state(checkpoint.read(checkpoint.path_of(folder, stop)))
        finish(resumed)
        assert_same_bits(everything(resumed), everything(whole))
    return reports
