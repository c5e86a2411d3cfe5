"""The price of a study's epochs on this machine: a few real steps at some points of its space, measured once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ssl_core.config import RunConfig, from_document
from ssl_core.system.errors import NonFiniteError
from ssl_core.system.measured import Measured
from ssl_core.system.peak import Peak, peak_of
from tune.definition.inputs import with_overrides
from tune.definition.spec import StudySpec

if TYPE_CHECKING:
    from ssl_core.data.datasets import Dataset, Split
    from ssl_core.price import Price

POINTS = 8
FEWER, LARGE = 4, 32
"""Of a batch of so many labelled images, or more, a quarter is measured first: a step's time goes with its images."""
NO_MATTER = ("seed", "epochs", "warmup_epochs", "lr", "weight_decay")
"""Parameters on which the time of a step does not depend."""


@dataclass(frozen=True)
class EpochPrice:
    """What an epoch takes, a mean over points of the space.

    Attributes:
        warmup_epoch: seconds of one of the warm-up.
        epoch: seconds of one after it.
        parameters: bytes of the network's parameters.
        host: bytes that training took of the machine's memory; None where the system does not tell.
        device: bytes that it took of the GPU's.
    """

    warmup_epoch: float
    epoch: float
    parameters: int
    host: int | None
    device: int


def price_of(
    spec: StudySpec, config: RunConfig, data: Dataset, split: Split, seconds: float, kept: Measured
) -> EpochPrice:
    """Measure steps at the baseline and at random points of the space; what was measured before is taken from there.

    Args:
        spec: the study.
        config: resolved, that all trials share.
        data, split: its images.
        seconds: how long to go on at further points.
        kept: what was measured on this machine.
    """
    assert config.epochs is not None
    space = spec.search_space()
    documents = [
        with_overrides(config.document(), space.resolve(values, config.epochs))
        for values in (space.baseline_for(config.epochs), *points(spec, config.epochs, POINTS - 1))
    ]
    what = _what(config, documents, data, split)
    numbers = kept.get(what)
    # What was measured for as long, or longer, holds; a search, which takes little time for it, also takes a plan's.
    if numbers is not None and len(numbers) == 6 and numbers[0] >= seconds:
        return EpochPrice(
            numbers[1],
            numbers[2],
            int(numbers[3]),
            None if numbers[4] < 0 else int(numbers[4]),
            int(numbers[5]),
        )
    found = _measured(config, documents, data, split, seconds)
    host = -1 if found.host is None else found.host
    kept.keep(what, [seconds, found.warmup_epoch, found.epoch, found.parameters, host, found.device])
    return found


def _what(
    config: RunConfig, documents: list[dict[str, Any]], data: Dataset, split: Split
) -> Mapping[str, Any]:
    """All that the price depends on: the configurations, the images' number and size, processor and versions."""
    from ssl_core.system.environment import fingerprint  # loads torch

    steps = [{k: v for k, v in document.items() if k not in NO_MATTER} for document in documents]
    images = [list(data.images.shape[1:]), len(split.labelled), len(split.valid), len(split.unlabelled)]
    return {"epochs of": steps, "images": images, "on": fingerprint(config.device)}


def _measured(
    config: RunConfig, documents: list[dict[str, Any]], data: Dataset, split: Split, seconds: float
) -> EpochPrice:
    from ssl_core.training.run import Run  # loads torch

    began = time.monotonic()
    prices: list[Price] = []
    parameters, images = 0, 1.0
    with peak_of(config.device) as peak:
        for document in documents:
            if prices and time.monotonic() - began > seconds:
                break
            try:
                price, run, images = _at(from_document(document), data, split)
            except NonFiniteError:
                continue  # such a trial ends soon
            parameters = sum(p.numel() * p.element_size() for p in run.network.parameters())
            prices.append(price)
        if not prices:
            run = Run(from_document(documents[0]), data, split)
            parameters = sum(p.numel() * p.element_size() for p in run.network.parameters())
    warm = fmean(p.warmup_epoch for p in prices) if prices else 0.0
    after = fmean(p.epoch for p in prices) if prices else 0.0
    return EpochPrice(warm, after, parameters, *_memory(peak, parameters, images))


def _at(config: RunConfig, data: Dataset, split: Split) -> tuple[Price, Any, float]:
    """The price of a configuration, a run of it, and how many times as many images its steps have as the measured ones.

    A large batch is measured with a quarter of its images, and whole only where that does not take long.
    """
    from ssl_core.price import SLOW_STEP_SECONDS, measure  # loads torch
    from ssl_core.training.run import Run  # loads torch

    assert config.batch_size is not None
    if config.batch_size >= LARGE:
        small = Run(config.model_copy(update={"batch_size": config.batch_size // FEWER}), data, split)
        price = measure(small).times(config.batch_size / (config.batch_size // FEWER))
        if price.step > SLOW_STEP_SECONDS:
            return price, small, config.batch_size / (config.batch_size // FEWER)
    run = Run(config, data, split)
    return measure(run), run, 1.0


def _memory(peak: Peak, parameters: int, images: float) -> tuple[int | None, int]:
    """Bytes of host and device, where steps have so many times as many images as those that were measured.

    What goes with the images are the activations; weights, gradients, momenta and average do not.
    """
    fixed = 5 * parameters
    scaled = [
        None if found is None else round(found + (images - 1) * max(0, found - fixed))
        for found in (peak.host, peak.device)
    ]
    return scaled[0], scaled[1] or 0


def points(spec: StudySpec, epochs: int, count: int) -> Iterator[dict[str, Any]]:
    """Random points of the study's space, always the same whatever its seed: its price does not depend on that."""
    import optuna  # takes a second to load

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # a line for each study, on standard error
    distributions = spec.search_space().distributions(epochs)
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(sampler=sampler)
    for _ in range(count):
        yield dict(study.ask(distributions).params)
