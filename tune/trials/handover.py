"""What a search begins with besides the baseline: points that a person names, and the trials of an earlier study.

`--points FILE` is a YAML list of points; each is tried as it is, what it leaves out the sampler fills in.
`--warm-start NAME` puts the ended trials of an earlier study of the same method and space first, told as they
were, so that the sampler starts from what they taught. The study keeps its own copy of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from search_spaces import describe
from ssl_core.system.errors import ConfigError
from ssl_core.system.files import write_atomically
from tune.store.integrity import read_json
from tune.store.layout import WARM_START_FILE
from tune.trials.record import TAKEN_OVER

if TYPE_CHECKING:
    from tune.definition.spec import StudySpec
    from tune.store.study_folder import StudyFolder


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
    if earlier.objective != spec.objective:
        raise ConfigError(
            f"{option}: that study's objective is {earlier.objective}, this one's {spec.objective}: its values say "
            f"nothing here. Add --objective {earlier.objective}, or take its best points with --points."
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
    from tune.trials.reading import ended_trials

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
    write_atomically(folder.path / WARM_START_FILE, json.dumps(rows, indent=1).encode())


def warm_trials(
    folder: StudyFolder, spec: StudySpec, distributions: Mapping[str, BaseDistribution]
) -> list[FrozenTrial]:
    """The trials that a study takes over, as its storage is to have them."""
    path = folder.path / WARM_START_FILE
    if not path.exists():  # a driver died before it copied them
        keep_warm_trials(folder, spec)
    trials = []
    for row in read_json(path):
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
