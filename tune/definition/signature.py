"""The keyword arguments of `tune.search` and `plan`, written out from the request for editors and type checkers.

``python -m tune.definition.signature`` writes `tune.definition.request_options`; a test compares the two.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from tune.definition.option import help_of, option_of, plain_type
from tune.definition.request import SearchRequest

FILE = Path(__file__).with_name("request_options.py")
POSITIONAL = ("method", "dataset")
"""Options that are arguments of their own."""
_HEAD = '''"""The keyword options of a search. Written by ``python -m tune.definition.signature``: do not edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict


class RequestOptions(TypedDict, total=False):
    """The options of a search, as `tune.definition.request.SearchRequest` describes and checks them."""

'''


def signature_source(model: type[SearchRequest] = SearchRequest) -> str:
    """The text of a module with a TypedDict that has a key for each option, but for those that are positional."""
    names = [name for name in model.model_fields if name not in POSITIONAL]
    return _HEAD + "\n".join(_entry(model, name) for name in names)


def _entry(model: type[SearchRequest], name: str) -> str:
    annotation = option_of(model, name).accepts or _source(model.model_fields[name].annotation)
    words = textwrap.wrap(f"{help_of(model, name)}.", 100)
    described = "\n    ".join(words)
    return f'    {name}: {annotation}\n    """{described}"""\n'


def _source(annotation: Any) -> str:
    """A type as it is written in code."""
    if get_origin(annotation) is Literal:
        words = ", ".join(f'"{word}"' for word in get_args(annotation))
        return f"Literal[{words}]"
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation.__name__
    if plain_type(annotation) is not annotation and get_origin(plain_type(annotation)) is Literal:
        return f"{_source(plain_type(annotation))} | None"
    return str(annotation).replace("typing.", "").replace("collections.abc.", "")


if __name__ == "__main__":
    FILE.write_text(signature_source(), encoding="utf-8")
