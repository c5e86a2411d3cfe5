"""Search spaces: a YAML file for each method, to be copied and edited (docs/search-spaces.md), and their reader.

Names are loaded at first use: YAML is read and written without Optuna, whose import takes a tenth of a second.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search_spaces.ranges import Parameter as Parameter
    from search_spaces.ranges import describe as describe
    from search_spaces.space import SearchSpace as SearchSpace
    from search_spaces.space import load_space as load_space
    from search_spaces.space import parse_space as parse_space
    from search_spaces.space import space_names as space_names
    from search_spaces.yaml_text import dump_yaml as dump_yaml
    from search_spaces.yaml_text import load_yaml as load_yaml
    from search_spaces.yaml_text import read_yaml_text as read_yaml_text

_HOMES = {
    "Parameter": "search_spaces.ranges",
    "SearchSpace": "search_spaces.space",
    "describe": "search_spaces.ranges",
    "dump_yaml": "search_spaces.yaml_text",
    "load_space": "search_spaces.space",
    "load_yaml": "search_spaces.yaml_text",
    "parse_space": "search_spaces.space",
    "read_yaml_text": "search_spaces.yaml_text",
    "space_names": "search_spaces.space",
}
__all__ = [
    "Parameter",
    "SearchSpace",
    "describe",
    "dump_yaml",
    "load_space",
    "load_yaml",
    "parse_space",
    "read_yaml_text",
    "space_names",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
