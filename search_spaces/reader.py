"""The checks of a search space's file. Every error names the line, the value and what is accepted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NoReturn

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search_spaces.ranges import EPOCHS, RANGE_KEYS, SHARE, Parameter, describe, holds, is_number
from search_spaces.yaml_text import Document, KeyPath
from ssl_core.config import from_document, parameter_names
from ssl_core.methods.base import AnyMethod
from ssl_core.registry import method_names
from ssl_core.system.errors import ConfigError, unknown

VARIANTS = ("default", "wide")
SEARCHABLE = frozenset(
    {
        *("lr", "momentum", "weight_decay", "ema_decay", "bn_momentum", "batch_size", "mu", EPOCHS, SHARE),
        *("optimizer", "schedule", "clip_norm", "head_epochs", "backbone.lr_scale", "augment.probability"),
    }
)
"""Common fields that a space may name. Trials are comparable, and share their warm-ups, because everything
else (data, split, seed, network, budget, machine) is the same in all trials of a study."""

_ROLES = ("scientific", "nuisance")
_SECTIONS = ("method", *VARIANTS, "fixed", "baseline")
_ENTRY_KEYS = {
    "float": ("type", *RANGE_KEYS, "role", "why"),
    "int": ("type", *RANGE_KEYS, "role", "why"),
    "categorical": ("type", "choices", "role", "why"),
}


@dataclass(frozen=True)
class Reader:
    """Checks of one document; every error names the line."""

    document: Document
    method: AnyMethod

    @property
    def data(self) -> Any:
        """The document as plain data."""
        return self.document.data

    def fail(self, path: KeyPath, message: str) -> NoReturn:
        """Raise a ConfigError that names the file and line of a key."""
        raise ConfigError(f"{self.document.place(path)}: {message}.")

    def section(self, *path: str) -> Mapping[str, Any]:
        """A mapping with text as keys; an empty one where the section is absent or empty."""
        value = self.data
        for key in path:
            value = value.get(key)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            name = ".".join(path) or "the file"
            self.fail(path, f"{name} = {_short(value)}: a section of `name: value` pairs is expected")
        for key in value:
            if not isinstance(key, str):
                self.fail(
                    (*path, key), f"the key {key!r} is not text. Put it in quotes if it is meant as text"
                )
        return value

    def check_sections(self) -> None:
        """Refuse unknown sections, a file for another method, and one that searches nothing."""
        top = self.section()
        for key in top:
            if key not in _SECTIONS:
                raise unknown("key", key, _SECTIONS, where=self.document.place((key,)))
        written_for = top.get("method")
        if written_for is None:
            self.fail((), f"`method:` is missing. Write `method: {self.method.name}`")
        if written_for != self.method.name:
            self.fail(
                ("method",),
                f"method = {_short(written_for)}: the file is for this method, but the study is of "
                f"{self.method.name!r}. Take another file, or another method",
            )
        if not self.section("default"):
            self.fail(("default",), "`default:` names no parameter to search. Add at least one")

    def notes(self) -> dict[str, str]:
        """The `fixed` section: notes on parameters that are not searched."""
        known = parameter_names(self.method)
        notes = self.section("fixed")
        for name in notes:
            if name not in known:
                raise unknown("parameter", name, known, where=self.document.place(("fixed", name)))
        return {name: note if isinstance(note, str) else _short(note) for name, note in notes.items()}

    def parameters(self, section: str) -> dict[str, Parameter]:
        """The entries of `default` or `wide`, by name."""
        return {name: self.parameter(section, name) for name in self.section(section)}

    def parameter(self, section: str, name: str) -> Parameter:
        """One entry: its distribution, its role and the reason of its range."""
        path = (section, name)
        self.check_name(name, path)
        entry = self.section(section, name)
        kind = self.one_of(entry, path, "type", tuple(_ENTRY_KEYS))
        for key in entry:
            if key not in _ENTRY_KEYS[kind]:
                place = self.document.place((*path, key))
                raise unknown(f"key of {name} ({kind})", key, _ENTRY_KEYS[kind], where=place)
        role = self.one_of(entry, path, "role", _ROLES)
        why = entry.get("why")
        if not isinstance(why, str) or not why.strip():
            self.fail((*path, "why"), f"{name}.why is missing: say in a sentence where the range comes from")
        distribution = (
            self.categorical(entry, path) if kind == "categorical" else self.interval(entry, path, kind)
        )
        return Parameter(name=name, distribution=distribution, role=role, why=why.strip())

    def check_name(self, name: str, path: tuple[str, ...]) -> None:
        """Refuse a name that is no parameter of the method, or whose value must be the same in all trials."""
        own = {known for known in parameter_names(self.method) if known.startswith(f"{self.method.name}.")}
        if name in own | SEARCHABLE:
            return
        if name in parameter_names(self.method) | {"method"}:
            self.fail(
                path,
                f"{name} cannot be searched: it must be the same in all trials of a study, so that they can be "
                f"compared. Set it for the whole study instead. "
                f"What can be searched: {', '.join(sorted(own | SEARCHABLE))}",
            )
        other = name.partition(".")[0]
        if "." in name and other != self.method.name and other in method_names():
            self.fail(path, f"{name} is a parameter of the method {other!r}, not of {self.method.name!r}")
        raise unknown("parameter", name, own | SEARCHABLE, where=self.document.place(path))

    def one_of(self, entry: Mapping[str, Any], path: tuple[str, ...], key: str, known: Sequence[str]) -> Any:
        """A required key whose value is one of the `known` words."""
        value = entry.get(key)
        if value is None:
            self.fail(path, f"{path[-1]}.{key} is missing. Accepted: {', '.join(known)}")
        if value not in known:
            raise unknown(f"{path[-1]}.{key}", str(value), known, where=self.document.place((*path, key)))
        return value

    def categorical(self, entry: Mapping[str, Any], path: tuple[str, ...]) -> CategoricalDistribution:
        """`choices`: different plain values that the configuration takes."""
        choices = entry.get("choices")
        at = (*path, "choices")
        label = f"{path[-1]}.choices"
        if not isinstance(choices, list) or not choices:
            self.fail(at, f"{label} = {_short(choices)}: a list of at least one value is expected")
        for position, choice in enumerate(choices):
            if choice is not None and not isinstance(choice, bool | int | float | str):
                self.fail(
                    (*at, position), f"{label}: {_short(choice)} is neither text, number, true nor false"
                )
            if choice in choices[:position]:
                self.fail((*at, position), f"{label}: {_short(choice)} stands twice")
            self.check_value(path[-1], choice, (*at, position))
        return CategoricalDistribution(choices)

    def interval(
        self, entry: Mapping[str, Any], path: tuple[str, ...], kind: str
    ) -> FloatDistribution | IntDistribution:
        """`low`, `high` (both included) and `log` or `step`; the configuration must accept both ends."""
        name = path[-1]
        low, high = (self.number(entry, path, key, kind) for key in ("low", "high"))
        log = entry.get("log", False)
        if not isinstance(log, bool):
            self.fail((*path, "log"), f"{name}.log = {_short(log)}: true or false is expected")
        if low > high:
            self.fail((*path, "low"), f"{name}.low = {low}: must not be above high, which is {high}")
        if log and low <= 0:
            self.fail((*path, "low"), f"{name}.low = {low}: must be above 0 on a log scale")
        for key, end in (("low", low), ("high", high)):
            self.check_value(name, end, (*path, key))
        step = self.number(entry, path, "step", kind) if entry.get("step") is not None else None
        if step is not None:
            at = (*path, "step")
            if log:
                self.fail(at, f"{name}.step = {step}: not together with `log: true`. Remove one of the two")
            if step <= 0:
                self.fail(at, f"{name}.step = {step}: must be above 0")
            # In decimal digits as they were written: 0.3 is not a multiple of 0.1 in binary.
            steps = (Fraction(str(high)) - Fraction(str(low))) / Fraction(str(step))
            if steps.denominator != 1:
                self.fail(at, f"{name}.step = {step}: high = {high} is no whole number of steps above {low}")
        if kind == "int":
            return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
        return FloatDistribution(float(low), float(high), log=log, step=step)

    def number(self, entry: Mapping[str, Any], path: tuple[str, ...], key: str, kind: str) -> int | float:
        """A required number; a whole one for type int."""
        value = entry.get(key)
        label = f"{path[-1]}.{key}"
        if value is None:
            self.fail(path, f"{label} is missing: a parameter of type {kind} needs one")
        if not is_number(value):
            self.fail((*path, key), f"{label} = {_short(value)}: a number is expected")
        if kind == "int" and not isinstance(value, int):
            self.fail((*path, key), f"{label} = {value}: a whole number is expected, the type is int")
        return value if kind == "int" else float(value)

    def check_value(self, name: str, value: Any, path: KeyPath) -> None:
        """Refuse a value that the configuration would refuse."""
        if name == SHARE:
            if not is_number(value) or not 0 < value < 1:
                self.fail(
                    path,
                    f"{SHARE} = {_short(value)}: a share of the run is expected, above 0 and below 1 "
                    f"(to include runs without a warm-up, search {EPOCHS} from 0)",
                )
            return
        if name == EPOCHS and value is None:
            self.fail(path, f"{EPOCHS} = null: a whole number of epochs is expected")
        from_document(_document(self.method, {name: value}), where=self.document.place(path))

    def check_warmup(self, parameters: Mapping[str, Parameter]) -> None:
        """Refuse a space that searches the warm-up's length both in epochs and as a share."""
        if SHARE in parameters and EPOCHS in parameters:
            section = "wide" if SHARE in self.section("wide") or EPOCHS in self.section("wide") else "default"
            name = EPOCHS if EPOCHS in self.section(section) else SHARE
            self.fail(
                (section, name),
                f"{SHARE} and {EPOCHS} are both searched, but they set the same thing. Remove one of the two",
            )

    def baselines(self, variants: Mapping[str, Mapping[str, Parameter]]) -> dict[str, dict[str, Any]]:
        """The baseline of each variant: a value for each of its parameters, within its range."""
        given = self.section("baseline")
        known = {name for parameters in variants.values() for name in parameters}
        for name in given:
            if name not in known:
                raise unknown(
                    "searched parameter", name, known, where=self.document.place(("baseline", name))
                )
        result: dict[str, dict[str, Any]] = {}
        for variant, parameters in variants.items():
            point: dict[str, Any] = {}
            for name, parameter in parameters.items():
                if name not in given:
                    self.fail(
                        ("baseline",),
                        f"baseline.{name} is missing: the point tried first needs a value for each "
                        f"parameter of `{variant}:`",
                    )
                distribution = parameter.distribution
                if not holds(distribution, given[name]):
                    self.fail(
                        ("baseline", name),
                        f"baseline.{name} = {_short(given[name])}: outside of the space, `{variant}:` has "
                        f"{describe(distribution)}",
                    )
                is_float = isinstance(distribution, FloatDistribution)
                point[name] = float(given[name]) if is_float else given[name]
            values = {name: value for name, value in point.items() if name != SHARE}
            from_document(_document(self.method, values), where=self.document.place(("baseline",)))
            result[variant] = point
        return result


def _document(method: AnyMethod, values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration document from dotted names; the method's own parameters go into its section."""
    document: dict[str, Any] = {"method": method.name, "method_digest": method.digest}
    section: dict[str, Any] = {}
    for name, value in values.items():
        owner, dot, rest = name.partition(".")
        if dot and owner == method.name:
            section[rest] = value
        elif dot:
            document.setdefault(owner, {})[rest] = value
        else:
            document[name] = value
    return document | ({method.name: section} if section else {})


def _short(value: Any) -> str:
    """A value as text for a message, at most 60 characters."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
