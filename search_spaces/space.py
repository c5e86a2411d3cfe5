"""Search spaces: read from YAML, checked against the method's configuration, turned into Optuna's distributions.

A file has these keys (docs/search-spaces.md explains them; the files of this package can be copied)::

    method: pseudo_label          # the method it is for
    default:                      # what is searched
      pseudo_label.threshold:     # a parameter, named as in `--set`
        type: float               # float | int | categorical
        low: 0.5                  # both ends included; `log: true` or `step: S` if wanted
        high: 0.995               # categorical: `choices: [...]` instead
        role: scientific          # scientific | nuisance (the words of Google's tuning playbook)
        why: the reason of the range
    wide: {...}                   # optional; added to `default`, replacing entries of the same name
    fixed: {...}                  # optional notes on what is not searched: `name: text`
    baseline: {...}               # the point always tried first: a value for every parameter

The length of the warm-up is searched as `warmup_share` (of the run) or as `warmup_epochs`. In both cases
`SearchSpace.resolve` returns `warmup_epochs`, always shorter than the run.
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
from search_spaces.yaml_text import load_document, read_yaml_text
from ssl_core import method_file
from ssl_core.config import parameter_names, warmup_from_share
from ssl_core.methods.base import AnyMethod
from ssl_core.registry import get_method
from ssl_core.system.errors import ConfigError, unknown


@dataclass(frozen=True)
class SearchSpace:
    """What a study searches.

    Attributes:
        method: the method it is for.
        source: ``pseudo_label (default)``, ``pseudo_label (wide)``, or the file's path.
        text: the YAML as it was read; a study keeps a copy.
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
        """The distributions that Optuna samples in a study of runs of `epochs` epochs.

        A range of `warmup_epochs` ends at epochs - 1; of its choices, those shorter than the run remain.

        Raises:
            ConfigError: no length of the warm-up is shorter than the run.
        """
        return {p.name: bound(p, epochs, self.source) for p in self.parameters}

    def baseline_for(self, epochs: int) -> dict[str, Any]:
        """The baseline as a point within `distributions(epochs)`: its warm-up is shortened where the range is."""
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
            The same values, with `warmup_share` replaced by `warmup_epochs`.

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
        method: name of the method, or ``file:PATH`` of one's own: its space lies beside it, as ``.yaml``.
        choice: None or "default": the one that comes with the method; "wide": its wide variant; anything
            else: path of a YAML file, whose `default` section is searched.

    Raises:
        ConfigError: unknown method, no such space or file, or a file that is not a valid space.
    """
    found = get_method(method)
    if choice is None or choice in VARIANTS:
        variant = choice or "default"
        if found.digest is not None:
            path = method_file.path_of(method).with_suffix(".yaml")
            text = _read(path, f"the search space of {found.name!r},", _how_to_write(found))
            return _parse(text, str(path), found, variant, source=f"{path} ({variant})")
        if found.name not in space_names():
            raise ConfigError(
                f"no search space comes with the method {found.name!r} (there are {', '.join(space_names())}). "
                "Write one, starting from a copy of one of these, and pass it as --space FILE."
            )
        text = Path(__file__).with_name(f"{found.name}.yaml").read_text(encoding="utf-8")
        return _parse(text, f"{found.name}.yaml", found, variant, source=f"{found.name} ({variant})")
    text = _read(Path(choice), "--space", "--space takes `default`, `wide` or the path of a YAML file.")
    return _parse(text, choice, found, "default", source=choice)


def _read(path: Path, what: str, remedy: str) -> str:
    try:
        return read_yaml_text(path)
    except ConfigError:
        raise
    except FileNotFoundError:
        problem = "there is no such file"
    except UnicodeDecodeError:
        problem = "this is not a text file in UTF-8"
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        problem = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    raise ConfigError(f"{what} {path}: {problem}. {remedy}")


def _how_to_write(method: AnyMethod) -> str:
    """What a space for this method has to contain, as advice to its author."""
    own = ", ".join(sorted(n for n in parameter_names(method) if n.startswith(f"{method.name}.")))
    return (
        f"Write it: `method: {method.name}`; `default:` with a range (type, low, high, role, why) for each parameter "
        f"to search (its own: {own or 'none'}; also lr, warmup_share, ...); `baseline:` with a value for each, which "
        "is tried first. `ssl-tune spaces` shows those of the package. Or name another file with --space."
    )


def parse_space(
    text: str, *, where: str, method: str, variant: str, digest: str | None = None
) -> SearchSpace:
    """A search space from YAML text, such as the copy that a study keeps.

    Args:
        text: the YAML.
        where: where it came from: the space's `source`, and named in messages.
        method: name of the method it must be for.
        variant: the section to search, "default" or "wide".
        digest: of the file that the method was loaded from, if it does not come with the package.

    Raises:
        ConfigError: not a valid space of this method; names file, line, key, value and what is accepted.
    """
    return _parse(text, where, get_method(method, digest), variant, source=where)


def _parse(text: str, where: str, method: AnyMethod, variant: str, *, source: str) -> SearchSpace:
    reader = Reader(load_document(text, where), method)
    reader.check_sections()
    if variant not in VARIANTS:
        raise unknown("variant of a search space", variant, VARIANTS, where=where)
    if variant not in reader.data:
        reader.fail((), f"there is no section `{variant}:`. Add one, or search `default`")
    # Every section is checked, whichever is searched, so that the other one can be chosen later.
    variants = {"default": reader.parameters("default")}
    if "wide" in reader.data:
        variants["wide"] = variants["default"] | reader.parameters("wide")
    for parameters in variants.values():
        reader.check_warmup(parameters)
    baselines = reader.baselines(variants)
    return SearchSpace(
        method=method.name,
        source=source,
        text=text,
        parameters=tuple(variants[variant].values()),
        baseline=baselines[variant],
        variant=variant,
        fixed=reader.notes(),
    )
