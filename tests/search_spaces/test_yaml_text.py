import math

import pytest
import yaml

from search_spaces import dump_yaml, load_yaml
from ssl_core.system.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E3", 1e3),
        ("-2e+4", -2e4),
        ("1.5e3", 1.5e3),
        (".5e-1", 0.05),
        ("5.0e-5", 5e-5),
        ("0.1", 0.1),
        (".inf", math.inf),
    ],
)
def test_numbers_with_an_exponent_are_floats(text: str, value: float) -> None:
    got = load_yaml(f"lr: {text}", "f.yaml")["lr"]
    assert isinstance(got, float) and got == value


@pytest.mark.parametrize("text", ["e3", "1e", "1e-", "abc1e3", "v1e-3", "0x1e", "1e3k"])
def test_what_only_resembles_a_number_is_as_in_safe_load(text: str) -> None:
    assert load_yaml(text, "f.yaml") == yaml.safe_load(text)


def test_dump_round_trips_to_the_last_bit_and_keeps_the_order() -> None:
    data = {
        "z": [0.1 + 0.2, 1e-3, 1e-300, 5e-324, 1.7976931348623157e308, -0.0, 1e16, 3, True, None],
        "a": {"text": "1e-3", "digest": "1234e567", "yes": "no", "date": "2024-01-01", "long": "word " * 60},
        "empty": [{}, [], ""],
        "ünïcode": "naïve: # not a comment\nsecond line\ttab",
        "1e5": "a key that looks like a number",
    }
    back = load_yaml(dump_yaml(data), "f.yaml")
    assert back == data
    assert list(back) == list(data)
    assert [type(x) for x in back["z"]] == [type(x) for x in data["z"]]
    assert math.copysign(1, back["z"][5]) == -1
    assert dump_yaml(back) == dump_yaml(data)


def test_dump_writes_no_anchors_and_tuples_as_lists() -> None:
    shared = (1, 2)
    assert load_yaml(dump_yaml({"a": shared, "b": shared}), "f.yaml") == {"a": [1, 2], "b": [1, 2]}
    assert "&" not in dump_yaml({"a": [shared], "b": [shared]})


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "'a' stands twice (first in line 1)"),
        ("s:\n  x: 1\n  y: 2\n  'x': 1\n", 4, "'x' stands twice"),
        ("- {k: 1, k: 2}", 1, "'k' stands twice"),
        ("a: 1\nb: [1, 2\nc: 3\n", 3, "not YAML"),
        ("a: 1\n\tb: 2\n", 2, "not YAML"),
        ("a: 1\n---\nb: 2\n", 2, "not YAML"),
        ("a: 1\nb: !!python/object:os.system {}\n", 2, "not YAML"),
        ("a: 1\n? [1]\n: 2\n", 2, "a key must be"),
        ("a: 1\nb: &x\n  - *x\n", 2, "contains itself"),
        ("a: 1\nb: \x00\n", 2, "a character"),
    ],
)
def test_errors_name_file_and_line(text: str, line: int, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_yaml(text, "best.yaml")
    assert str(caught.value).startswith(f"best.yaml, line {line}: ")
    assert says in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 1000, "d: 2024-13-45", "n: !!int x"])
def test_what_python_cannot_hold_is_refused_too(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^best\.yaml"):
        load_yaml(text, "best.yaml")


def test_nothing_is_none_and_merge_keys_work() -> None:
    assert load_yaml("# only a comment\n", "f.yaml") is None
    merged = load_yaml("base: &b {a: 1, c: 2}\nx:\n  <<: *b\n  a: 3\n", "f.yaml")
    assert merged["x"] == {"a": 3, "c": 2}
