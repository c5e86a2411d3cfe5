"""The methods: every module of this package that holds a `METHOD` is one; there is no list to edit.

A user's own lies in a file outside, and is loaded by `ssl_core.method_file`.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import TYPE_CHECKING

from ssl_core.methods.base import Method
from ssl_core.system.errors import unknown

if TYPE_CHECKING:
    from ssl_core.config import RunConfig

_NOT_METHODS = frozenset({"base", "consistency"})


def method_names() -> list[str]:
    """Names of the methods that come with the package, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _NOT_METHODS)


def get_method(name: str, digest: str | None = None) -> Method:
    """A method.

    Args:
        name: of a method that comes with the package; or ``file:PATH``, one of the user's own, whose file is run.
        digest: for a method whose file was loaded before (`ssl_core.method_file`): what its content is; `name` is
            then its own name.

    Raises:
        ConfigError: if there is none; the message lists the known ones, or says what is wrong with the file.
    """
    from ssl_core import method_file

    if name.startswith(method_file.PREFIX):
        path = method_file.path_of(name)
        return method_file.load(method_file.read(path), str(path))
    return _of_package(name) if digest is None else method_file.loaded(name, digest)


def method_of(config: RunConfig) -> Method:
    """The method that a configuration is for."""
    return get_method(config.method, config.method_digest)


@functools.cache
def _of_package(name: str) -> Method:
    if name not in method_names():
        raise unknown("method", name, [*method_names(), "file:PATH"])
    method = importlib.import_module(f"{__name__}.{name}").METHOD
    assert isinstance(method, Method) and method.name == name
    return method
