"""What a reproduced table would cost, estimated from training steps measured on this machine.

The measured steps are complete: augmentation, forward and backward passes, VAT's iterations, evaluation. Their
images are noise of the data set's size, so that nothing has to be downloaded for an estimate.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ssl_core.config import RunConfig
from ssl_core.data.datasets import Dataset, Split
from ssl_core.registry import method_of
from tune.paper_tables.entries import Entry, info_of
from tune.paper_tables.order import Order, declared_of_report

TEST_IMAGES = 10_000
WARM_STEPS, STEPS = 1, 3
"""Steps of the first epoch, which is not measured (imports, allocations), and of the second, which is."""
FEWER, LARGE = 4, 32
"""Of a batch of so many labelled images, or more, a quarter is measured: a step's time goes with its images."""


def cost(order: Order, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """What `reproduce --dry-run` prints: the steps and hours of every row, and the sum of the hours.

    The cost of searches is not included; `ssl-tune plan` estimates it.

    Raises:
        ConfigError: as `reproduce` would.
    """
    from ssl_core.system.environment import fingerprint  # loads torch

    declared = declared_of_report(order)
    speeds: dict[object, _Speed] = {}
    rows: list[dict[str, Any]] = []
    entries = declared.all()
    kinds = len({_speed_key(entry) for entry in entries})
    for entry in entries:
        key = _speed_key(entry)
        if key not in speeds:
            say(f"measuring {len(speeds) + 1} of {kinds}: {entry.config.method}, {entry.config.network}")
            speeds[key] = _measure(entry, order)
        seconds = _run_seconds(entry, speeds[key], order)
        rows.append(
            {
                "table": entry.table or "baseline",
                "cell": entry.name,
                "method": entry.config.method,
                "network": entry.config.network,
                "steps": entry.config.total_steps,
                "seeds": order.seeds,
                "seconds_per_step": speeds[key].step,
                "hours": seconds * order.seeds / 3600,
            }
        )
    device = declared.entries[0].config.device
    total = sum(row["hours"] for row in rows)
    what = "GPU-hours" if device == "cuda" else "hours on one processor"
    processor = fingerprint(device)["processor"]
    sentences = [
        f"{total:,.1f} {what} in all, from {STEPS} real steps of each method measured on {processor} (of "
        "large batches with a quarter of their images); an upper estimate: it assumes that every unlabelled image is "
        "used."
    ]
    if device != "cuda":
        sentences.append(
            "There is no GPU here. Run this on a machine that has one to know its GPU-hours, or reduce the "
            "budget with --network, --epochs, --seeds, --cell and --set."
        )
    if order.warmup_cache != 0:
        sentences.append("Warm-ups that runs of one seed share are trained once: that is not taken off.")
    if order.search is not None:
        sentences.append("The searches of --search are not included: `ssl-tune plan` says what one costs.")
    return {"device": device, "processor": processor, "hours": total, "rows": rows, "sentences": sentences}


class _Speed:
    """Seconds for a training step, and for the evaluation of one image."""

    def __init__(self, step: float, image: float) -> None:
        self.step, self.image = step, image


def _speed_key(entry: Entry) -> object:
    config = entry.config
    parameters = {k: v for k, v in config.parameters.model_dump().items() if k != "threshold"}
    return config.method, config.network, config.batch_size, config.mu, str(parameters), entry.dataset


def _run_seconds(entry: Entry, speed: _Speed, order: Order) -> float:
    """Seconds of a run: its steps, validation after every epoch, new pseudo-labels if the method makes them
    every epoch, and the test."""
    config = entry.config
    assert config.epochs and config.data.valid and config.labels
    evaluated = config.epochs * config.data.valid + TEST_IMAGES
    if method_of(config).relabels:
        pool = sum(info_of(entry, order.budget).train_per_class) - config.data.valid - config.labels
        evaluated += (config.epochs - (config.warmup_epochs or 0)) * pool
    return config.total_steps * speed.step + evaluated * speed.image


def _measure(entry: Entry, order: Order) -> _Speed:
    """Train a few steps of an entry on noise, and time a step and the evaluation of an image."""
    import torch  # loads for seconds

    from ssl_core.training.loop import run_epochs
    from ssl_core.training.run import Run

    info = info_of(entry, order.budget)
    data, split = _noise(info.num_classes, info.image_size or 32, info.flip, entry.config)
    config = _short(entry.config)
    run = Run(config, data, split)
    reports = list(run_epochs(run))
    validated = len(split.valid)
    began = time.perf_counter()
    pixels = torch.arange(min(500, len(data.labels)))
    run.evaluated_by_index(pixels)
    image = (time.perf_counter() - began) / len(pixels)
    seconds = reports[-1].metrics["time/epoch_seconds"] - validated * image
    if run.method.relabels:
        seconds -= len(split.unlabelled) * image
    assert entry.config.batch_size and config.batch_size
    return _Speed(max(seconds, 0.0) / STEPS * entry.config.batch_size / config.batch_size, image)


def _short(config: RunConfig) -> RunConfig:
    """A run of two epochs of a few steps. The second is measured; the method's own loss is active in it."""
    parameters = config.parameters
    if "threshold" in type(parameters).model_fields:  # every image is used, which makes a step most expensive
        parameters = parameters.model_copy(update={"threshold": 1e-9})
    assert config.batch_size
    update = {
        "batch_size": config.batch_size // FEWER if config.batch_size >= LARGE else config.batch_size,
        "epochs": 2,
        "steps_per_epoch": STEPS,
        "warmup_epochs": 1 if config.warmup_epochs else 0,
        "parameters": parameters,
    }
    return config.model_copy(update=update)


def _noise(classes: int, side: int, flip: bool, config: RunConfig) -> tuple[Any, Any]:
    """As many images of noise as a step takes, and a few for validation."""
    assert config.batch_size and config.mu
    valid = 10 * classes
    count = valid + max(config.batch_size * (config.mu + 1), classes)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    labels = (np.arange(count) % classes).astype(np.int64)
    names = tuple(str(c) for c in range(classes))
    data = Dataset("noise", images, labels, names, "", (0.5,) * 3, (0.29,) * 3, flip)
    rest = np.arange(valid, count, dtype=np.int64)
    labelled = rest[: max(config.batch_size, classes)]
    return data, Split(labelled, np.arange(valid, dtype=np.int64), rest, "")
