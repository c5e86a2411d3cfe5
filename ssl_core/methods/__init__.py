"""The methods: every module of this package that holds a `METHOD` is one; there is no list to edit.

`ssl_core.registry` loads them. A user's own method lies in a file outside of the package: `ssl_core.method_file`.
"""

from __future__ import annotations

import pkgutil

_NOT_METHODS = frozenset({"base", "consistency", "output", "running", "sampled_pool", "scene", "views"})


def method_names() -> list[str]:
    """Names of the methods that come with the package, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _NOT_METHODS)
