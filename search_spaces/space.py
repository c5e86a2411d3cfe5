"""Search spaces: read from YAML, checked against the configuration they are for, handed to Optuna.

A file has these keys (the files beside this module are meant to be copied)::

    method: pseudo_label          # the method it is for
    default:                      # what is searched
      pseudo_label.threshold:     # a parameter, named as in `--set`
        type: float               # float | int | categorical
        low: 0.5                  # both ends included; `log: true` or `step: S` if wanted
        high: 0.995               # categorical: `choices: [...]` instead
        role: scientific          # scientific | nuisance (the words of Google's tuning playbook)
        why: the reason of the range
    wide: {...}                   # optional; laid over `default`, whole entries by name
    fixed: {...}                  # optional notes on what is not searched: `name: text`
    baseline: {...}               # the point always tried first: a value for every parameter

The length of the warm-up is searched as `warmup_share` (of the run) or as `warmup_epochs`. Either way
`SearchSpace.resolve` gives `warmup_epochs`, always shorter than the run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, IntDistribution

from search_spaces.ranges import EPOCHS, SHARE, Parameter, bound, choices, holds, plain
from search_spaces.reader import VARIANTS, Reader
from search_spaces.yaml_text import load_document
from ssl_core.config import warmup_from_share
from ssl_core.errors import ConfigError, unknown
from ssl_core.methods import get_method


@dataclass(frozen=True)
class SearchSpace:
    """What a study searches.

    Attributes:
        method: the method it is for.
        source: ``pseudo_label (default)``, ``pseudo_label (wide)``, or the file's path.
        text: the YAML as it was read, for a study to keep its own copy.
        parameters: in the order of the file.
        baseline: the point always tried first, in the space's own names; see also `baseline_for`.
        variant: the section it was read from, "default" or "wide".
        fixed: notes on what is not searched, by name.
    """

    method: str
    source: str
    text: str
    parameters: tuple[Parameter, ...]
    baseline: Mapping[str, Any]
    variant: str
    fixed: Mapping[str, str] = field(default_factory=dict)

    def distributions(self, epochs: int) -> dict[str, BaseDistribution]:
        """What Optuna is asked for in a study of runs of `epochs` epochs.

        A range of `warmup_epochs` ends at epochs - 1, its choices lose those as long as the run.

        Raises:
            ConfigError: no length of the warm-up is shorter than the run.
        """
        return {p.name: bound(p, epochs, self.source) for p in self.parameters}

    def baseline_for(self, epochs: int) -> dict[str, Any]:
        """The baseline as a point within `distributions(epochs)`: its warm-up cut where that is cut."""
        distributions = self.distributions(epochs)
        point = dict(self.baseline)
        if EPOCHS in point and not holds(distributions[EPOCHS], point[EPOCHS]):
            cut = distributions[EPOCHS]
            point[EPOCHS] = cut.high if isinstance(cut, IntDistribution) else max(choices(cut))
        return point

    def resolve(self, values: Mapping[str, Any], epochs: int) -> dict[str, Any]:
        """Configuration overrides, dotted, of a point of this space in a run of `epochs` epochs.

        Args:
            values: a value for every parameter, in the space's own names.
            epochs: length of the run, warm-up included.

        Returns:
            The same values, with `warmup_share` replaced by the `warmup_epochs` that it comes to.

        Raises:
            ConfigError: a name that the space does not have, one that is missing, or a warm-up that is not
                shorter than the run.
        """
        names = [p.name for p in self.parameters]
        for name in values:
            if name not in names:
                raise unknown("searched parameter", name, names, where=self.source)
        overrides: dict[str, Any] = {}
        for name in names:
            if name not in values:
                raise ConfigError(f"{self.source}: {name} has no value. All of {', '.join(names)} need one.")
            if name == SHARE:
                overrides[EPOCHS] = warmup_from_share(values[name], epochs)
            elif name == EPOCHS and values[name] >= epochs:
                raise ConfigError(
                    f"{EPOCHS} = {values[name]}: must be shorter than the run of {epochs} epochs."
                )
            else:
                overrides[name] = values[name]
        return overrides

    def digest(self) -> str:
        """16 hexadecimal digits of a SHA-256 over what a search depends on: method, parameters in their
        order with their ranges, baseline. Comments, reasons, roles and the source's name do not count."""
        content = {
            "method": self.method,
            "parameters": [[p.name, plain(p.distribution)] for p in self.parameters],
            "baseline": {p.name: self.baseline[p.name] for p in self.parameters},
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def space_names() -> list[str]:
    """Methods that come with a search space, sorted."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.yaml"))


def load_space(method: str, choice: str | None = None) -> SearchSpace:
    """The search space of a method.

    Args:
        method: name of the method.
        choice: None or "default": the one that comes with the method; "wide": its wide variant; anything
            else: path of a YAML file, whose `default` section is searched.

    Raises:
        ConfigError: unknown method, no such space or file, or a file that is not a valid space.
    """
    name = get_method(method).name
    if choice is None or choice in VARIANTS:
        if name not in space_names():
            raise ConfigError(
                f"no search space comes with the method {name!r} (there are {', '.join(space_names())}). "
                "Write one, starting from a copy of one of these, and pass it as --space FILE."
            )
        variant = choice or "default"
        text = Path(__file__).with_name(f"{name}.yaml").read_text(encoding="utf-8")
        return _parse(text, f"{name}.yaml", method, variant, source=f"{name} ({variant})")
    accepted = "--space takes `default`, `wide` or the path of a YAML file"
    try:
        text = Path(choice).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"--space {choice}: there is no such file. {accepted}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--space {choice}: this is not a text file in UTF-8. {accepted}.") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"--space {choice}: cannot be read: {reason}. {accepted}.") from None
    return _parse(text, choice, method, "default", source=choice)


def parse_space(text: str, *, where: str, method: str, variant: str) -> SearchSpace:
    """A search space from YAML text, such as the copy that a study keeps.

    Args:
        text: the YAML.
        where: where it came from: the space's `source`, and named in messages.
        method: name of the method it must be for.
        variant: the section to search, "default" or "wide".

    Raises:
        ConfigError: not a valid space of this method; names file, line, key, value and what is accepted.
    """
    return _parse(text, where, method, variant, source=where)


def _parse(text: str, where: str, method: str, variant: str, *, source: str) -> SearchSpace:
    reader = Reader(load_document(text, where), method, get_method(method))
    reader.check_sections()
    if variant not in VARIANTS:
        raise unknown("variant of a search space", variant, VARIANTS, where=where)
    if variant not in reader.data:
        reader.fail((), f"there is no section `{variant}:`. Add one, or search `default`")
    # Every section is checked, whichever is searched: a copy should not break when another is chosen later.
    variants = {"default": reader.parameters("default")}
    if "wide" in reader.data:
        variants["wide"] = variants["default"] | reader.parameters("wide")
    for parameters in variants.values():
        reader.check_warmup(parameters)
    baselines = reader.baselines(variants)
    return SearchSpace(
        method=method,
        source=source,
        text=text,
        parameters=tuple(variants[variant].values()),
        baseline=baselines[variant],
        variant=variant,
        fixed=reader.notes(),
    )
