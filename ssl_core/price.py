"""What training costs on this machine, measured on a few real steps of the method."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ssl_core.methods.base import Progress, Relabel
from ssl_core.training.run import Run
from ssl_core.training.step import finite_guard, train_step

SLOW_STEP_SECONDS = 1.0
MOST_REPEATS = 100


@dataclass(frozen=True)
class Price:
    """Seconds, as measured.

    Attributes:
        warmup_step: of a step of the warm-up, on labelled images alone.
        step: after it; an upper estimate, because a method may use fewer unlabelled images than mu * B a step.
        image: to evaluate an image.
        prediction: to predict an image for its pseudo-label; 0 of a method that does not relabel.
        steps: of an epoch.
        evaluated: images that are evaluated after an epoch of the warm-up.
        relabelled: unlabelled images that are predicted besides before every other epoch.
    """

    warmup_step: float
    step: float
    image: float
    prediction: float
    steps: int
    evaluated: int
    relabelled: int

    @property
    def warmup_epoch(self) -> float:
        """Seconds of an epoch of the warm-up."""
        return self.steps * self.warmup_step + self.evaluated * self.image

    @property
    def epoch(self) -> float:
        """Seconds of an epoch after it."""
        return self.steps * self.step + self.evaluated * self.image + self.relabelled * self.prediction

    def times(self, images: float) -> Price:
        """The price of steps of so many times as many images."""
        return replace(self, warmup_step=images * self.warmup_step, step=images * self.step)


def measure(run: Run, steps: int = 2, seconds: float = 0.0) -> Price:
    """Measure the price of a run. Its weights change, so it cannot be used afterwards.

    Args:
        run: not begun yet.
        steps: how many to measure of each kind at least, after one that warms up; the fastest counts. Where that one
            takes more than a second, it is the only one.
        seconds: go on for as long with each kind: the fastest of many steps repeats itself better than that of two.
    """
    config = run.config
    assert config.steps_per_epoch and config.batch_size
    run.network.train()
    warmup = _step_seconds(run, _progress(run, after_warmup=False), steps, seconds)
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
    step = _step_seconds(run, after, steps, seconds)
    sample = run.valid[: config.eval_batch_size].to(run.device)
    evaluated = _fastest(run, lambda: run.evaluated_by_index(sample), 0, seconds) / len(sample)
    predicted = 0.0
    if run.method.relabels:
        predictor = run.predictor()
        predicted = _fastest(run, lambda: predictor(sample), 0, seconds) / len(sample)
    return Price(
        warmup_step=warmup,
        step=step,
        image=evaluated,
        prediction=predicted,
        steps=config.steps_per_epoch,
        evaluated=len(run.valid),
        relabelled=_predicted(run, len(run.unlabelled)) if run.method.relabels else 0,
    )


def _predicted(run: Run, pool: int) -> int:
    """How many images the method predicts before an epoch."""
    return run.method.predicted(run.config.parameters, pool, run.setup, run.config.steps_per_epoch or 1)


def _progress(run: Run, *, after_warmup: bool) -> Progress:
    return Progress(
        step=0, total_steps=run.config.total_steps, step_in_epoch=0, epoch=1, ssl_epoch=int(after_warmup)
    )


def _step_seconds(run: Run, progress: Progress, steps: int, seconds: float) -> float:
    guard = finite_guard(run, progress.epoch)
    return _fastest(run, lambda: train_step(run, progress, guard), steps, seconds)


def _fastest(run: Run, action: Callable[[], object], times: int, seconds: float) -> float:
    """The seconds of the fastest of some repetitions, after a first one that is not counted unless it is slow."""
    first = _seconds(run, action)
    if first > SLOW_STEP_SECONDS:
        return first
    took: list[float] = []
    while len(took) < times or (sum(took) < seconds and len(took) < MOST_REPEATS):
        took.append(_seconds(run, action))
    return min(took, default=first)


def _seconds(run: Run, action: Callable[[], object]) -> float:
    _wait(run)
    began = time.perf_counter()
    action()
    _wait(run)
    return time.perf_counter() - began


def _wait(run: Run) -> None:
    if run.device.type == "cuda":
        torch.cuda.synchronize(run.device)
