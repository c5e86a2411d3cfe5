import math
import resource
import time
from pathlib import Path

import pytest
import yaml

from search_spaces import dump_yaml, load_yaml, read_yaml_text
from search_spaces import yaml_text as module
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


def bomb(levels: int, width: int = 9) -> str:
    """A few hundred bytes that stand for width ** levels values."""
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels + 1)]
    return "\n".join(["a0: &a0 [x, x]", *lines, ""])


BOMBS = {
    "aliases of aliases": (bomb(12), "aliases"),
    "one alias of a long text": (f"a: &a {'x' * 10_000}\nb: [{', '.join(['*a'] * 5000)}]\n", "characters"),
    "merges": ("a: &a {x: 1}\n" + "".join(
        f"{n}: &{n} {{<<: [{', '.join([f'*{p}'] * 30)}]}}\n" for p, n in zip("abcdefg", "bcdefgh", strict=True)
    ), "values"),
    "depth": ("[" * 60 + "]" * 60, "values within values"),
    "depth by aliases": ("a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 60)), "within"),
    "a long number": (f"a: {'9' * 5000}\n", "digits"),
    "a long number of base 60": (f"a: 1{':1' * 100_000}\n", "digits"),
    "length": ("# " + "x" * 5_000_000, "longer than 4 MB"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
def test_22_what_stands_for_more_than_the_bounds_is_refused_at_once(kind: str) -> None:
    text, says = BOMBS[kind]
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(ConfigError, match=r"^bomb\.yaml") as refused:
        load_yaml(text, "bomb.yaml")
    assert says in str(refused.value)
    assert time.monotonic() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_22_what_is_within_the_bounds_is_read() -> None:
    data = {"points": [{"lr": 0.01 * n, "weight_decay": 1e-4, "text": "x"} for n in range(5_000)]}
    assert load_yaml(dump_yaml(data), "f.yaml") == data
    text = "a: &a {x: 1, y: 2}\nb: [*a, *a]\n"
    assert load_yaml(text, "f.yaml")["b"] == [{"x": 1, "y": 2}] * 2


def test_22_a_file_is_not_read_beyond_the_bound(tmp_path: Path) -> None:
    with (tmp_path / "f.yaml").open("wb") as file:
        file.truncate(50 * 2**30)  # a hole: nothing is on disk
    with pytest.raises(ConfigError, match="longer than 4 MB"):
        read_yaml_text(tmp_path / "f.yaml")
    (tmp_path / "f.yaml").write_bytes("a: ü\r\n".encode())
    assert read_yaml_text(tmp_path / "f.yaml") == "a: ü\n"


def test_mappings_that_agree_in_most_entries_are_written_as_each_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ENTRIES", 5)  # forgotten in between
    dumper, long = module.Dumper(), "a text that is folded where it gets long " * 5
    for value in (
        1,
        True,
        1.0,
        "1",
        None,
        1e-3,
        [1, {"b": 2}],
        {"c": {"d": [0.1, "e"]}},
        long,
        "",
        {},
        "é: #",
    ):
        data = {"lr": value, "same": {"x": [1, 2], "text": long}, "empty": [], "last": value}
        assert dumper.dump(data) == dump_yaml(data)
