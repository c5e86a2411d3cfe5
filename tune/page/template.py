"""The HTML page from its content: one file with its style and pictures inside, without scripts and links.

The page itself is the Jinja2 template ``page.html`` beside this module.
"""

from __future__ import annotations

import base64
import functools
from importlib import resources

from jinja2 import Environment, StrictUndefined, Template

from tune.page.parts import Chart, Content, Figure, Table
from tune.tracking.uri import shown

TEMPLATE = "page.html"


def page(content: Content, nonce: str = "") -> str:
    """The page as HTML.

    Args:
        content: of the page.
        nonce: of the only script that a page which refreshes itself has.

    Returns:
        The page. All text is escaped, and a password in a URL, which an error message may quote, is replaced by stars.
    """
    return _template().render(content=content, nonce=nonce)


@functools.cache
def _template() -> Template:
    """The template, compiled once: a page that is served is made every few seconds."""
    return _environment().from_string(
        resources.files("tune.page").joinpath(TEMPLATE).read_text(encoding="utf-8")
    )


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
    environment.tests["chart"] = lambda item: isinstance(item, Chart)
    return environment


def _without_passwords(value: object) -> object:
    """Applied to every value before it is escaped, except to pictures and macros, which are HTML already."""
    return shown(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
