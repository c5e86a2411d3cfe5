"""The configuration of one training run: frozen, unknown keys refused, every field documented.

A configuration is written as one flat document whose method-specific part is a section that bears the
method's name (``pseudo_label: {threshold: 0.95}``), so that a parameter's name is the same everywhere:
on the command line (``--set pseudo_label.threshold=0.9``), in a search space and in MLflow.

Fields that are None are filled in by `resolve`, once the data set is known. A resolved configuration
carries all that a run's bits depend on besides the machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError, field_validator

from ssl_core.system.errors import ConfigError, unknown

if TYPE_CHECKING:
    from ssl_core.data.datasets import DatasetInfo
    from ssl_core.methods.base import Method

Model = TypeVar("Model", bound=BaseModel)
MIN_STEPS_PER_EPOCH = 32
# Batch sizes fit for a CPU where the images are tiny; everywhere else those of Sohn et al. (2020), table 4.
_SMALL_DATA = {"digits": {"batch_size": 16, "mu": 3, "epochs": 12}}
_LARGE_DATA = {"batch_size": 64, "mu": 7, "epochs": 300}


class Section(BaseModel):
    """Base of every configuration section."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class MethodConfig(Section):
    """Base of every method's own section; a method without parameters uses it as it is."""


class DataConfig(Section):
    """How the images are split and sized."""

    image_size: int | None = Field(
        None, ge=8, le=512, description="side in pixels that images are resized to; none: as they are"
    )
    valid: int | None = Field(
        None, ge=1, description="validation images, balanced per class; none: as many as labels"
    )
    split_seed: int = Field(0, ge=0, description="draws the validation images")
    label_seed: int = Field(0, ge=0, description="draws the labelled images among the others")


