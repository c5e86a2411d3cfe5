"""From a configuration to what is trained on: resolved, its images decoded, its split drawn."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_core.config import from_document, options_of, resolve, with_backbone
from ssl_core.data.datasets import Dataset, Split, describe, load_train
from ssl_core.data.splits.drawing import Wanted, split_for
from ssl_core.data.splits.folds import folded
from ssl_core.data.splits.holdout import Membership
from ssl_core.data.splits.refit import with_validation
from ssl_core.schema import RunConfig, SkippedFile
from ssl_core.system import environment


def prepare(
    config: RunConfig | Mapping[str, Any],
    *,
    data_root: Path | None = None,
    cache: Path | None = None,
    cores: int | None = None,
    membership: Membership | None = None,
) -> tuple[RunConfig, Dataset, Split]:
    """Resolve a configuration, load its training images and draw its split.

    Args:
        config: a RunConfig, or the plain document of one.
        data_root: where downloaded data sets lie.
        cache: folder of decoded images, shared by all runs of this machine; None: decode into memory.
        cores: threads where the configuration names none.
        membership: the record of test images that earlier runs held out of this data set.

    Raises:
        ConfigError: anything wrong with the configuration or the data.
    """
    config = _resolved(config, data_root, cores)
    options = options_of(config)
    data = load_train(config.dataset, root=data_root, cache=cache, options=options, membership=membership)
    config = with_backbone(config, data.image_size, data.num_classes)
    for note in data.facts.notes:
        warnings.warn(note, stacklevel=2)
    base = split_of(of_fold(config, 0).model_copy(update={"refit": False}), data)
    split = split_of(config, data, base)
    if _skips_anew(config) and data.rows is not None:
        skipped = tuple(SkippedFile(file=file, sha256=sha256) for file, sha256 in data.facts.skipped)
        config = config.model_copy(update={"data": config.data.model_copy(update={"skipped": skipped})})
    if not data.is_plain and not config.refit:  # only now is it known which images are held out
        # Those of fold 0, from which a further fold is drawn again: where images are tied together, its own may differ.
        counts = {"valid": len(base.valid)}
        update = {"labels": len(base.labelled), "data": config.data.model_copy(update=counts)}
        config = config.model_copy(update=update)
    return config, data, split


def _resolved(
    config: RunConfig | Mapping[str, Any], data_root: Path | None, cores: int | None = None
) -> RunConfig:
    if not isinstance(config, RunConfig):
        config = from_document(config)
    info = describe(config.dataset, root=data_root, options=options_of(config))
    return environment.choose_device(resolve(config, info, cores=cores))


def _skips_anew(config: RunConfig) -> bool:
    """Whether damaged images are left out, and none is on record yet."""
    return config.data.on_damaged == "skip" and config.data.skipped is None


def asked(
    config: RunConfig | Mapping[str, Any],
    data_root: Path | None,
    cache: Path | None,
    membership: Membership | None,
    *,
    counted: bool,
) -> RunConfig:
    """A resolved configuration, to be compared with that of an earlier run.

    Args:
        config, data_root, cache, membership: as for `prepare`.
        counted: with what only decoded data tell: numbers of images, and which files are damaged.

    Raises:
        ConfigError: as for `prepare`.
    """
    config = _resolved(config, data_root)
    is_plain = describe(config.dataset, root=data_root, options=options_of(config)).is_plain
    if not counted or (is_plain and not _skips_anew(config)):
        return config
    return prepare(config, data_root=data_root, cache=cache, membership=membership)[0]


def split_of(config: RunConfig, data: Dataset, base: Split | None = None) -> Split:
    """The split that a resolved configuration asks for.

    Args:
        config: the configuration.
        data: its training images.
        base: the split of its fold 0, no refit, where it is at hand; it is not drawn again, and nothing is said of it.

    Raises:
        ConfigError: numbers that the data cannot give, or a fold of data that have none (`ssl_core.data.splits.folds`).
    """
    wanted = _wanted(config, data)
    if base is None:
        drawn = split_for(data, wanted)
        for note in drawn.notes:
            warnings.warn(note, stacklevel=2)
        base = drawn.split
    split = folded(data, base, wanted, config.data.fold)
    return with_validation(split) if config.refit else split


def of_fold(config: RunConfig, fold: int) -> RunConfig:
    """A configuration on another division of its labelled and validation images."""
    return config.model_copy(update={"data": config.data.model_copy(update={"fold": fold})})


def fold_hashes(config: RunConfig, data: Dataset, split: Split, folds: int) -> tuple[str, ...]:
    """The split hashes of a configuration's folds from 1 on.

    Args:
        config: resolved, of fold 0.
        data: its training images.
        split: that of fold 0.
        folds: how many there are, fold 0 included.

    Raises:
        ConfigError: the data have none (`ssl_core.data.splits.folds`).
    """
    return tuple(split_of(of_fold(config, fold), data, split).hash for fold in range(1, folds))


def _wanted(config: RunConfig, data: Dataset) -> Wanted:
    assert config.labels is not None and config.data.valid is not None
    every_label = not data.is_plain and config.labels >= int((data.labels >= 0).sum()) - config.data.valid
    return Wanted(
        labelled=None if every_label else config.labels,
        valid=config.data.valid,
        valid_share=config.data.valid_share,
        mode=config.data.split,
        split_seed=config.data.split_seed,
        label_seed=config.data.label_seed,
    )
