"""The limit: only the passes that a method itself requires, on tensors that are in memory already.

Forward, backward and update of this project's network, channels-last, in the run's own precision, compiled where a run
is compiled. There are no indices, views, monitors, guards or averages, and the images are the same in every step. Freed
memory is kept, as in a run (`ssl_core.system.memory`). Without that the limit would be lower, and this project's
share of it would look better than it is.

U: unlabelled images of a step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.setting import CLASSES, Cell, config_of, data_of
from ssl_core.methods.base import counted_views
from ssl_core.networks.registry import build_network
from ssl_core.registry import method_of
from ssl_core.system.memory import keep_freed_memory
from ssl_core.training import compile as compiled
from ssl_core.training.optim import build_optimizer

_DTYPES = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}


class BareModel:
    """The passes of the cell's method alone; a contender of `benchmarks.train_step`."""

    def __init__(self, cell: Cell) -> None:
        keep_freed_memory()
        torch.set_num_threads(cell.threads)
        config = config_of(cell, data_of(cell)[0])
        self.cell, self.method, self.parameters = cell, method_of(config), config.parameters
        self.dtype = _DTYPES[cell.precision]
        head = partial(self.method.head, config.parameters)
        network = build_network(cell.network, CLASSES, bn_momentum=0.1, seed=0, head=head)
        self.network = network.to(device=cell.device, dtype=self.dtype)
        self.passes = compiled.network(self.network) if cell.compile is True else self.network
        self.optimizer = build_optimizer(self.network, lr=0.03, momentum=0.9, weight_decay=5e-4)
        views = sum(counted_views(self.method, config.parameters).values())
        self.labelled = self._images(cell.batch_size)
        self.unlabelled = self._images(cell.unlabelled if views else 0)
        self.noise = self._images(len(self.unlabelled))
        self.together = self._images(cell.batch_size + cell.unlabelled * views)
        self.pool = self._images(min(cell.pool, config.eval_batch_size) if self.method.relabels else 0)
        self.loss: Callable[[], Tensor] = self._joint
        if getattr(self.parameters, "weak_forward", "joint") == "separate":
            self.loss = self._separate
        elif self.method.name in ("vat", "random_perturbation"):
            self.loss = self._vat
        elif self.method.name == "entropy_minimisation":
            self.loss = self._entropy

    def slice(self) -> tuple[int, float]:
        """Train for `cell.steps`; returns images trained on, each view counted, and seconds."""
        began = time.perf_counter()
        if self.method.relabels:
            self._relabel()
        for _ in range(self.cell.steps):
            compiled.begin_step()
            self.optimizer.zero_grad(set_to_none=True)
            self.loss().backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        if self.cell.device == "cuda":
            torch.cuda.synchronize()
        return self.cell.steps * len(self.together), time.perf_counter() - began

    def flops(self) -> int:
        """Multiplications and additions of a slice, by torch's own count (convolutions and matrix products)."""
        counter, passes = FlopCounterMode(display=False), self.passes
        self.passes = self.network  # the same operations, where they can be counted
        with counter:
            self.slice()
        self.passes = passes
        return int(counter.get_total_flops())

    def _relabel(self) -> None:
        self.network.eval()
        with torch.no_grad():
            done = 0
            while done < self.cell.pool:
                part = self.pool[: self.cell.pool - done]
                with self._autocast():
                    self.network(part).logits.argmax(dim=1)
                done += len(part)
        self.network.train()

    def _joint(self) -> Tensor:
        """All images of the step in one pass: supervised, pseudo_label, and the FixMatch family's default."""
        with self._autocast():
            output = self.passes(self.together)
        loss = _cross_entropy(output.logits)
        return loss if output.head is None else loss + output.head.float().square().mean()

    def _separate(self) -> Tensor:
        """Labelled, strong and weak images in a pass each, the weak ones without gradient."""
        labelled, weak, strong = self.together.split(
            [self.cell.batch_size, self.cell.unlabelled, self.cell.unlabelled]
        )
        loss = torch.zeros((), device=self.cell.device)
        for images in (labelled, strong):
            with self._autocast():
                output = self.passes(images)
            loss = loss + _cross_entropy(output.logits)
            if output.head is not None:
                loss = loss + output.head.float().square().mean()
        with torch.no_grad():
            self._logits(weak)
        return loss

    def _vat(self) -> Tensor:
        iterations = getattr(self.parameters, "iterations", 0)
        loss = _cross_entropy(self._logits(self.labelled))
        with torch.no_grad():
            clean = self._logits(self.unlabelled)
            exact = clean
            if iterations and self.cell.precision == "bfloat16":
                exact = self.network(self.unlabelled).logits
        d = self.noise
        for _ in range(iterations):
            moved = self.unlabelled + d.requires_grad_()  # torch's count of operations wants no leaf here
            (d,) = torch.autograd.grad(_divergence(exact, self.network(moved).logits), moved)
        return loss + _divergence(clean, self._logits(self.unlabelled + d))

    def _entropy(self) -> Tensor:
        log_p = functional.log_softmax(self._logits(self.unlabelled).float(), dim=1)
        return _cross_entropy(self._logits(self.labelled)) - (log_p.exp() * log_p).sum(dim=1).mean()

    def _logits(self, images: Tensor) -> Tensor:
        with self._autocast():
            logits: Tensor = self.passes(images).logits
        return logits

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.cell.precision != "bfloat16":
            return nullcontext()
        return torch.autocast(self.cell.device, torch.bfloat16)

    def _images(self, count: int) -> Tensor:
        side = self.cell.side
        images = torch.randn((count, 3, side, side), dtype=self.dtype, device=self.cell.device)
        return images.contiguous(memory_format=torch.channels_last)


def _cross_entropy(logits: Tensor) -> Tensor:
    classes = torch.arange(len(logits), device=logits.device) % CLASSES
    return functional.cross_entropy(logits.float(), classes)


def _divergence(target: Tensor, logits: Tensor) -> Tensor:
    log_p = functional.log_softmax(target.detach().float(), dim=1)
    log_q = functional.log_softmax(logits.float(), dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1).mean()
