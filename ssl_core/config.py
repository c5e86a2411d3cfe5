"""Configurations of training runs: read from plain documents, checked, and completed from the data.

The classes themselves are in `ssl_core.schema`; they are exported from here as well, which is where users' own method
files import `MethodConfig` from.

A configuration is written as one flat document whose method-specific part is a section that bears the
method's name (``pseudo_label: {threshold: 0.95}``), so that a parameter's name is the same everywhere:
on the command line (``--set pseudo_label.threshold=0.9``), in a search space and in MLflow.

Fields that are None are filled in by `resolve`, once the data set is known. A resolved configuration
carries all that a run's bits depend on besides the machine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from ssl_core import method_file
from ssl_core.data.options import Options, Skipped, valid_of_share
from ssl_core.methods.base import AnyMethod, counted_views
from ssl_core.registry import get_method, method_names, method_of
from ssl_core.schema import (
    ADAMW_WEIGHT_DECAY,
    SECTIONS,
    BackboneConfig,
    DataConfig,
    MethodConfig,
    RunConfig,
    Section,
)
from ssl_core.system.errors import ConfigError, counted, unknown

if TYPE_CHECKING:
    from ssl_core.data.datasets import DatasetInfo

__all__ = [
    "BackboneConfig",
    "DataConfig",
    "MethodConfig",
    "RunConfig",
    "Section",
    "bn_momentum_of",
    "common_fields",
    "from_document",
    "options_of",
    "parameter_names",
    "resolve",
    "warmup_from_share",
]

Model = TypeVar("Model", bound=BaseModel)
MIN_STEPS_PER_EPOCH = 32
# Batch sizes fit for a CPU where the images are tiny; everywhere else those of Sohn et al. (2020), table 4.
_SMALL_DATA = {"digits": {"batch_size": 16, "mu": 3, "epochs": 12}}
_LARGE_DATA = {"batch_size": 64, "mu": 7, "epochs": 300}


def common_fields() -> frozenset[str]:
    """Names of the fields that every method has and that may be set or searched, nested ones dotted.

    `refit` is none of them: a search needs its validation images. Nor are digests of files, which are filled in.
    """
    nested = {f"{section}.{name}" for section, model in SECTIONS.items() for name in model.model_fields}
    none_of_them = {"parameters", *SECTIONS, "method_digest", "backbone.weights_digest", "refit"}
    return (frozenset(RunConfig.model_fields) | nested) - none_of_them


def parameter_names(method: AnyMethod) -> frozenset[str]:
    """Every dotted name that ``--set`` and a search space accept for this method."""
    own = {f"{method.name}.{name}" for name in method.Config.model_fields}
    return common_fields() - {"method"} | own


def from_document(document: Mapping[str, Any], *, where: str = "") -> RunConfig:
    """Build a configuration from plain data, such as `RunConfig.document` gives.

    Args:
        document: common fields, and the method's section under its name. `method` may also be ``file:PATH``, a
            file of the user's own, which is run; with a `method_digest` beside it, it must be that very file.
        where: the place the document came from, named in messages.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a value out of range or of the wrong type,
            or parameters of another method; the message names field, value and what is accepted.
    """
    prefix = f"{where}: " if where else ""
    plain = dict(document)
    method = _named(plain, prefix)
    plain |= {"method": method.name, "method_digest": method.digest}
    section = plain.pop(method.name, None) or {}
    known = set(RunConfig.model_fields) - {"parameters"} | {method.name}
    for key in plain:
        if key in known:
            continue
        if key in method_names():
            raise ConfigError(
                f"{prefix}{key!r} holds parameters of the method {key!r}, but the method is {method.name!r}. "
                f"Remove them or choose --method {key}."
            )
        raise unknown("key", str(key), known, where=where)
    parameters = _validated(method.Config, section, prefix, f"{method.name}.")
    return _validated(RunConfig, {**plain, "parameters": parameters}, prefix, "")


def _named(document: Mapping[str, Any], prefix: str) -> AnyMethod:
    """The method that a document names."""
    name, digest = document.get("method"), document.get("method_digest")
    if not isinstance(name, str):
        raise ConfigError(f"{prefix}method is missing. Name one of: {', '.join(method_names())}.")
    if digest is not None and not isinstance(digest, str):
        raise ConfigError(f"{prefix}method_digest = {digest!r}: text is expected.")
    method = get_method(name, digest)
    method_file.check_digest(name, digest, method.digest, prefix)
    return method


def _validated(model: type[Model], values: Any, prefix: str, path: str) -> Model:
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"{prefix}{path.rstrip('.')} = {values!r}: a section of `name: value` pairs is expected."
        )
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(prefix + _explain(error, model, path)) from None


def _explain(error: ValidationError, model: type[BaseModel], path: str) -> str:
    """The first problem of a ValidationError as a sentence: field, value, what is accepted."""
    problem = error.errors()[0]
    place = [str(part) for part in problem["loc"]]
    name = path + ".".join(place)
    if problem["type"] == "extra_forbidden":
        owner: Any = SECTIONS.get(".".join(place[:-1]), model)
        parent = ".".join([path.rstrip("."), *place[:-1]]).strip(".")
        return str(unknown("key", name, [f"{parent}.{f}" if parent else f for f in owner.model_fields]))
    if problem["type"] == "missing":
        return f"{name} is missing."
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return f"{name} = {problem['input']!r}: {message}."


def resolve(config: RunConfig, info: DatasetInfo, *, cores: int | None = None) -> RunConfig:
    """Fill in every None, from the data set and this machine.

    Args:
        config: what was asked for.
        info: of its data set, from `ssl_core.data.datasets.describe`.
        cores: threads of the run where the configuration names none; None: all this process may use.

    Raises:
        ConfigError: more labels than the data has, or a warm-up as long as the run.
    """
    method = method_of(config)
    views = counted_views(method, config.parameters)
    defaults = _SMALL_DATA.get(info.name, _LARGE_DATA)
    labels, valid = _counts(config, info)
    if info.is_plain:
        _check_drawn(config, info, labels, valid)
    elif not info.unlabelled and labels > _left(config, info, valid):
        raise ConfigError(_too_many(config, info, labels, valid))
    elif not info.unlabelled and views and labels == _left(config, info, valid):
        raise ConfigError(
            f"{info.name!r} has no unlabelled images besides the labelled ones, and {method.name} needs some: put them "
            "into unlabelled/, or let fewer images keep their label with --labels."
        )
    batch_size = config.batch_size or defaults["batch_size"]
    # An epoch has as many steps whatever mu a method has by default (invariant 6).
    common_mu = config.mu or defaults["mu"]
    mu = config.mu or method.default_mu or common_mu
    epochs = config.epochs or defaults["epochs"]
    unlabelled = info.unlabelled + _left(config, info, valid)
    steps = config.steps_per_epoch or max(MIN_STEPS_PER_EPOCH, -(-unlabelled // (common_mu * batch_size)))
    if config.stop_after_epoch is not None and config.stop_after_epoch > epochs:
        raise ConfigError(
            f"stop_after_epoch = {config.stop_after_epoch}: the run has only {counted(epochs, 'epoch')}."
        )
    if config.head_epochs > epochs:
        raise ConfigError(f"head_epochs = {config.head_epochs}: the run has only {counted(epochs, 'epoch')}.")
    config = config.model_copy(update={"network": config.network or info.default_network})
    config = with_backbone(config, info.image_size, info.num_classes)
    return config.model_copy(
        update={
            "labels": labels,
            "epochs": epochs,
            "steps_per_epoch": steps,
            "warmup_epochs": _warmup(config, method, epochs),
            "batch_size": batch_size,
            "mu": mu,
            "weight_decay": _weight_decay(config, info),
            "clip_norm": config.clip_norm or method.default_clip_norm,
            "bn_momentum": config.bn_momentum or bn_momentum_of(epochs * steps),
            "threads": config.threads or cores or len(os.sched_getaffinity(0)),
            "data": config.data.model_copy(update={"valid": valid}),
        }
    )


def options_of(config: RunConfig) -> Options:
    """How the images of a configuration are read."""
    data, skipped = config.data, config.data.skipped
    return Options(
        image_size=data.image_size,
        resize=data.resize,
        background=data.background,
        flip=data.flip,
        on_damaged=data.on_damaged,
        skipped=None if skipped is None else tuple(Skipped(one.file, one.sha256) for one in skipped),
        group_by=data.group_by,
        test_share=data.test_share,
    )


def with_backbone(config: RunConfig, image_size: int | None, num_classes: int) -> RunConfig:
    """The configuration with its `backbone` filled in: the stem, and the digest of a file of weights.

    Args:
        config: with its network.
        image_size: side of the images in pixels; None: it is not known yet, and what depends on it stays as it is.
        num_classes: of the data.

    Raises:
        ConfigError: an unknown network, one that cannot take such images or lacks what the method needs, or weights
            that are not its own.
    """
    # Delayed: it loads torch, where there is anything to check.
    from ssl_core.networks.settling import settle

    needs = method_of(config).needs(config.parameters)
    backbone = settle(config.network or "", config.backbone, needs, image_size, num_classes)
    return config.model_copy(update={"backbone": backbone})


def _weight_decay(config: RunConfig, info: DatasetInfo) -> float:
    if config.weight_decay is not None:
        return config.weight_decay
    if config.optimizer == "adamw":
        return ADAMW_WEIGHT_DECAY
    return 1e-3 if info.name == "cifar100" else 5e-4


def _counts(config: RunConfig, info: DatasetInfo) -> tuple[int, int]:
    """How many images keep their label, and how many are for validation.

    With unlabelled images, all labels are used: `labels` then counts those that are held out, too, since which images
    these are is known only when they are decoded.
    """
    labels = config.labels or info.default_labels or (sum(info.train_per_class) if info.unlabelled else None)
    if labels is None:
        raise ConfigError(
            f"--labels is missing: say how many images of {info.name!r} keep their label, such as --labels 40."
        )
    if config.data.valid is not None or info.is_plain:
        return labels, config.data.valid or labels
    if info.valid_per_class is not None:
        return labels, sum(info.valid_per_class)
    valid = 0
    for name, n, t in zip(info.classes, info.train_per_class, _held_out(config, info), strict=True):
        valid += valid_of_share(config.data.valid_share, n - t, name)
    return labels, valid


def _check_drawn(config: RunConfig, info: DatasetInfo, labels: int, valid: int) -> None:
    """Refuse numbers that cannot be drawn: the same of each class or, where one cannot give that, in proportion."""
    from ssl_core.data.datasets import check_counts  # delayed: reading a configuration loads no numpy

    mode, classes, total = config.data.split, info.num_classes, sum(info.train_per_class)
    fits = labels // classes + valid // classes <= min(info.train_per_class)
    is_slip = labels % classes > 0 or valid % classes > 0  # in proportion only where that is asked for
    if mode == "balanced" or (mode is None and (fits or is_slip)):
        check_counts(info, labelled=labels, valid=valid)
    elif labels + valid > total:
        raise ConfigError(_too_many(config, info, labels, valid))
    elif small := [name for name, n in zip(info.classes, info.train_per_class, strict=True) if n < 2]:
        raise ConfigError(
            f"{info.name!r}: class {small[0]!r} has 1 training image ({_counted(info)}), but one for training and one "
            f"for validation are needed of each class. Label more images of {small[0]!r}, or remove the class."
        )


def _too_many(config: RunConfig, info: DatasetInfo, labels: int, valid: int) -> str:
    held_out = sum(_held_out(config, info))
    tested = f", of which {held_out} are held out as test images" if held_out else ""
    return (
        f"{info.name!r} has {sum(info.train_per_class)} training images ({_counted(info)}){tested}, but labels = "
        f"{labels} and data.valid = {valid} (validation images) together ask for {labels + valid}. Lower one of them."
    )


def _counted(info: DatasetInfo) -> str:
    """Class names with their counts."""
    from ssl_core.data.layouts.listing import shown

    pairs = zip(info.classes, info.train_per_class, strict=True)
    return shown([f"{name}: {count}" for name, count in pairs])


def _held_out(config: RunConfig, info: DatasetInfo) -> list[int]:
    """How many labelled images of each class become test images, about: which ones is known once they are decoded."""
    if info.is_plain or info.test_per_class is not None:
        return [0] * info.num_classes
    return [max(1, round(config.data.test_share * n)) for n in info.train_per_class]


def _left(config: RunConfig, info: DatasetInfo, valid: int) -> int:
    """How many labelled images of train/ are neither test nor validation images, about."""
    own_valid = not info.is_plain and info.valid_per_class is not None
    return sum(info.train_per_class) - sum(_held_out(config, info)) - (0 if own_valid else valid)


def _warmup(config: RunConfig, method: AnyMethod, epochs: int) -> int:
    if not method.has_warmup:
        return config.warmup_epochs or 0  # accepted for every method, without effect on this one
    if config.warmup_epochs is None:
        return warmup_from_share(method.warmup_share, epochs)
    if config.warmup_epochs >= epochs:
        raise ConfigError(
            f"warmup_epochs = {config.warmup_epochs}: must be shorter than the run of {counted(epochs, 'epoch')}, or "
            f"the method never starts. Take at most {epochs - 1}, or more epochs."
        )
    return config.warmup_epochs


def bn_momentum_of(steps: int) -> float:
    """BatchNorm's weight of a new batch in a run of so many steps (see the field `bn_momentum`)."""
    return min(0.1, max(0.001, 30 / steps))


def warmup_from_share(share: float, epochs: int) -> int:
    """Epochs of a warm-up given as a share of the run: at least 1 (0 for a share of 0), less than `epochs`."""
    return min(max(1, round(share * epochs)), epochs - 1) if share > 0 else 0