class RunConfig(Section):
    """One training run. `None` fields are filled in by `resolve`."""

    method: str = Field(description="the training method's own name")
    method_digest: str | None = Field(
        None, description="of the file that the method came from; none: it comes with the package"
    )
    parameters: SerializeAsAny[MethodConfig] = Field(description="the method's own section")
    dataset: str = Field("digits", description="digits, cifar10, cifar100 or folder:PATH")
    labels: int | None = Field(None, ge=1, description="labelled images, balanced per class")
    network: str | None = Field(None, description="wrn-DEPTH-WIDTH; depth = 6n + 4")
    epochs: int | None = Field(None, ge=1, le=100_000, description="epochs, warm-up included")
    steps_per_epoch: int | None = Field(
        None, ge=1, description="optimiser steps of an epoch; none: one pass over U, at least 32"
    )
    warmup_epochs: int | None = Field(
        None, ge=0, description="epochs on labelled data only, shorter than the run; none: the method's share"
    )
    stop_after_epoch: int | None = Field(
        None, ge=1, description="stop here, on the schedule of `epochs` (a trial stopped early)"
    )
    batch_size: int | None = Field(None, ge=2, le=65_536, description="B, labelled images of a step")
    mu: int | None = Field(None, ge=1, le=64, description="unlabelled images of a step, in multiples of B")
    lr: float = Field(0.03, gt=0, le=10, description="learning rate at step 0 (Sohn et al. 2020, table 4)")
    momentum: float = Field(0.9, ge=0, lt=1, description="Nesterov momentum (Sohn et al. 2020, table 4)")
    weight_decay: float | None = Field(
        None,
        ge=0,
        le=1,
        description="L2 penalty, none on BatchNorm and biases; none: 5e-4, on cifar100 1e-3 (ibid.)",
    )
    ema_decay: float = Field(0.999, ge=0, lt=1, description="average of the evaluated weights (ibid.)")
    bn_momentum: float | None = Field(
        None,
        gt=0,
        le=1,
        description="BatchNorm's weight of a new batch; none: 30 / steps of the run, within 0.001 (ibid.) "
        "and 0.1 (PyTorch's default), since 0.001 is far too slow for a short run",
    )
    eval_batch_size: int = Field(500, ge=1, description="images of one evaluation pass")
    precision: Literal["auto", "float32", "bfloat16", "float64"] = Field(
        "auto", description="arithmetic of the forward pass; auto: bfloat16 where the processor has it"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where there is one")
    compile: Literal["auto"] | bool = Field(
        "auto",
        description="torch.compile and CUDA graphs for a step's passes (they change the last bits); auto: on a "
        "GPU, for runs of 4000 steps or more, which earn the minute that it takes",
    )
    threads: int | None = Field(
        None, ge=1, le=1024, description="processor threads of the run (they change the bits); none: all"
    )
    seed: int = Field(
        0, ge=0, lt=2**31, description="training seed: initialisation, order, augmentation, noise"
    )
    data: DataConfig = Field(default_factory=DataConfig)

    @field_validator("network")
    @classmethod
    def _network_is_known(cls, value: str | None) -> str | None:
        if value is not None:
            parse_network(value)
        return value

    def document(self) -> dict[str, Any]:
        """The configuration as plain data, the method's parameters under the method's own name."""
        plain = self.model_dump(mode="json")
        parameters = plain.pop("parameters")
        if self.method_digest is None:
            del plain["method_digest"]
        return plain | ({self.method: parameters} if parameters else {})

    @property
    def total_steps(self) -> int:
        """K of the schedule: steps of the whole budget, whatever `stop_after_epoch` says."""
        assert self.epochs is not None and self.steps_per_epoch is not None
        return self.epochs * self.steps_per_epoch

    @property
    def last_epoch(self) -> int:
        """The epoch after which the run ends."""
        assert self.epochs is not None
        return min(self.epochs, self.stop_after_epoch or self.epochs)


def parse_network(name: str) -> tuple[int, int]:
    """Depth and widening factor of a name such as ``wrn-28-2``.

    Raises:
        ValueError: if the name has another form, or the depth is not 6n + 4.
    """
    match = re.fullmatch(r"wrn-(\d{1,3})-(\d{1,2})", name)
    if match is None or int(match[1]) < 10 or (int(match[1]) - 4) % 6 or int(match[2]) < 1:
        raise ValueError("a network is wrn-DEPTH-WIDTH with depth 10, 16, 22, 28, ... such as wrn-28-2")
    return int(match[1]), int(match[2])


def common_fields() -> frozenset[str]:
    """Names of the fields that every method has, nested ones dotted."""
    nested = {f"data.{name}" for name in DataConfig.model_fields}
    return frozenset(RunConfig.model_fields) - {"parameters", "data", "method_digest"} | nested


def parameter_names(method: Method) -> frozenset[str]:
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
    from ssl_core.methods import method_names

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


def _named(document: Mapping[str, Any], prefix: str) -> Method:
    """The method that a document names."""
    from ssl_core.methods import get_method, method_names

    name, digest = document.get("method"), document.get("method_digest")
    if not isinstance(name, str):
        raise ConfigError(f"{prefix}method is missing. Name one of: {', '.join(method_names())}.")
    if digest is not None and not isinstance(digest, str):
        raise ConfigError(f"{prefix}method_digest = {digest!r}: text is expected.")
    method = get_method(name, digest)
    if digest not in (None, method.digest):
        raise ConfigError(
            f"{prefix}method = {name!r}: the file was changed: method_digest is {digest}, the file's is now "
            f"{method.digest}. Bring back the file as it was, or remove method_digest to take it as it is."
        )
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
    """The first problem of a ValidationError in one sentence: field, value, what is accepted."""
    problem = error.errors()[0]
    place = [str(part) for part in problem["loc"]]
    name = path + ".".join(place)
    if problem["type"] == "extra_forbidden":
        owner: Any = DataConfig if place[:-1] == ["data"] else model
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
        info: what `ssl_core.data.datasets.describe` says of its data set.
        cores: threads of the run where the configuration names none; None: all this process may use.

    Raises:
        ConfigError: labels that the data cannot give, or a warm-up as long as the run.
    """
    from ssl_core.data.datasets import check_counts
    from ssl_core.methods import method_of

    method = method_of(config)
    defaults = _SMALL_DATA.get(info.name, _LARGE_DATA)
    labels = config.labels or info.default_labels
    if labels is None:
        raise ConfigError(f"labels is missing: say how many images of {info.name!r} keep their label.")
    valid = config.data.valid or labels
    check_counts(info, labelled=labels, valid=valid)
    batch_size = config.batch_size or defaults["batch_size"]
    mu = config.mu or defaults["mu"]
    epochs = config.epochs or defaults["epochs"]
    unlabelled = sum(info.train_per_class) - valid
    steps = config.steps_per_epoch or max(MIN_STEPS_PER_EPOCH, -(-unlabelled // (mu * batch_size)))
    if config.stop_after_epoch is not None and config.stop_after_epoch > epochs:
        raise ConfigError(f"stop_after_epoch = {config.stop_after_epoch}: the run has only {epochs} epochs.")
    return config.model_copy(
        update={
            "labels": labels,
            "network": config.network or info.default_network,
            "epochs": epochs,
            "steps_per_epoch": steps,
            "warmup_epochs": _warmup(config, method, epochs),
            "batch_size": batch_size,
            "mu": mu,
            "weight_decay": config.weight_decay
            if config.weight_decay is not None
            else (1e-3 if info.name == "cifar100" else 5e-4),
            "bn_momentum": config.bn_momentum or bn_momentum_of(epochs * steps),
            "threads": config.threads or cores or len(os.sched_getaffinity(0)),
            "data": config.data.model_copy(update={"valid": valid}),
        }
    )


def _warmup(config: RunConfig, method: Method, epochs: int) -> int:
    if not method.has_warmup:
        return config.warmup_epochs or 0  # accepted for every method, without effect here
    if config.warmup_epochs is None:
        return warmup_from_share(method.warmup_share, epochs)
    if config.warmup_epochs >= epochs:
        raise ConfigError(
            f"warmup_epochs = {config.warmup_epochs}: must be shorter than the run of {epochs} epochs, or "
            f"the method never starts. Take at most {epochs - 1}, or more epochs."
        )
    return config.warmup_epochs


def bn_momentum_of(steps: int) -> float:
    """BatchNorm's weight of a new batch that suits a run of so many steps (see the field of that name)."""
    return min(0.1, max(0.001, 30 / steps))


def warmup_from_share(share: float, epochs: int) -> int:
    """A warm-up given as a share of the run, in whole epochs: at least 1 (a share of 0: none), always
    shorter than the run."""
    return min(max(1, round(share * epochs)), epochs - 1) if share > 0 else 0
