"""What training costs on this machine, measured on a few real steps of the method."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ssl_core.methods.base import Progress, Relabel
from ssl_core.training.run import Run
from ssl_core.training.step import finite_guard, train_step

SLOW_STEP_SECONDS = 1.0


@dataclass(frozen=True)
class Price:
    """Seconds of an epoch.

    Attributes:
        warmup_epoch: of the warm-up, on labelled images alone.
        epoch: after it; an upper estimate, because a method may use fewer unlabelled images than mu * B a step.
    """

    warmup_epoch: float
    epoch: float


def measure(run: Run, steps: int = 2) -> Price:
    """Measure the price of a run. Its weights change, so it cannot be used afterwards.

    Args:
        run: not begun yet.
        steps: how many to measure of each kind, after one that warms up; where that one takes more than a second,
            it is the only one.
    """
    config = run.config
    assert config.steps_per_epoch and config.batch_size
    run.network.train()
    warmup = _step_seconds(run, _progress(run, after_warmup=False), steps)
    after = _progress(run, after_warmup=True)
    if run.method.relabels:
        pool = run.unlabelled[~torch.isin(run.unlabelled, run.labelled)]
        confident = torch.eye(run.setup.num_classes)[
            0
        ]  # every pseudo-label is accepted, and predictions cost nothing here

        def predict(indices: torch.Tensor) -> torch.Tensor:
            return confident.expand(len(indices), -1).to(run.device)

        relabel = Relabel(
            pool=pool,
            predict=predict,
            progress=after,
            setup=run.setup,
            steps=config.steps_per_epoch,
            generator=torch.Generator().manual_seed(config.seed),
        )
        run.method_state, _ = run.method.start_epoch(config.parameters, run.method_state, relabel)
    step = _step_seconds(run, after, steps)
    sample = run.valid[: config.eval_batch_size].to(run.device)
    evaluated = _seconds(run, lambda: run.evaluated_by_index(sample)) / len(sample)
    valid, pool_size = len(run.valid), _predicted(run, len(run.unlabelled)) if run.method.relabels else 0
    return Price(
        warmup_epoch=config.steps_per_epoch * warmup + valid * evaluated,
        epoch=config.steps_per_epoch * step + (valid + pool_size) * evaluated,
    )


def _predicted(run: Run, pool: int) -> int:
    """How many images the method predicts before an epoch."""
    return run.method.predicted(run.config.parameters, pool, run.setup, run.config.steps_per_epoch or 1)


def _progress(run: Run, *, after_warmup: bool) -> Progress:
    return Progress(
        step=0, total_steps=run.config.total_steps, step_in_epoch=0, epoch=1, ssl_epoch=int(after_warmup)
    )


def _step_seconds(run: Run, progress: Progress, steps: int) -> float:
    guard = finite_guard(run, progress.epoch)
    first = _seconds(run, lambda: train_step(run, progress, guard))
    if first > SLOW_STEP_SECONDS:
        return first
    return min(_seconds(run, lambda: train_step(run, progress, guard)) for _ in range(steps))


def _seconds(run: Run, action: Callable[[], object]) -> float:
    _wait(run)
    began = time.perf_counter()
    action()
    _wait(run)
    return time.perf_counter() - began


def _wait(run: Run) -> None:
    if run.device.type == "cuda":
        torch.cuda.synchronize(run.device)
