"""What a field of a request says of itself as an option: how it is typed, and what becomes of it.

Default, range and description are the field's own; `Option` is the rest. The command line, its help, the keys of a
study's file, the JSON schema and the Python signature are made from both.
"""

from __future__ import annotations

import functools
import operator
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ssl_core.config import RunConfig

INHERITED = ""
"""Of `Option.baseline`: the tuned baseline takes the value of the method's study."""
HIGH = 10_000
"""An upper end from here on is there to catch slips; the help does not show it."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """What a field cannot say with its type, default and range.

    Attributes:
        baseline: `INHERITED`, or the reason why the tuned supervised baseline does not take the study's value.
        spelling: its name on the command line and in a study's file; None: the field's name.
        metavar: what stands for the value in the help; None: the type.
        typed: its type on the command line; None: the field's.
        accepts: its type in the Python signature; None: the field's.
        otherwise: what is taken where the default is None, in a few words.
        unit: of the default, as it is typed.
        afterwards: it asks for something after the search, so `plan` does not take it.
        sent: `submit` sends it along.
    """

    baseline: str
    spelling: str | None = None
    metavar: str | None = None
    typed: type | None = None
    accepts: str | None = None
    otherwise: str | None = None
    unit: str = ""
    afterwards: bool = False
    sent: bool = True


def option_of(model: type[BaseModel], name: str) -> Option:
    """The `Option` of a field.

    Raises:
        TypeError: the field has none: a field of a request says what the baseline takes.
    """
    for part in model.model_fields[name].metadata:
        if isinstance(part, Option):
            return part
    raise TypeError(f"the field {name!r} of {model.__name__} needs an Option(baseline=...) in its annotation")


def key_of(model: type[BaseModel], name: str) -> str:
    """A field's name as it is typed: ``max-failures`` of ``max_failures``."""
    return (option_of(model, name).spelling or name).replace("_", "-")


def plain_type(annotation: Any) -> Any:
    """A field's type less its ``| None``; of several types what is left of the union."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return annotation
    left = [part for part in get_args(annotation) if part is not type(None)]
    return functools.reduce(operator.or_, left)


def typed_as(model: type[BaseModel], name: str) -> type:
    """The type by which the command line reads a field: bool for a flag, list for an option that is repeated."""
    wanted = option_of(model, name).typed or plain_type(model.model_fields[name].annotation)
    if get_origin(wanted) is Literal:
        return str
    if get_origin(wanted) is Mapping:
        return list
    if wanted not in (int, float, str, bool, list):
        raise TypeError(f"the field {name!r} of {model.__name__} needs Option(typed=...): how it is typed")
    return wanted


def choices(field: FieldInfo) -> tuple[str, ...]:
    """The words that a field accepts; none where it accepts more than some words."""
    wanted = plain_type(field.annotation)
    return get_args(wanted) if get_origin(wanted) is Literal else ()


def bounds(model: type[BaseModel], name: str) -> tuple[float | None, float | None]:
    """The least and the greatest number that a field accepts; None where there is no such bound, or an open one.

    A field that a run has as well (labels, epochs) has the range that the run's configuration gives it.
    """
    own = model.model_fields[name].metadata
    run = RunConfig.model_fields.get(name)
    return _bounds(own) if _bounds(own) != (None, None) or run is None else _bounds(run.metadata)


def _bounds(metadata: list[Any]) -> tuple[float | None, float | None]:
    ends: dict[str, float] = {}
    for part in metadata:
        for name in ("ge", "gt", "le", "lt"):
            if isinstance(part, Ge | Gt | Le | Lt) and hasattr(part, name):
                ends[name] = getattr(part, name)
    low, high = ends.get("ge"), ends.get("le")
    if isinstance(ends.get("gt"), int):
        low = ends["gt"] + 1
    if isinstance(ends.get("lt"), int):
        high = ends["lt"] - 1
    return low, high


def help_of(model: type[BaseModel], name: str) -> str:
    """What an option is for, and in brackets what is taken without it and which numbers are accepted."""
    field, option = model.model_fields[name], option_of(model, name)
    assert field.description, f"{name} needs a description"
    words, notes = field.description, []
    if accepted := choices(field):
        shown = [f"{word} (default)" if word == field.default else word for word in accepted]
        words += f": {', '.join(shown[:-1])} or {shown[-1]}"
    elif option.otherwise is not None:
        notes.append(option.otherwise)
    elif isinstance(field.default, str):
        notes.append(field.default)
    elif isinstance(field.default, int | float) and not isinstance(field.default, bool):
        notes.append(f"{field.default:g}{option.unit}")
    low, high = bounds(model, name)
    if low is not None:
        notes.append(f"at least {low}" if high is None or high >= HIGH else f"{low} to {high}")
    return f"{words} [{'; '.join(notes)}]" if notes else words
