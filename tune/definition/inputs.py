"""What people type (assignments, durations, files of text), as values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from search_spaces import load_yaml, read_yaml_text
from ssl_core.config import parameter_names
from ssl_core.registry import get_method
from ssl_core.system.errors import ConfigError, unknown


def with_overrides(document: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration document with some dotted names set: ``{"vat.eps": 4}`` sets eps in the section vat."""
    result = {k: dict(v) if isinstance(v, dict) else v for k, v in document.items()}
    for name, value in overrides.items():
        place = result
        *sections, key = name.split(".")
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    return result


def parse_sets(assignments: Sequence[str], method: str, digest: str | None = None) -> dict[str, Any]:
    """``["vat.eps=4", "lr=1e-2"]`` as dotted names and values, for a method as `get_method` takes it.

    Raises:
        ConfigError: an assignment without "=", or a name that the method does not have.
    """
    result = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment!r}: write it as name=value, for example --set lr=0.01.")
        check_names([name], method, "--set", digest)
        result[name] = load_yaml(text, f"--set {assignment!r}")
    return result


def preset_of(name: str, method: str, digest: str | None = None) -> dict[str, Any]:
    """The parameters of a method's preset by dotted name; the method as `get_method` takes it.

    Raises:
        ConfigError: the method has none of this name; says which it has.
    """
    chosen = get_method(method, digest)
    if name not in chosen.presets:
        there = ", ".join(chosen.presets) or "none"
        raise ConfigError(
            f"--preset {name}: the method {chosen.name!r} has no preset of this name (it has: {there}). Leave "
            "--preset out, or set the parameters with --set."
        )
    return {f"{chosen.name}.{key}": value for key, value in chosen.presets[name].items()}


def check_names(names: Iterable[str], method: str, where: str, digest: str | None = None) -> None:
    """Refuse dotted names that a method, as `get_method` takes it, does not have; `where` is named in the message.

    Raises:
        ConfigError: names the nearest known one.
    """
    known = parameter_names(get_method(method, digest))
    for name in names:
        if name not in known:
            raise unknown("parameter", name, known, where=where)


def read_text(path: Path, option: str) -> str:
    """The text of a file that an option names.

    Raises:
        ConfigError: a file that is no text, is too long for YAML, or cannot be read.
    """
    try:
        return read_yaml_text(path)
    except UnicodeDecodeError:
        raise ConfigError(
            f"{option} {path}: this is not a text file in UTF-8. A YAML file is expected."
        ) from None
    except OSError as error:
        raise ConfigError(f"{option} {path}: cannot be read: {error.strerror}.") from None


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DURATION = r"\d+(\.\d+)?|(\d+(\.\d+)?[smhd])+"
"""The text of a duration, as a regular expression."""


def parse_duration(text: str, option: str) -> float:
    """Seconds of ``90``, ``90s``, ``15m``, ``2h`` or ``1h30m``.

    Raises:
        ConfigError: anything else.
    """
    if re.fullmatch(DURATION, text):
        parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", text)
        return sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)
    raise ConfigError(f"{option} {text!r}: write a time such as 90s, 15m, 2h or 1h30m.")


SIZE = r"\d+(\.\d+)?\s*([kKmMgGtT]([iI]?[bB])?|[bB])?"
"""The text of a size, as a regular expression."""


def parse_size(text: str, option: str) -> int:
    """Bytes of ``500M``, ``20G`` or ``20 GB``, of ``2GiB`` 2 * 2**30.

    Raises:
        ConfigError: anything else.
    """
    found = re.fullmatch(SIZE, text.strip())
    if found is None:
        raise ConfigError(f"{option} {text!r}: write a size such as 500M, 20G or 2GiB.")
    unit = (found[2] or "").lower()
    number = float(found[0].rstrip("kKmMgGtTiIbB \t"))
    base = 1024 if "i" in unit else 1000
    power = "bkmgt".index(unit[0]) if unit else 0
    return round(number * float(base**power))


_KINDS = ("folder:", "table:")


def place_of(dataset: str) -> Path | None:
    """The folder of ``folder:PATH``, the file of ``table:FILE``; None for a data set that is known by name."""
    for kind in _KINDS:
        if dataset.startswith(kind):
            return Path(dataset.removeprefix(kind))
    return None


def with_absolute_place(dataset: str) -> str:
    """The same data set whatever the working directory is: its place is absolute, and "~" expanded."""
    place = place_of(dataset)
    return dataset if place is None else f"{_kind(dataset)}{place.expanduser().resolve()}"


def without_place(dataset: str) -> str:
    """For a page that leaves the machine: only the last part of the path is shown."""
    place = place_of(dataset)
    return dataset if place is None else f"{_kind(dataset)}.../{place.name}"


def shared_folder(dataset: str) -> Path | None:
    """The folder that every machine of a cluster has to see; of a table the one it lies in, as its images do."""
    place = place_of(dataset)
    return place.parent if place is not None and dataset.startswith("table:") else place


def _kind(dataset: str) -> str:
    return dataset[: dataset.index(":") + 1]
