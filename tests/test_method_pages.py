"""Every method has a page that names each of its parameters and metrics; the page on one's own shows the very files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from annotated_types import Ge, Gt, Le, Lt

from ssl_core.registry import get_method, method_names
from tests.tiny import EXAMPLES, finish, make_run

DOCS = Path(__file__).parent.parent / "docs"
SECTIONS = (
    "## Equation",
    "## Hyperparameters",
    "## What is logged",
    "## Where the sources differ",
    "## Checks",
)


def page(method: str) -> str:
    return (DOCS / "methods" / f"{method}.md").read_text(encoding="utf-8")


def with_linked(method: str) -> str:
    """A method's page and those of the methods that it refers to, and what all methods log."""
    text = page(method)
    names = {name for name in re.findall(r"\(([a-z_]+)\.md", text) if name in method_names()}
    return "\n".join([text, page("supervised"), *(page(name) for name in sorted(names))])


def row(method: str, name: str) -> list[str]:
    """The cells of a parameter's row: default, accepted, unit, source and meaning."""
    for line in page(method).splitlines():
        if line.startswith(f"| `{method}.{name}` |"):
            return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[2:-1]]
    pytest.fail(f"docs/methods/{method}.md has no row for {method}.{name}")


def in_words(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}".replace("e-0", "e-") if isinstance(value, float) else str(value)


def accepted(field: Any) -> str:
    """A parameter's range as the pages say it."""
    if field.annotation is bool:
        return "true, false"
    kinds = [kind for kind in get_args(field.annotation) if kind is not type(None)]
    optional = len(kinds) == 1  # a number or none
    if field.annotation not in (int, float) and not optional:
        return ", ".join(get_args(field.annotation))
    lower = next(m for m in field.metadata if isinstance(m, Ge | Gt))
    upper = next(m for m in field.metadata if isinstance(m, Le | Lt))
    end = in_words(upper.le if isinstance(upper, Le) else upper.lt)
    low = in_words(lower.gt if isinstance(lower, Gt) else lower.ge)
    middle = ", below " if isinstance(upper, Lt) else ", to " if isinstance(lower, Gt) else " to "
    text = f"above {low}{middle}{end}" if isinstance(lower, Gt) else f"{low}{middle}{end}"
    return f"{text}, or none" if optional else text


@pytest.mark.parametrize("method", method_names())
def test_a_page_says_equations_parameters_metrics_and_where_sources_differ(method: str) -> None:
    text = page(method)
    assert [s for s in SECTIONS if s not in text] == []
    assert f"search_spaces/{method}.yaml" in text and f"ssl_core/methods/{method}.py" in text
    assert f"docs/methods/{method}.md" in (DOCS.parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("method", "name"), [(m, f) for m in method_names() for f in get_method(m).Config.model_fields]
)
def test_a_parameter_is_there_with_default_range_and_source(method: str, name: str) -> None:
    field = get_method(method).Config.model_fields[name]
    default, accepts, _, meaning = row(method, name)
    assert default == in_words(field.default)
    assert accepts == accepted(field)
    assert re.search(r"[Rr]eport|et al|takerum|Grandvalet", meaning), meaning


@pytest.mark.parametrize("method", method_names())
def test_every_metric_that_a_run_logs_is_explained(method: str) -> None:
    run = make_run(method, epochs=2, steps_per_epoch=1)
    text = with_linked(method)
    for report in finish(run):
        for metric in report.metrics:
            name = re.sub(r"class_\d\d", "class_NN", metric)
            shortened = name.replace("ssl/pseudo_labels_smallest", "..._smallest")
            assert f"`{name}`" in text or f"`{shortened}`" in text, f"{name} is not explained"


def test_the_page_on_ones_own_method_shows_the_very_files() -> None:
    text = (DOCS / "your-own-method.md").read_text(encoding="utf-8")
    for fence, name in (("python", "my_uda.py"), ("yaml", "my_uda.yaml")):
        (shown,) = re.findall(rf"^```{fence}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        assert shown == (EXAMPLES / name).read_text(encoding="utf-8"), name
