"""What makes no sense is refused by name, before anything starts: in train, in plan and in search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_origin

import pytest

from search_spaces import load_space, parse_space
from ssl_core.config import from_document, resolve
from ssl_core.data.datasets import describe
from ssl_core.registry import get_method, method_names
from ssl_core.system.errors import ConfigError
from tests.tune.helpers import Done, make_spec
from tune.definition.coherence import MOST_POINTS, check_sense, points
from tune.store.home import Home

Command = Callable[..., Done]

FIELDS = [(m, f) for m in method_names() for f in get_method(m).Config.model_fields]


def assert_refused(done: Done, home: Home, *says: str) -> None:
    assert done.code == 2 and done.out == "", done
    assert len(done.err.splitlines()) == 1 and done.err.startswith("ssl-tune: "), done.err
    for words in says:
        assert words in done.err, done.err
    assert not home.path.exists()


@pytest.mark.parametrize(("method", "name"), FIELDS)
def test_each_parameter_out_of_range_or_of_another_type(
    ssl_tune: Command, home: Home, method: str, name: str
) -> None:
    kind: Any = get_method(method).Config.model_fields[name].annotation
    values = (
        ["other"]
        if kind is bool or get_origin(kind) is Literal
        else ["-1", "1e9" if kind is float else "100000000"]
    )
    each = [("search", value) for value in [*values, "[1]"]]  # the verbs look through one model of a request
    for verb, value in [("train", values[0]), ("plan", values[0]), *each]:
        done = ssl_tune(verb, "--method", method, "--set", f"{method}.{name}={value}")
        assert_refused(done, home, f"{method}.{name} = ", "input should be")


A = "attention_fixmatch"
NO_HEAD = f"--method {A} --set {A}.maps=0"
NONSENSE: list[tuple[str, str, list[str]]] = [
    ("train plan search", NO_HEAD, [f"{A}.lambda_att = 1.0: there is no attention to weigh with maps = 0"]),
    (
        "train plan search",
        f"{NO_HEAD} --set {A}.lambda_att=0 --set {A}.align=none",
        [f"{A}.align = 'none': ", "maps = 0"],
    ),
    (
        "train plan search",
        f"{NO_HEAD} --set {A}.lambda_att=0 --set {A}.diversity_weight=1",
        ["no two maps", "maps = 0"],
    ),
    (
        "plan search",
        f"{NO_HEAD} --set {A}.lambda_att=0 --space wide",
        ["a trial may be given", f"{A}.diversity_weight = 1.0"],
    ),
    (
        "plan search",
        f"--method {A} --set {A}.maps=1 --space wide",
        [f"{A}.diversity_weight = 1.0", "maps = 1", "--set"],
    ),
    (
        "plan search",
        "--method vat --set vat.alpha=0",
        ["vat.xi is searched", "no effect with vat.alpha = 0", "--set vat.xi=10"],
    ),
    (
        "plan search",
        "--method vat --set vat.alpha=0 --set vat.use_entmin=true --set vat.xi=1",
        ["vat.eps is searched"],
    ),
    ("plan search", "--method vat --set vat.iterations=0", ["vat.xi is searched", "vat.iterations = 0"]),
    (
        "plan search",
        "--method fixmatch --set fixmatch.lambda_u=0",
        ["fixmatch.threshold is searched", "lambda_u = 0"],
    ),
    (
        "plan search",
        "--method pseudo_label --space wide --set pseudo_label.threshold=1",
        ["pseudo_label.accumulate is"],
    ),
]


@pytest.mark.parametrize(("verbs", "options", "says"), NONSENSE, ids=[o for _, o, _ in NONSENSE])
def test_a_combination_that_makes_no_sense(
    ssl_tune: Command, home: Home, verbs: str, options: str, says: list[str]
) -> None:
    for verb in verbs.split():
        assert_refused(ssl_tune(verb, *options.split()), home, *says)


def space_file(folder: Path, method: str, entries: str, baseline: str) -> str:
    path = folder / "space.yaml"
    path.write_text(f"method: {method}\ndefault:\n{entries}baseline: {{{baseline}}}\n")
    return str(path)


def searched(name: str, rest: str) -> str:
    return f"  {name}: {{{rest}, role: scientific, why: a test}}\n"


def test_a_range_that_reaches_into_nonsense_is_refused(ssl_tune: Command, home: Home, tmp_path: Path) -> None:
    maps = searched(f"{A}.maps", "type: int, low: 1, high: 4")
    space = space_file(tmp_path, A, maps, f"{A}.maps: 2")
    for verb in ("plan", "search"):
        done = ssl_tune(verb, "--method", A, "--space", space, "--set", f"{A}.diversity_weight=0.5")
        says = (
            f"{space}: a trial may be given {A}.maps = 1",
            f"{A}.diversity_weight = 0.5",
            "Change the space",
        )
        assert_refused(done, home, *says)
    assert make_spec(home, method=A, space=space).name == "s"


def test_a_warmup_is_not_searched_where_there_is_none(ssl_tune: Command, home: Home, tmp_path: Path) -> None:
    entry = searched("lr", "type: float, low: 0.01, high: 0.1") + searched(
        "warmup_share", "type: float, low: 0.1, high: 0.2"
    )
    space = space_file(tmp_path, "supervised", entry, "lr: 0.03, warmup_share: 0.1")
    for verb in ("plan", "search"):
        done = ssl_tune(verb, "--method", "supervised", "--space", space)
        assert_refused(done, home, "warmup_share is searched, but the method 'supervised' has no warm-up")


@pytest.mark.parametrize("method", method_names())
@pytest.mark.parametrize("variant", ["default", "wide"])
def test_the_spaces_of_the_package_make_sense(method: str, variant: str) -> None:
    info = describe("digits")
    config = resolve(from_document({"method": method}), info)
    space = load_space(method, variant)
    check_sense(space, config)
    listed = list(points(space, config.epochs or 0))
    assert listed[0] == space.baseline_for(config.epochs or 0)
    ends = {p.name: {point[p.name] for point in listed[1:]} for p in space.parameters}
    assert all(len(values) >= 2 for values in ends.values())
    assert len(listed) <= MOST_POINTS + 1


def test_a_parameter_that_counts_somewhere_in_the_space_is_no_vain_one(home: Home, tmp_path: Path) -> None:
    entries = searched("vat.iterations", "type: int, low: 0, high: 1") + searched(
        "vat.xi", "type: float, low: 1, high: 2"
    )
    space = space_file(tmp_path, "vat", entries, "vat.iterations: 1, vat.xi: 1")
    assert make_spec(home, method="vat", space=space).name == "s"


def test_a_large_space_is_looked_at_two_parameters_at_a_time() -> None:
    choices = "[" + ", ".join(f"0.{n}" for n in range(10, 60)) + "]"
    entries = "".join(
        searched(f"{A}.{name}", f"type: categorical, choices: {choices}")
        for name in ("threshold", "lambda_u", "diversity_weight")
    ) + searched(f"{A}.maps", "type: int, low: 1, high: 2")
    baseline = (
        ", ".join(f"{A}.{name}: 0.5" for name in ("threshold", "lambda_u", "diversity_weight"))
        + f", {A}.maps: 2"
    )
    space = parse_space(
        f"method: {A}\ndefault:\n{entries}baseline: {{{baseline}}}\n",
        where="my.yaml",
        method=A,
        variant="default",
    )
    assert len(list(points(space, 5))) == 1 + 3 * 50 * 50 + 3 * 50 * 2
    with pytest.raises(
        ConfigError, match=r"my.yaml: a trial may be given .*maps = 1, which is refused: .*no two maps"
    ):
        check_sense(space, resolve(from_document({"method": A}), describe("digits")))
