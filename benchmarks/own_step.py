"""This project's training without changes: the loop's own steps, from image indices to the average of the weights."""

from __future__ import annotations

import time

import torch

from benchmarks.setting import Cell, config_of, data_of
from ssl_core.training.loop import take_steps
from ssl_core.training.run import Run


class OwnStep:
    """Trains the cell with `ssl_core`; a contender of `benchmarks.train_step`."""

    def __init__(self, cell: Cell) -> None:
        data, split = data_of(cell)
        self.run = Run(config_of(cell, data), data, split)
        self.epoch = 0

    def slice(self) -> tuple[int, float]:
        """Train an epoch without its evaluation; returns images trained on, each view counted, and seconds."""
        self.epoch += 1
        began = time.perf_counter()
        monitor, images = take_steps(self.run, self.epoch)
        monitor.metrics()  # read from the device, as at every epoch's end: nothing is left to wait for
        return images, time.perf_counter() - began

    def peak_bytes(self) -> int:
        """The most memory that tensors took on the GPU; 0 without one."""
        return torch.cuda.max_memory_allocated() if self.run.device.type == "cuda" else 0
