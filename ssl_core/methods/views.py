"""Names of the views of unlabelled images, and the views of a step by name."""

from __future__ import annotations

from typing import Any

from ssl_core.system.errors import ConfigError

KINDS = ("weak", "strong")
"""The kinds of views of unlabelled images."""


def view_names(kind: str, count: int) -> tuple[str, ...]:
    """Names of the views of a kind: ``weak``, ``weak2``, ``weak3``, ..."""
    return (kind, *(f"{kind}{number}" for number in range(2, count + 1)))[:count]


class Views(dict[str, Any]):
    """Views by name; one that was not asked for is refused by name."""

    def __missing__(self, name: str) -> Any:
        given = ", ".join(map(repr, self)) or "none"
        raise ConfigError(
            f"compute_loss reads the view {name!r}, but the step has {given}. Ask for it in "
            "unlabelled_views or views()."
        )
