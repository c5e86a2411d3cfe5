"""What is said of a value that a request cannot have: the field, the value and what is accepted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from annotated_types import Ge, Le
from pydantic import BaseModel, ValidationError

from ssl_core.system.errors import ConfigError, unknown
from tune.definition.option import choices

_PLAIN = {
    "string_type": "text",
    "is_instance_of": "a list",
    "dict_type": "a mapping of names to values",
    "mapping_type": "a mapping of names to values",
}
_RANGE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")


def refused(error: ValidationError, model: type[BaseModel], given: Mapping[str, Any]) -> ConfigError:
    """The first field that a model refused, as an error for people.

    Args:
        error: what pydantic found.
        model: of the request.
        given: the values that it was made from, by field.
    """
    problems = error.errors()
    name = str(problems[0]["loc"][0])
    if problems[0]["type"] == "extra_forbidden":
        return unknown("option", name, model.model_fields)
    own = [problem for problem in problems if problem["loc"][0] == name]
    cause = own[0].get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return ConfigError(str(cause))
    value = given[name]
    accepted = choices(model.model_fields[name])
    if accepted and isinstance(value, str):
        return unknown(name, value, accepted)
    wanted = " or ".join(dict.fromkeys(_PLAIN.get(p["type"]) or _accepted(p["msg"]) for p in own))
    if own[0]["type"] not in _RANGE:
        return ConfigError(f"{name} = {value!r}: {wanted} is expected.")
    ends = {type(part): part for part in model.model_fields[name].metadata}
    if Ge in ends and Le in ends:
        wanted = f"between {ends[Ge].ge} and {ends[Le].le}"
    return ConfigError(f"{name} = {value!r}: must be {wanted}.")


def _accepted(message: str) -> str:
    return message.removeprefix("Input should be ")
