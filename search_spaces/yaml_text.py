"""YAML as this project reads and writes it: safe, strict, and with line numbers in its messages.

Three things differ from `yaml.safe_load`: ``1e-3`` is a number (to PyYAML, which reads YAML 1.1, it is text), a key
that occurs twice in a mapping is refused (PyYAML uses the last one), and every error names the line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from ssl_core.system.errors import ConfigError

KeyPath = tuple[str | int, ...]
"""The place of a value in a document: keys and list positions from the root."""

_MERGE = "tag:yaml.org,2002:merge"
# What YAML 1.1 lacks: an exponent without a point before it, or without a sign behind its e.
_EXPONENT = re.compile(r"^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$")


class _Loader(yaml.SafeLoader):
    """SafeLoader that also reads numbers such as 1e-3."""


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes text which `_Loader` would read as a number, and writes no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


@dataclass(frozen=True)
class Document:
    """A YAML document and the lines of its parts.

    Attributes:
        data: the document as plain data.
        where: the file, as messages name it.
        lines: line of each key or list item, from 1.
    """

    data: Any
    where: str
    lines: Mapping[KeyPath, int] = field(default_factory=dict)

    def place(self, path: KeyPath = ()) -> str:
        """``FILE, line N`` of a value; of the mapping around it if the value is missing."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return f"{self.where}, line {self.lines[path[:end]]}"
        return self.where


def load_yaml(text: str, where: str) -> Any:
    """Plain data from YAML text.

    Args:
        text: one document.
        where: the file it came from, for messages.

    Raises:
        ConfigError: not YAML, a key given twice, more than one document; names file and line.
    """
    return load_document(text, where).data


def load_document(text: str, where: str) -> Document:
    """As `load_yaml`, with the line of every value."""
    lines: dict[KeyPath, int] = {}
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return Document(None, where)
            _walk(loader, node, (), lines, where, inside=())
            return Document(loader.construct_document(node), where, lines)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{where}, line {mark.line + 1}" if mark else where
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{place}: this is not YAML that can be read: {problem}.") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"{where}, line {line}: a character that YAML does not allow (code {error.character!r})."
        ) from None
    except (ValueError, OverflowError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{where}: a value cannot be read: {error}.") from None
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply to be read.") from None


def _walk(
    loader: _Loader,
    node: yaml.Node,
    path: KeyPath,
    lines: dict[KeyPath, int],
    where: str,
    *,
    inside: tuple[int, ...],
) -> None:
    """Record the lines below a node; refuse duplicate keys and values that contain themselves."""
    if id(node) in inside:
        raise ConfigError(f"{where}, line {node.start_mark.line + 1}: a value that contains itself.")
    inside = (*inside, id(node))
    if isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            lines[*path, position] = item.start_mark.line + 1
            _walk(loader, item, (*path, position), lines, where, inside=inside)
    elif isinstance(node, yaml.MappingNode):
        first: dict[Any, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag != _MERGE:
                if not isinstance(key_node, yaml.ScalarNode):
                    raise ConfigError(f"{where}, line {line}: a key must be a plain word or number.")
                key = loader.construct_object(key_node)
                if key in first:
                    raise ConfigError(
                        f"{where}, line {line}: the key {key!r} stands twice (first in line {first[key]}). "
                        "Remove one of the two."
                    )
                first[key] = line
                lines[*path, key] = line
                _walk(loader, value_node, (*path, key), lines, where, inside=inside)
            else:
                _walk(loader, value_node, path, dict(lines), where, inside=inside)


def dump_yaml(data: Any) -> str:
    """YAML text that `load_yaml` reads back as equal data: order kept, floats to the last bit.

    Args:
        data: dicts, lists, tuples (read back as lists), text, numbers, booleans, None.

    Raises:
        yaml.representer.RepresenterError: data of another type.
    """
    return yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=100
    )
