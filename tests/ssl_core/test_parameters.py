"""Every parameter of every method: a value out of range or of another type is refused by name, and so is nonsense."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import pytest
from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from ssl_core.config import from_document
from ssl_core.system.errors import ConfigError
from tests.tiny import METHODS, OWN, method_named

FIELDS = [(name, field) for name in METHODS for field in method_named(name).Config.model_fields]


def kind_of(field: FieldInfo) -> Any:
    """The type of a field's value, where it may also be none."""
    kinds = [kind for kind in get_args(field.annotation) if kind is not type(None)]
    return kinds[0] if type(None) in get_args(field.annotation) else field.annotation


def bounds(field: FieldInfo) -> tuple[list[Any], list[Any]]:
    """The lower and the upper bounds of a number."""
    lower = [m.ge if isinstance(m, Ge) else m.gt for m in field.metadata if isinstance(m, Ge | Gt)]
    upper = [m.le if isinstance(m, Le) else m.lt for m in field.metadata if isinstance(m, Le | Lt)]
    return lower, upper


def out_of_range(field: FieldInfo) -> Iterator[Any]:
    """Numbers just outside of what a field accepts."""
    kind = kind_of(field)
    small = 1 if kind is int else 1e-9
    for m in field.metadata:
        if isinstance(m, Gt | Lt):
            yield kind(m.gt if isinstance(m, Gt) else m.lt)
        elif isinstance(m, Ge):
            yield m.ge - small
        elif isinstance(m, Le):
            yield m.le + (1 if kind is int else 1e-6)


def of_wrong_type(field: FieldInfo) -> list[Any]:
    kind = kind_of(field)
    if kind is not field.annotation:
        wrong = of_wrong_type(FieldInfo(annotation=kind))
        return [value for value in wrong if value is not None]
    if kind is float:
        return ["1", True, None, [1.0], math.nan, math.inf]
    if kind is int:
        return ["1", True, None, 1.5, math.nan]
    if kind is bool:
        return [1, "true", None, 0.0]
    assert get_origin(kind) is Literal
    return ["other", 1, None, True]


def refusal(method: str, parameters: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        from_document({"method": OWN.get(method, method), method: parameters})
    return str(caught.value)


@pytest.mark.parametrize(("method", "name"), FIELDS)
def test_a_value_that_a_parameter_does_not_accept_is_refused_by_name(method: str, name: str) -> None:
    field = method_named(method).Config.model_fields[name]
    outside = list(out_of_range(field))
    if kind_of(field) in (int, float):
        assert [len(side) for side in bounds(field)] == [1, 1], "a number has a lowest and a highest value"
        assert len(outside) == 2
    for value in [*outside, *of_wrong_type(field)]:
        message = refusal(method, {name: value})
        assert message.startswith(f"{method}.{name} = {value!r}: "), message


@pytest.mark.parametrize(("method", "name"), FIELDS)
def test_the_ends_of_a_range_are_accepted_where_they_belong_to_it(method: str, name: str) -> None:
    field = method_named(method).Config.model_fields[name]
    for m in field.metadata:
        end = m.ge if isinstance(m, Ge) else m.le if isinstance(m, Le) else None
        if end is not None:
            # a weight of what the head lacks is another matter, tested below
            rest = {"lambda_att": 0.0} if (method, name, end) == ("attention_fixmatch", "maps", 0) else {}
            config = from_document({"method": OWN.get(method, method), method: {name: end, **rest}})
            assert getattr(config.parameters, name) == end


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_parameter_is_refused_with_the_nearest_one(method: str) -> None:
    fields = list(method_named(method).Config.model_fields)
    message = refusal(method, {f"{fields[0]}s" if fields else "x": 1})
    assert message.startswith(f"unknown key '{method}.")
    assert not fields or f"Did you mean '{method}.{fields[0]}'?" in message


ATTENTION = [
    ({"maps": 0}, "lambda_att = 1.0: there is no attention to weigh with maps = 0"),
    ({"maps": 0, "lambda_att": 0.5}, "lambda_att = 0.5: there is no attention to weigh with maps = 0"),
    (
        {"maps": 0, "lambda_att": 0.0, "align": "none"},
        "align = 'none': there are no maps to compare with maps = 0",
    ),
    (
        {"maps": 0, "lambda_att": 0.0, "diversity_weight": 0.1},
        "diversity_weight = 0.1: there are no two maps",
    ),
    (
        {"maps": 1, "diversity_weight": 0.1},
        "diversity_weight = 0.1: there are no two maps to tell apart with maps = 1",
    ),
]


@pytest.mark.parametrize(("parameters", "says"), ATTENTION)
def test_a_weight_of_what_the_head_lacks_is_refused(parameters: dict[str, Any], says: str) -> None:
    assert refusal("attention_fixmatch", parameters).startswith(f"attention_fixmatch.{says}")


IDLE = [
    ("vat", {}, set()),
    ("vat", {"iterations": 0}, {"xi"}),
    ("vat", {"alpha": 0.0}, {"xi", "eps", "iterations"}),
    ("vat", {"alpha": 0.0, "use_entmin": True}, {"xi", "eps", "iterations"}),
    ("random_perturbation", {"alpha": 0.0}, {"eps"}),
    ("pseudo_label", {"threshold": 1.0}, {"accumulate"}),
    ("pseudo_label", {"threshold": 0.99}, set()),
    ("fixmatch", {"lambda_u": 0.0}, {"threshold"}),
    ("flexmatch", {"lambda_u": 0.0}, {"threshold"}),
    ("attention_fixmatch", {"lambda_u": 0.0}, set()),
    ("attention_fixmatch", {"lambda_u": 0.0, "lambda_att": 0.0}, {"threshold"}),
]


@pytest.mark.parametrize(("method", "parameters", "names"), IDLE)
def test_a_method_knows_which_of_its_parameters_have_no_effect(
    method: str, parameters: dict[str, Any], names: set[str]
) -> None:
    config = from_document({"method": method, method: parameters})
    idle = method_named(method).idle(config.parameters)
    assert set(idle) == names and names <= set(method_named(method).Config.model_fields)
    assert all(f"{method}." in why and " = " in why for why in idle.values())


MOVED = {"xi": 3.0, "eps": 2.0, "iterations": 2, "accumulate": True, "threshold": 0.7}


@pytest.mark.parametrize(("method", "parameters"), [(m, p) for m, p, names in IDLE if names])
def test_a_parameter_without_effect_moves_no_weight(method: str, parameters: dict[str, Any]) -> None:
    from tests.tiny import finish, make_run, same_bits, trained

    plain = make_run(method, epochs=2, parameters=parameters)
    moved = {name: MOVED[name] for name in method_named(method).idle(plain.config.parameters)}
    other = make_run(method, epochs=2, parameters={**parameters, **moved})
    finish(plain)
    finish(other)
    assert other.config.parameters != plain.config.parameters and same_bits(trained(plain), trained(other))
