"""What a reproduced table would cost, estimated from training steps measured on this machine.

The measured steps are complete: augmentation, forward and backward passes, VAT's iterations, evaluation. Their
images are noise of the data set's size, so that nothing has to be downloaded for an estimate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ssl_core.config import RunConfig
from ssl_core.data.datasets import Dataset, Split
from ssl_core.registry import method_of
from ssl_core.system.measured import Measured
from tune.paper_tables.entries import Entry, info_of
from tune.paper_tables.order import Order, declared_of_report

TEST_IMAGES = 10_000
NOTHING = Measured(None)
IMAGES = 16
"""Images of a measured step at most, two of them with labels: a step's time goes with its images."""
VALID = 32
"""Images whose evaluation is measured."""


def cost(
    order: Order, say: Callable[[str], None] = lambda _: None, kept: Measured = NOTHING
) -> dict[str, Any]:
    """What `reproduce --dry-run` prints: the steps and hours of every row, and the sum of the hours.

    The cost of searches is not included; `ssl-tune plan` estimates it.

    Args:
        order: what is asked for.
        say: told what is being measured.
        kept: what was measured on this machine before.

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
            speeds[key] = _speed(entry, order, kept, say, f"{len(speeds) + 1} of {kinds}")
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
        f"{total:,.1f} {what} in all, from real steps of each method measured on {processor}, with {IMAGES} images at "
        "most and scaled to the whole batch; an upper estimate: it assumes that every unlabelled image is used."
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
    """Seconds for a training step, for the evaluation of one image, and for one's pseudo-label."""

    def __init__(self, step: float, image: float, prediction: float) -> None:
        self.step, self.image, self.prediction = step, image, prediction


def _speed_key(entry: Entry) -> object:
    config = entry.config
    parameters = {k: v for k, v in config.parameters.model_dump().items() if k != "threshold"}
    return config.method, config.network, config.batch_size, config.mu, str(parameters), entry.dataset


def _run_seconds(entry: Entry, speed: _Speed, order: Order) -> float:
    """Seconds of a run: its steps, validation after every epoch, new pseudo-labels if the method makes them
    every epoch, and the test."""
    config = entry.config
    assert config.epochs and config.data.valid and config.labels
    evaluated, predicted = config.epochs * config.data.valid + TEST_IMAGES, 0
    if method_of(config).relabels:
        pool = sum(info_of(entry, order.budget).train_per_class) - config.data.valid - config.labels
        predicted = (config.epochs - (config.warmup_epochs or 0)) * pool
    return config.total_steps * speed.step + evaluated * speed.image + predicted * speed.prediction


def _speed(entry: Entry, order: Order, kept: Measured, say: Callable[[str], None], which: str) -> _Speed:
    """The speed of an entry, measured here or kept from before."""
    from ssl_core.system.environment import fingerprint  # loads torch

    config = _short(entry.config)
    left_out = {"seed", "lr", "weight_decay", "dataset", "labels", "data"}
    info = info_of(entry, order.budget)
    what = {
        "step of": {k: v for k, v in config.document().items() if k not in left_out},
        "images": [info.num_classes, info.image_size],
        "on": fingerprint(config.device),
    }
    numbers = kept.get(what)
    if numbers is None or len(numbers) != 3:
        say(f"measuring {which}: {config.method}, {config.network}")
        numbers = _measure(entry, config, order)
        kept.keep(what, numbers)
    step, image, prediction = numbers
    assert entry.config.batch_size and config.batch_size
    return _Speed(step * entry.config.batch_size / config.batch_size, image, prediction)


def _measure(entry: Entry, config: RunConfig, order: Order) -> list[float]:
    """Train a few steps of an entry on noise: seconds of a step, of an image's evaluation, and of a pseudo-label."""
    from ssl_core.price import measure  # loads torch
    from ssl_core.training.run import Run

    info = info_of(entry, order.budget)
    data, split = _noise(info.num_classes, info.image_size or 32, info.flip, config)
    price = measure(Run(config, data, split))
    return [price.step, price.image, price.prediction]


def _short(config: RunConfig) -> RunConfig:
    """The same with fewer images in a step."""
    parameters = config.parameters
    if "threshold" in type(parameters).model_fields:  # every image is used, which makes a step most expensive
        parameters = parameters.model_copy(update={"threshold": 1e-9})
    if "pool" in type(parameters).model_fields:  # the whole pool's seconds are taken off those of the epoch
        parameters = parameters.model_copy(update={"pool": "all"})
    assert config.batch_size and config.mu is not None
    update = {
        "batch_size": max(2, min(config.batch_size, IMAGES // (1 + config.mu))),
        "eval_batch_size": VALID,
        "epochs": 2,
        "steps_per_epoch": 2,
        "warmup_epochs": 1 if config.warmup_epochs else 0,
        "parameters": parameters,
    }
    return config.model_copy(update=update)


def _noise(classes: int, side: int, flip: bool, config: RunConfig) -> tuple[Any, Any]:
    """As many images of noise as a step takes, and a few for validation."""
    assert config.batch_size and config.mu
    valid = max(VALID, classes)
    count = valid + max(config.batch_size * (config.mu + 1), classes)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    labels = (np.arange(count) % classes).astype(np.int64)
    names = tuple(str(c) for c in range(classes))
    data = Dataset("noise", images, labels, names, "", (0.5,) * 3, (0.29,) * 3, flip)
    rest = np.arange(valid, count, dtype=np.int64)
    labelled = rest[: max(config.batch_size, classes)]
    return data, Split(labelled, np.arange(valid, dtype=np.int64), rest, "")
