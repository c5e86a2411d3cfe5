"""YAML as this project reads and writes it: safe, strict, and with line numbers in its messages.

Three things differ from `yaml.safe_load`: ``1e-3`` is a number (to PyYAML, which reads YAML 1.1, it is text), a key
that occurs twice in a mapping is refused (PyYAML uses the last one), and every error names the line.

A document is bounded, since a few hundred bytes of aliases can stand for any number of values: in length, in depth, and
in the number of values and characters that it stands for once its aliases are written out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ssl_core.system.errors import ConfigError

MAX_BYTES = 4 * 2**20
"""The longest document. A study with ten thousand points of its own has two megabytes."""
MAX_DEPTH, MAX_VALUES, MAX_CHARACTERS = 50, 500_000, 16 * 2**20
"""Bounds of what a document stands for: values within values, values, and characters in all of them."""
MAX_DIGITS = 400
"""The longest number; the time that it takes to read one grows with the square of its length."""

ENTRIES = 1000
"""Entries of which a `Dumper` remembers the text."""

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


def read_yaml_text(path: Path) -> str:
    """The text of a YAML file; no more of it is read than a document may be long.

    Raises:
        ConfigError: it is longer.
        UnicodeDecodeError: it is no UTF-8.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise _too_long(str(path))
    return data.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")


def _too_long(where: str) -> ConfigError:
    return ConfigError(f"{where}: longer than {MAX_BYTES // 2**20} MB, the most that is read as YAML.")


def load_yaml(text: str, where: str) -> Any:
    """Plain data from YAML text.

    Args:
        text: one document.
        where: the file it came from, for messages.

    Raises:
        ConfigError: not YAML, a key given twice, more than one document, or one that is too large; names file and
            line.
    """
    return load_document(text, where).data


def load_document(text: str, where: str) -> Document:
    """As `load_yaml`, with the line of every value."""
    if len(text) > MAX_BYTES:
        raise _too_long(where)
    lines: dict[KeyPath, int] = {}
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return Document(None, where)
            _check_size(node, where)
            _walk(loader, node, (), lines, where)
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


def _check_size(root: yaml.Node, where: str) -> None:
    """Refuse a document that stands for more than the bounds above, in time that grows with its text alone.

    Raises:
        ConfigError: it does, or a value contains itself.
    """
    sizes: dict[
        int, tuple[int, int, int]
    ] = {}  # of each node: depth, values, characters, its aliases written out
    _size(root, where, sizes, set())


def _size(
    node: yaml.Node, where: str, sizes: dict[int, tuple[int, int, int]], inside: set[int]
) -> tuple[int, int, int]:
    line = node.start_mark.line + 1
    if id(node) in inside:
        raise ConfigError(f"{where}, line {line}: a value that contains itself.")
    if id(node) not in sizes:
        inside.add(id(node))
        found = [_size(part, where, sizes, inside) for part in _parts(node)]
        inside.remove(id(node))
        depth = 1 + max((depth for depth, _, _ in found), default=0)
        values = 1 + sum(values for _, values, _ in found)
        own = len(node.value) if isinstance(node, yaml.ScalarNode) else 0
        characters = own + sum(characters for _, _, characters in found)
        sizes[id(node)] = depth, values, characters
        if own > MAX_DIGITS and node.tag.rpartition(":")[2] in ("int", "float"):
            raise ConfigError(f"{where}, line {line}: a number of more than {MAX_DIGITS} digits.")
        bounds = (MAX_DEPTH, MAX_VALUES, MAX_CHARACTERS)
        words = ("values within values", "values", "characters")
        for size, most, what in zip(sizes[id(node)], bounds, words, strict=True):
            if size > most:
                raise ConfigError(
                    f"{where}, line {line}: it stands for {size} {what}, aliases (`*name`) written out; at most "
                    f"{most} are read."
                )
    return sizes[id(node)]


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return []


def _walk(
    loader: _Loader,
    node: yaml.Node,
    path: KeyPath,
    lines: dict[KeyPath, int],
    where: str,
) -> None:
    """Record the lines below a node; refuse duplicate keys."""
    if isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            lines[*path, position] = item.start_mark.line + 1
            _walk(loader, item, (*path, position), lines, where)
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
                _walk(loader, value_node, (*path, key), lines, where)
            else:
                _walk(loader, value_node, path, dict(lines), where)


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


class Dumper:
    """Writes mappings that agree in most entries, such as the configurations of a study's trials, each entry once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], str] = {}

    def dump(self, data: Mapping[str, Any]) -> str:
        """As `dump_yaml`.

        Args:
            data: plain data, whose `repr` tells all of it; at least one entry.
        """
        return "".join(self._entry(name, value) for name, value in data.items())

    def _entry(self, name: str, value: Any) -> str:
        key = name, repr(value)
        if (text := self._known.get(key)) is None:
            if len(self._known) >= ENTRIES:  # searched values hardly ever come again
                self._known.clear()
            text = self._known[key] = dump_yaml({name: value})
        return text
