"""Golden traces: the loss of each of 20 steps of every method, in float64, as text.

A trace that a change was meant to move is recorded again, from the root of the repository, with

    python -m tests.golden.record [METHOD]...

(no name: all methods), and the reason belongs in the commit that carries the new file.
"""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import mock

from torch import Tensor

from ssl_core.methods.base import LossOutput
from ssl_core.training.monitors import EpochMonitor
from tests import tiny

STEPS = 20


def path_of(method: str) -> Path:
    """Where a method's trace lies."""
    return Path(__file__).with_name(f"{method}.txt")


def trace(method: str) -> list[float]:
    """Losses of 20 steps: 5 epochs of 4, the first of them warm-up."""
    found: list[float] = []
    take_in = EpochMonitor.add

    def add(self: EpochMonitor, output: LossOutput, *values: Tensor | None) -> None:
        found.append(output.total.item())
        take_in(self, output, *values)

    run = tiny.make_run(method, epochs=5, steps_per_epoch=4, precision="float64", lr=0.1)
    with mock.patch.object(EpochMonitor, "add", add):
        tiny.finish(run)
    assert len(found) == STEPS
    return found


def read(method: str) -> list[float]:
    """A recorded trace."""
    lines = path_of(method).read_text().splitlines()
    return [float(line.split()[1]) for line in lines if not line.startswith("#")]


def write(method: str) -> None:
    """Record a trace."""
    head = f"# step and loss of {method}; written by: python -m tests.golden.record {method}\n"
    lines = [f"{step} {loss:.12e}\n" for step, loss in enumerate(trace(method))]
    path_of(method).write_text(head + "".join(lines))


if __name__ == "__main__":
    for name in sys.argv[1:] or tiny.METHODS:
        write(name)
        print(f"recorded {path_of(name).name}")
