"""Points that a person names: `--points FILE`, a YAML list of configurations to try.

Each is tried as it is; the sampler chooses the parameters that it leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution

from search_spaces import SearchSpace, describe, load_yaml
from search_spaces.ranges import EPOCHS, SHARE, holds
from ssl_core.config import warmup_from_share
from ssl_core.system.errors import ConfigError, counted, unknown


def read_points(path: Path) -> list[Mapping[str, Any]]:
    """The list of points in a YAML file.

    Raises:
        ConfigError: a file that cannot be read, or that is no list of points.
    """
    from tune.definition.inputs import read_text

    if not path.is_file():
        raise ConfigError(f"--points {path}: there is no such file.")
    document = load_yaml(read_text(path, "--points"), str(path))
    if not isinstance(document, list):
        raise ConfigError(f"{path}: a list of points is expected, such as `- {{lr: 0.03}}`.")
    return document


def check_points(
    points: Sequence[Any], space: SearchSpace, epochs: int, where: str
) -> tuple[dict[str, Any], ...]:
    """Points in the space's own names, each value within its range.

    A length of the warm-up may be given in epochs also where its share is searched, as `trials` shows it.

    Raises:
        ConfigError: a name that is not searched, or a value out of its range.
    """
    distributions = space.distributions(epochs)
    checked = []
    for number, point in enumerate(points, start=1):
        place = f"{where}: point {number}"
        if not isinstance(point, Mapping) or not point:
            raise ConfigError(f"{place} = {point!r}: a mapping of searched parameters is expected.")
        values = dict(point)
        if SHARE in distributions and EPOCHS in values and SHARE not in values:
            values[SHARE] = _share(values.pop(EPOCHS), distributions[SHARE], epochs, place)
        for name, value in values.items():
            if name not in distributions:
                raise unknown("searched parameter", str(name), list(distributions), where=place)
            if not holds(distributions[name], value):
                raise ConfigError(
                    f"{place}: {name} = {value!r}: {describe(distributions[name])} is searched."
                )
        checked.append({n: _typed(values[n], d) for n, d in distributions.items() if n in values})
    return tuple(checked)


def _typed(value: Any, distribution: BaseDistribution) -> Any:
    return float(value) if isinstance(distribution, FloatDistribution) else value


def _share(warmup: Any, distribution: BaseDistribution, epochs: int, place: str) -> float:
    """The share of a run that comes to this many epochs of warm-up."""
    if isinstance(warmup, int) and not isinstance(warmup, bool):
        low, high = getattr(distribution, "low", 0.0), getattr(distribution, "high", 1.0)
        share = min(max(warmup / epochs, low), high)
        if warmup_from_share(share, epochs) == warmup:
            return float(share)
    raise ConfigError(
        f"{place}: {EPOCHS} = {warmup!r}: {SHARE} from {describe(distribution)} is searched, in runs of "
        f"{counted(epochs, 'epoch')}."
    )
