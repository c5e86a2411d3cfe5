"""The methods: every module of this package that holds a `METHOD` is one; there is no list to edit."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from ssl_core.errors import unknown
from ssl_core.methods.base import Method

_NOT_METHODS = frozenset({"base"})


def method_names() -> list[str]:
    """Names of the methods that come with the package, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _NOT_METHODS)


@functools.cache
def get_method(name: str) -> Method:
    """The method of a name.

    Raises:
        ConfigError: if there is none; the message lists the known ones.
    """
    if name not in method_names():
        raise unknown("method", name, method_names())
    method = importlib.import_module(f"{__name__}.{name}").METHOD
    assert isinstance(method, Method) and method.name == name
    return method
