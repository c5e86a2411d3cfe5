"""Methods by name: those of the package, and those that were loaded from a user's own file."""

from __future__ import annotations

import functools
import importlib

from ssl_core import method_file
from ssl_core.methods import method_names
from ssl_core.methods.base import AnyMethod, Method
from ssl_core.schema import RunConfig
from ssl_core.system.errors import unknown

__all__ = ["get_method", "method_names", "method_of"]


def get_method(name: str, digest: str | None = None) -> AnyMethod:
    """A method.

    Args:
        name: of a method that comes with the package; or ``file:PATH``, one of the user's own, whose file is run.
        digest: for a method whose file was loaded before (`ssl_core.method_file`): that of its content; `name` is
            then the method's own name.

    Raises:
        ConfigError: if there is none; the message lists the known ones, or says what is wrong with the file.
    """
    if name.startswith(method_file.PREFIX):
        path = method_file.path_of(name)
        return method_file.load(method_file.read(path), str(path))
    return _of_package(name) if digest is None else method_file.loaded(name, digest)


def method_of(config: RunConfig) -> AnyMethod:
    """The method that a configuration is for."""
    return get_method(config.method, config.method_digest)


@functools.cache
def _of_package(name: str) -> AnyMethod:
    if name not in method_names():
        raise unknown("method", name, [*method_names(), "file:PATH"])
    method = importlib.import_module(f"ssl_core.methods.{name}").METHOD
    assert isinstance(method, Method) and method.name == name
    return method
