"""Search spaces: a YAML file for each method, to be copied and edited (docs/search-spaces.md), and their reader."""

from search_spaces.ranges import Parameter, describe
from search_spaces.space import SearchSpace, load_space, parse_space, space_names
from search_spaces.yaml_text import dump_yaml, load_yaml

__all__ = [
    "Parameter",
    "SearchSpace",
    "describe",
    "dump_yaml",
    "load_space",
    "load_yaml",
    "parse_space",
    "space_names",
]
