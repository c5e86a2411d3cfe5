"""From a finished training to a model's folder."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor

from ssl_core import method_file
from ssl_core.measures import expected_calibration_error, images_and_wrong
from ssl_core.model.calibration import fit_temperature
from ssl_core.model.card import (
    FORMAT,
    Calibration,
    Card,
    ImageRule,
    Measured,
    Network,
    check_place,
    read_card,
)
from ssl_core.model.folder import write_folder
from ssl_core.networks.attention import AttentionHead
from ssl_core.networks.base import Head
from ssl_core.preparation import prepare
from ssl_core.system.errors import ConfigError
from ssl_core.training import checkpoint
from ssl_core.training.result import CHECKPOINTS, RESULT_FILE, Result, kept_membership
from ssl_core.training.run import Run


@dataclass(frozen=True)
class Made:
    """A model that was made."""

    folder: Path
    card: Card


def make_model(
    training: Path,
    folder: Path,
    *,
    data_root: Path | None = None,
    cache: Path | None = None,
    sibling: Path | None = None,
    origin: Mapping[str, str] | None = None,
) -> Made:
    """Make a model of a training that has ended; its validation images are read again, its test images are not.

    Args:
        training: the folder of the training (`out` of `ssl_core.train`).
        folder: of the model; one that is there is replaced.
        data_root, cache: as of `ssl_core.train`.
        sibling: the model of the same training without `refit`, whose temperature a refit takes: it has no
            validation images of its own.
        origin: where the training comes from, for the card.

    Raises:
        ConfigError: no finished training in that folder, its images are no longer there or are others, or a place that
            cannot be written to.
    """
    check_place(folder)
    result = _result_of(training)
    state = checkpoint.load_newest(training / CHECKPOINTS)
    if state is None:
        raise ConfigError(f"{training} holds no checkpoint that can be read: train it again.")
    if digest := result.config.get("method_digest"):
        method_file.load_kept(training, result.config["method"], digest)
    membership = kept_membership(training)
    config, data, split = prepare(result.config, data_root=data_root, cache=cache, membership=membership)
    run = Run(config, data, split)
    try:
        run.load_state(state)
    except ValueError as error:
        raise ConfigError(f"{training}: {error}. The images are not those that it was trained on.") from None
    maps, weights = _without_code(run)
    calibration = _calibrated(run) if len(run.valid) else _of_sibling(sibling)
    card = Card(
        format=FORMAT,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        network=Network(name=config.network or "", attention_maps=maps),
        classes=list(data.classes),
        image=_image_rule(run),
        method=config.method,
        configuration=config.document(),
        epochs=run.epoch,
        split_hash=split.hash,
        versions=result.versions,
        validation=_measured(result, "val"),
        test=_measured(result, "test"),
        calibration=calibration,
        origin={k: str(v) for k, v in (origin or {}).items()},
        weights_sha256="",
    )
    return Made(folder, write_folder(folder, card, weights))


def _without_code(run: Run) -> tuple[int, dict[str, Tensor]]:
    """Maps of the attention head, and the weights, as a network has them that is built without the method's code.

    A head that the classifier does not depend on is left out.

    Raises:
        ConfigError: the classifier depends on a head that only the method's code can build.
    """
    head, weights = run.network.head, run.ema.network.state_dict()
    if isinstance(head, AttentionHead):
        return head.conv2.out_channels, weights
    if head is not None and type(head).pooling is not Head.pooling:
        raise ConfigError(
            f"the head of the method {run.method.name!r} weighs what the classifier reads, and a model's folder holds "
            "no code that could build it. Read the network from the run's checkpoint, or train without such a head."
        )
    return 0, {name: value for name, value in weights.items() if not name.startswith("head.")}


def _result_of(training: Path) -> Result:
    path = training / RESULT_FILE
    if not path.is_file():
        raise ConfigError(f"{training} holds no finished training ({RESULT_FILE} is missing).")
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return Result(**{"val_error": None, "test_error": None, **document})


def _image_rule(run: Run) -> ImageRule:
    data, options = run.data, run.config.data
    return ImageRule(
        size=data.image_size,
        resize=options.resize,
        background=options.background,
        bits=data.facts.bits,
        flip=data.flip,
        mean=list(data.mean),
        std=list(data.std),
        pillow=metadata.version("pillow"),
    )


def _measured(result: Result, part: str) -> Measured | None:
    matrix = getattr(result, f"{part}_confusion")
    error, by_class = getattr(result, f"{part}_error"), getattr(result, f"{part}_error_by_class")
    if error is None or matrix is None:
        return None
    images, _ = images_and_wrong(matrix)
    return Measured(
        images=sum(images),
        error=error,
        error_balanced=getattr(result, f"{part}_error_balanced"),
        error_by_class=dict(zip(result.classes or [], by_class, strict=True)) if by_class else None,
    )


def _calibrated(run: Run) -> Calibration:
    """A temperature for the model, from its own validation images."""
    valid = run.valid.to(run.device)
    logits, labels = run.evaluated_in_batches(run.images, valid), run.labels[valid]
    temperature = fit_temperature(logits, labels)
    return Calibration(
        temperature=temperature,
        images=len(labels),
        expected_calibration_error=expected_calibration_error(logits, labels, temperature),
        expected_calibration_error_raw=expected_calibration_error(logits, labels),
        fitted_on="validation images",
    )


def _of_sibling(sibling: Path | None) -> Calibration | None:
    found = None if sibling is None else read_card(sibling).calibration
    return found and found.model_copy(update={"fitted_on": "validation images of the sibling"})
