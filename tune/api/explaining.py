"""What there is: methods, search spaces, and what a machine or a cluster has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces import SearchSpace, describe, load_space, space_names
from ssl_core import method_file
from ssl_core.parameters import Parameter, parameters_of
from ssl_core.registry import get_method, method_names
from ssl_core.system.errors import ConfigError
from tune.store.home import Home

if TYPE_CHECKING:
    from tune.cluster.doctor import Finding


@dataclass(frozen=True)
class MethodInfo:
    """A training method: its name, a sentence about it, its parameters, and sets of them by name.

    `parameters` are its own first, then those that every method has.
    """

    method: str
    summary: str
    parameters: tuple[Parameter, ...]
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def own(self) -> tuple[Parameter, ...]:
        """The parameters that this method alone has."""
        return tuple(p for p in self.parameters if not p.common)


def methods(name: str | None = None) -> list[MethodInfo]:
    """The training methods and their parameters.

    Args:
        name: one method; or ``file:PATH``, one of your own, whose file is run. None: all that come with the package.

    Raises:
        ConfigError: no such method; where it is the name of a parameter, says of which method.
    """
    if name is not None and not name.startswith(method_file.PREFIX) and name not in method_names():
        _say_whose(name)
    return [_info(each) for each in ([name] if name else method_names())]


def _info(name: str) -> MethodInfo:
    method = get_method(name)
    return MethodInfo(method.name, method.summary, tuple(parameters_of(method)), method.presets)


def _say_whose(name: str) -> None:
    """Where no method but parameters have a name, say which: `threshold` is `pseudo_label.threshold` and others."""
    found = [p for method in method_names() for p in _info(method).parameters]
    named = dict.fromkeys(p.name for p in found if name in (p.name, p.name.rpartition(".")[2]))
    if named:
        raise ConfigError(
            f"{name!r} is no method but a parameter: {', '.join(named)}. `ssl-tune methods METHOD` explains the "
            "parameters of a method."
        )


def spaces(method: str | None = None, *, wide: bool = False) -> list[SearchSpace]:
    """The search spaces: what is searched, in which range, and why.

    Args:
        method: one method's; or ``file:PATH``, the one beside a method of your own. None: all.
        wide: the wide variant instead of the default one.

    Raises:
        ConfigError: no such method, or no such variant.
    """
    return [load_space(each, "wide" if wide else None) for each in ([method] if method else space_names())]


def describe_space(space: SearchSpace) -> Mapping[str, Any]:
    """A space as plain data: what ``ssl-tune spaces --json`` prints of it."""
    return {
        "method": space.method,
        "source": space.source,
        "digest": space.digest(),
        "baseline": dict(space.baseline),
        "parameters": [
            {"name": p.name, "range": describe(p.distribution), "role": p.role, "why": p.why}
            for p in space.parameters
        ],
    }


def doctor(
    *, address: str | None = None, data_root: Path | str | None = None, home: Path | str | None = None
) -> list[Finding]:
    """What this machine, or a cluster, has for a search: each finding with its remedy.

    Args:
        address: of a Ray cluster, HOST:PORT or "auto"; None: this machine.
        data_root: where downloaded data lie; None: SSL_TUNE_DATA, else ./ssl-tune-data.
        home: the home folder; None: SSL_TUNE_HOME, else ./ssl-tune-home.

    Returns:
        Findings whose `verdict` is "good", "note" (works, but ...) or "bad" (a search will fail).

    Raises:
        ConfigError: `address` is none.
        ServiceError: nobody answers there, or the token is refused.
    """
    from tune.cluster.doctor import examine, examine_cluster  # loads torch or Ray when they look

    place = Home(home)
    if address is not None:
        return examine_cluster(address, place)
    return examine(place, None if data_root is None else Path(data_root))
