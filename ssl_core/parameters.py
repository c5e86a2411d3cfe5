"""The parameters of a run in words: what each accepts, in which unit, its default, and what it is."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from ssl_core.config import RunConfig, common_fields
from ssl_core.methods.base import AnyMethod
from ssl_core.schema import SECTIONS

UNITS = {
    "labels": "images",
    "epochs": "epochs",
    "warmup_epochs": "epochs",
    "stop_after_epoch": "epochs",
    "head_epochs": "epochs",
    "steps_per_epoch": "steps",
    "batch_size": "images",
    "eval_batch_size": "images",
    "mu": "multiples of batch_size",
    "threads": "threads",
    "data.image_size": "pixels",
    "data.valid": "images",
    "data.valid_share": "share of the labels",
    "data.test_share": "share of the labels",
    "data.device_share": "share of the memory",
    "backbone.lr_scale": "multiples of lr",
}
"""Units of the parameters that every method has. A method's own are pure numbers, unless the description says more."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a run.

    Attributes:
        name: dotted, as ``--set`` and a search space take it.
        default: None where it is filled in from the data or the machine.
        description: what it means, and where its default comes from.
        accepts: which values, in words.
        unit: of the value; empty for a pure number or a word.
        common: whether every method has it.
    """

    name: str
    default: Any
    description: str | None
    accepts: str
    unit: str
    common: bool


def parameters_of(method: AnyMethod) -> list[Parameter]:
    """All parameters of a method, its own first, then those that every method has, in the order of the schema."""
    own = [
        _parameter(f"{method.name}.{name}", field, common=False)
        for name, field in method.Config.model_fields.items()
    ]
    known = common_fields() - {"method"}
    return own + [_parameter(name, field, common=True) for name, field in _common() if name in known]


def _common() -> Iterator[tuple[str, FieldInfo]]:
    for name, field in RunConfig.model_fields.items():
        if name in SECTIONS:
            for inner, part in SECTIONS[name].model_fields.items():
                yield f"{name}.{inner}", part
        else:
            yield name, field


def _parameter(name: str, field: FieldInfo, *, common: bool) -> Parameter:
    unit = UNITS.get(name, "") if common else ""
    default = field.get_default(call_default_factory=True)
    return Parameter(name, default, field.description, accepts(field), unit, common)


def accepts(field: FieldInfo) -> str:
    """The values that a field accepts, in words: ``0 to 10``, ``true or false``, ``sgd or adamw``."""
    parts = [_plain(part) for part in _alternatives(field.annotation) if part is not type(None)]
    return " or ".join([part for part in parts if part] or ["text"]) + _range(field.metadata)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _plain(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        words = [str(word) for word in get_args(annotation)]
        return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
    if get_origin(annotation) is tuple:
        return "a list"
    named = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return named.get(annotation, "")


def _range(metadata: list[Any]) -> str:
    """The ends of a range as they follow the kind of value."""
    low: str | None = None
    high: str | None = None
    for part in metadata:
        if isinstance(part, Ge):
            low = f"at least {part.ge:g}"
        elif isinstance(part, Gt):
            low = f"above {part.gt:g}"
        elif isinstance(part, Le):
            high = f"at most {part.le:g}"
        elif isinstance(part, Lt):
            high = f"below {part.lt:g}"
    ends = " and ".join(end for end in (low, high) if end is not None)
    return f", {ends}" if ends else ""
