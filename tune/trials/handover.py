"""What a search begins with besides the baseline: points that a person names, and the trials of an earlier study.

`--points FILE` is a YAML list of points; each is tried as it is, what it leaves out the sampler fills in.
`--warm-start NAME` puts the ended trials of an earlier study of the same method and space first, told as they
were, so that the sampler starts from what they taught. The study keeps its own copy of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from search_spaces import SearchSpace, describe, load_yaml
from search_spaces.ranges import EPOCHS, SHARE, holds
from ssl_core.config import warmup_from_share
from ssl_core.system.errors import ConfigError, unknown
from ssl_core.system.files import write_atomically

if TYPE_CHECKING:
    from tune.definition.spec import StudySpec
    from tune.store.study_folder import StudyFolder

FILE_NAME = "warm-start.json"
TAKEN_OVER = "taken_over"
"""Attribute of a trial that another study ran: which one."""


def is_taken_over(trial: FrozenTrial) -> bool:
    """Whether an earlier study ran this trial."""
    return TAKEN_OVER in trial.user_attrs


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
        f"{epochs} epochs."
    )


def check_warm_start(spec: StudySpec, earlier: StudySpec) -> list[str]:
    """What a person should know before trials of this earlier study are taken over: settings that differ.

    Raises:
        ConfigError: a study of another method or space: its trials say nothing about this one's parameters.
    """
    option = f"--warm-start {earlier.name}"
    if earlier.config["method"] != spec.config["method"]:
        raise ConfigError(
            f"{option}: that study is of the method {earlier.config['method']}, this one of "
            f"{spec.config['method']}. Name a study of the same method and space."
        )
    ranges = [s.search_space().distributions(s.config["epochs"]) for s in (spec, earlier)]
    for name in sorted(ranges[0].keys() | ranges[1].keys()):
        if ranges[0].get(name) != ranges[1].get(name):
            said = [describe(r[name]) if name in r else "not searched" for r in ranges]
            raise ConfigError(
                f"{option}: another space: {name} is {said[1]} there, {said[0]} here. Name a study of the same "
                "space, or take its best points with --points."
            )
    names = ("dataset", "labels", "network", "epochs", "steps_per_epoch")
    return [
        f"{option}: {name} was {earlier.config[name]} there and is {spec.config[name]} here; errors of the two "
        "studies may not compare"
        for name in names
        if earlier.config[name] != spec.config[name]
    ]


def keep_warm_trials(folder: StudyFolder, spec: StudySpec) -> None:
    """Copy the earlier study's ended trials into the study's folder."""
    from tune.store.study_folder import StudyFolder
    from tune.trials.study_trials import ended_trials

    assert spec.warm_start is not None
    earlier = StudyFolder(folder.path.parent / spec.warm_start)
    rows = [
        {
            "from": f"{spec.warm_start}/{trial.number}",
            "state": trial.state.name,
            "value": trial.value,
            "params": trial.params,
            "last": max(trial.intermediate_values.items(), default=None),
            "constraints": trial.constraints,
            "stop_reason": trial.user_attrs.get("stop_reason"),
        }
        for trial in ended_trials(earlier)
    ]
    write_atomically(folder.path / FILE_NAME, json.dumps(rows, indent=1).encode())


def warm_trials(
    folder: StudyFolder, spec: StudySpec, distributions: Mapping[str, BaseDistribution]
) -> list[FrozenTrial]:
    """The trials that a study takes over, as its storage is to have them."""
    path = folder.path / FILE_NAME
    if not path.exists():  # a driver died before it copied them
        keep_warm_trials(folder, spec)
    trials = []
    for row in json.loads(path.read_text()):
        trial = create_trial(
            state=TrialState[row["state"]],
            value=row["value"],
            params=row["params"],
            distributions=dict(distributions),
            user_attrs={TAKEN_OVER: row["from"], "stop_reason": row["stop_reason"]},
            intermediate_values={} if row["last"] is None else dict([row["last"]]),
        )
        for name, value in row["constraints"].items():
            trial.set_constraint(name, value)
        trials.append(trial)
    return trials
