"""The one training loop: a generator that yields a report after every epoch.

It knows none of its consumers (invariant 7): the command line, Ray Tune and MLflow read its reports. What a step does
is in `ssl_core.training.step`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from ssl_core import losses
from ssl_core.measures import (
    balanced_error,
    count_confusion,
    expected_calibration_error,
    images_and_wrong,
    matrix_of,
    overconfidence,
)
from ssl_core.methods.base import Progress, Relabel, counted_views
from ssl_core.system import memory
from ssl_core.system.errors import NonFiniteError
from ssl_core.training.monitors import EpochMonitor
from ssl_core.training.optim import learning_rate
from ssl_core.training.rng import generator
from ssl_core.training.run import Report, Run
from ssl_core.training.step import checked_state, finite_guard, train_step


def run_epochs(run: Run) -> Iterator[Report]:
    """Train from where the run is to its last epoch, yielding a report after each.

    Raises:
        NonFiniteError: a loss or gradient is not finite; no weight was updated with it.
        MemoryExhaustedError: the device has no memory left; the message says what to lower.
        ConfigError: the method did not return its state.
    """
    views = sum(counted_views(run.method, run.config.parameters).values())
    while run.epoch < run.config.last_epoch:
        with memory.explained(run.config.device, *memory.in_step(run.config, views)):
            report = _epoch(run, run.epoch + 1)
        run.history.append(report)
        yield report


def _epoch(run: Run, epoch: int) -> Report:
    started = time.perf_counter()
    config = run.config
    steps = config.steps_per_epoch or 1
    monitor, images_seen = take_steps(run, epoch)
    run.ema.copy_buffers()
    validation, counts = _validate(run)
    metrics = monitor.metrics() | validation
    seconds = time.perf_counter() - started
    metrics["lr"] = learning_rate(config.lr, epoch * steps - 1, config.total_steps, config.schedule)
    metrics["time/epoch_seconds"] = seconds
    metrics["images_per_second"] = images_seen / seconds
    return Report(
        epoch=epoch,
        ssl_epoch=_ssl_epoch(run, epoch),
        metrics=metrics,
        classes=monitor.classes() | counts,
        time_ms=time.time_ns() // 1_000_000,
    )


def _ssl_epoch(run: Run, epoch: int) -> int | None:
    """The epoch's number after the warm-up, from 1; None during it."""
    warmup = run.config.warmup_epochs or 0 if run.method.has_warmup else 0
    return epoch - warmup if epoch > warmup else None


def take_steps(run: Run, epoch: int) -> tuple[EpochMonitor, int]:
    """The training steps of an epoch, without the evaluation at its end.

    Args:
        run: to train.
        epoch: its number, from 1.

    Returns:
        The epoch's monitor, and how many images the steps trained on, each view counted.

    Raises:
        NonFiniteError: a loss or gradient is not finite.
    """
    config, ssl_epoch = run.config, _ssl_epoch(run, epoch)
    steps = config.steps_per_epoch or 1
    monitor = EpochMonitor(run.labels, run.labelled, run.setup.num_classes)
    guard = finite_guard(run, epoch)
    run.begin_epoch(epoch)
    images_seen = 0
    for step_in_epoch in range(steps):
        progress = Progress(
            step=(epoch - 1) * steps + step_in_epoch,
            total_steps=config.total_steps,
            step_in_epoch=step_in_epoch,
            epoch=epoch,
            ssl_epoch=ssl_epoch or 0,
        )
        if ssl_epoch is not None and step_in_epoch == 0:
            _start_epoch(run, progress, monitor)
        batch, output = train_step(run, progress, guard)
        monitor.add(output, guard.values)
        images_seen += len(batch.labels) + len(batch.indices) * len(batch.views)
    guard.read()
    return monitor, images_seen


def _start_epoch(run: Run, progress: Progress, monitor: EpochMonitor) -> None:
    """Let the method relabel the images without a label (validation images are not among them)."""
    pool = run.unlabelled[~torch.isin(run.unlabelled, run.labelled)]
    relabel = Relabel(
        pool=pool,
        predict=run.predictor(),
        progress=progress,
        setup=run.setup,
        steps=run.config.steps_per_epoch or 1,
        generator=generator(run.config.seed, "noise", progress.step, 1),  # the step's own has no second place
    )
    state, pseudo = run.method.start_epoch(run.config.parameters, run.method_state, relabel)
    run.method_state = checked_state(run.method, run.method_state, state, "start_epoch")
    if pseudo is not None:
        monitor.add_pseudo_labels(pseudo)


def _validate(run: Run) -> tuple[dict[str, float], dict[str, list[int]]]:
    """Errors (percent), loss (nats) and calibration (points) of the EMA model on the validation images, and the counts
    by class.

    The counts are `images` and `wrong` of each class; after the run's last epoch also `confusion`, row by row.
    A refit has no validation images: of it nothing is measured but that its weights are finite.
    """
    if not len(run.valid):
        _check_weights(run)
        return {}, {}
    valid = run.valid.to(run.device)
    logits, labels = run.evaluated_by_index(valid), run.labels[valid]
    confusion = count_confusion(logits, labels)
    loss = losses.cross_entropy(logits, labels).mean()
    if not bool(torch.isfinite(loss)):  # the last update of the epoch may have overflowed
        raise NonFiniteError(
            f"val/loss is not finite after epoch {run.epoch + 1} with {run.config.parameters!r}"
        )
    cells = confusion.tolist()
    images, wrong = images_and_wrong(matrix_of(cells))
    counts = {"images": images, "wrong": wrong}
    if run.epoch + 1 == run.config.last_epoch:
        counts["confusion"] = cells
    metrics = {
        "val/error": 100 * sum(wrong) / len(labels),
        "val/error_balanced": balanced_error(images, wrong),
        "val/loss": float(loss),
        "val/ece": expected_calibration_error(logits, labels),
        "val/overconfidence": overconfidence(logits, labels),
    }
    return metrics, counts


def _check_weights(run: Run) -> None:
    """Refuse weights that the last update of the epoch has made infinite or NaN."""
    finite = torch.stack([torch.isfinite(value).all() for value in run.ema.network.parameters()])
    if not bool(finite.all()):
        raise NonFiniteError(
            f"a weight is not finite after epoch {run.epoch + 1} with {run.config.parameters!r}"
        )
