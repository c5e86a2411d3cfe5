"""What a search begins with besides the baseline: points that a person names, and the trials of an earlier study.

`--points FILE` is a YAML list of points; each is tried as it is, what it leaves out the sampler fills in.
`--warm-start NAME` puts the ended trials of an earlier study of the same method first, told as they were, so that the
sampler starts from what they taught: those that lie inside of the new ranges. A parameter that the earlier study did
not search has the value that was fixed there. The study keeps its own copy of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from search_spaces.ranges import EPOCHS, SHARE
from ssl_core.system.errors import ConfigError, counted
from ssl_core.system.files import write_atomically
from tune.definition.inputs import with_overrides
from tune.definition.points import check_points
from tune.store.integrity import read_json
from tune.store.layout import WARM_START_FILE
from tune.trials.record import TAKEN_OVER

if TYPE_CHECKING:
    from tune.definition.spec import StudySpec
    from tune.store.study_folder import StudyFolder


def check_warm_start(spec: StudySpec, earlier: StudySpec) -> list[str]:
    """What a person should know before trials of this earlier study are taken over: settings that differ.

    Raises:
        ConfigError: a study of another method or objective: its trials say nothing about this one's parameters.
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
    names = ("dataset", "labels", "network", "epochs", "steps_per_epoch")
    told = [
        f"{option}: {name} was {earlier.config[name]} there and is {spec.config[name]} here; errors of the two "
        "studies may not compare"
        for name in names
        if earlier.config[name] != spec.config[name]
    ]
    if earlier.folds != spec.folds:
        told.append(
            f"{option}: a trial's value was the mean over {counted(earlier.folds, 'fold')} there and is over "
            f"{spec.folds} here"
        )
    here = {p.name for p in spec.search_space().parameters}
    fixed = [p.name for p in earlier.search_space().parameters if p.name not in here | {SHARE, EPOCHS}]
    return told + [
        f"{option}: {name} was searched there and is fixed here; its trials are taken over whatever they had"
        for name in fixed
    ]


def overlap(
    spec: StudySpec, earlier: StudySpec, trials: Sequence[FrozenTrial]
) -> list[tuple[FrozenTrial, dict[str, Any]]]:
    """The trials of an earlier study that lie in a study's space, each with its values there.

    Args:
        spec: the study.
        earlier: the study that ran the trials.
        trials: its ended ones.

    Raises:
        ConfigError: there are trials, and none lies in it; says why the first does not.
    """
    found, problem = [], None
    for trial in trials:
        try:
            found.append((trial, _values_here(spec, earlier, trial)))
        except ConfigError as error:
            problem = problem or error
    if problem is not None and not found:
        raise ConfigError(
            f"--warm-start {earlier.name}: none of its {counted(len(trials), 'trial')} lies in the space that is "
            f"searched here: {problem} Widen the space, or take its best points with --points."
        )
    return found


def _values_here(spec: StudySpec, earlier: StudySpec, trial: FrozenTrial) -> dict[str, Any]:
    """A trial's values of the parameters that a study searches.

    Raises:
        ConfigError: one is unknown, or out of its range.
    """
    space, epochs = spec.search_space(), spec.config["epochs"]
    overrides = earlier.search_space().resolve(trial.params, earlier.config["epochs"])
    document = with_overrides(earlier.config, overrides)
    point: dict[str, Any] = {}
    for name in space.distributions(epochs):
        if name in trial.params:
            point[name] = trial.params[name]
            continue
        name = EPOCHS if name == SHARE else name
        section, dot, key = name.partition(".")
        point[name] = (document.get(section) or {}).get(key) if dot else document.get(name)
    return check_points([point], space, epochs, f"trial {trial.number}")[0]


def keep_warm_trials(folder: StudyFolder, spec: StudySpec) -> str:
    """Copy the earlier study's ended trials that lie in the space into the study's folder; says how many those are.

    Raises:
        ConfigError: there are some, and none lies in it.
    """
    from tune.store.specification import read_spec
    from tune.store.study_folder import StudyFolder
    from tune.trials.reading import ended_trials

    assert spec.warm_start is not None
    earlier = StudyFolder(folder.path.parent / spec.warm_start)
    trials = ended_trials(earlier)
    kept = overlap(spec, read_spec(earlier.path), trials)
    rows = [
        {
            "from": f"{spec.warm_start}/{trial.number}",
            "state": trial.state.name,
            "value": trial.value,
            "params": params,
            "last": max(trial.intermediate_values.items(), default=None),
            "constraints": trial.constraints,
            "stop_reason": trial.user_attrs.get("stop_reason"),
        }
        for trial, params in kept
    ]
    write_atomically(folder.path / WARM_START_FILE, json.dumps(rows, indent=1).encode())
    many = f"{len(rows)} of {len(trials)}" if len(rows) < len(trials) else f"all {len(rows)}"
    return f"taken over from {spec.warm_start}: {many} ended trials"


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
