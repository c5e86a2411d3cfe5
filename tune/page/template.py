"""The HTML page from its content: one file with its style and pictures inside, without scripts and links.

The page itself is the Jinja2 template ``page.html`` beside this module.
"""

from __future__ import annotations

import base64
from importlib import resources

from jinja2 import Environment, StrictUndefined

from tune.page.parts import Content, Figure, Table
from tune.tracking.uri import shown

TEMPLATE = "page.html"


def page(content: Content) -> str:
    """The page as HTML.

    All text is escaped, and a password in a URL, which an error message may quote, is replaced by stars.
    """
    template = resources.files("tune.page").joinpath(TEMPLATE).read_text(encoding="utf-8")
    return _environment().from_string(template).render(content=content)


def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        finalize=_without_passwords,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["base64"] = _base64
    environment.tests["table"] = lambda item: isinstance(item, Table)
    environment.tests["figure"] = lambda item: isinstance(item, Figure)
    return environment


def _without_passwords(value: object) -> object:
    """Applied to every value before it is escaped, except to pictures and macros, which are HTML already."""
    return shown(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
