"""What can be asked of a study: checked by the command that asks, and again by the driver that carries it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssl_core.system.errors import ConfigError, counted
from tune.definition.coherence import check_sampler
from tune.definition.points import check_points
from tune.definition.spec import StudySpec
from tune.store.event_log import EventLog
from tune.trials.grid import finer_grid
from tune.trials.record import TrialRecord
from tune.trials.sampling import startup_trials

BUDGETS = {"time_budget": "s", "epochs_budget": "epochs", "gpu_hours": "GPU hours"}
"""The budgets of a study, and their units."""
RETRIED = ("error", "oom")
"""Why a trial failed that is tried again; one that diverged would diverge again, to the same bits."""
_SHOWN = 20


@dataclass(frozen=True)
class Spent:
    """What a study has taken so far, in the units of its budgets."""

    time_budget: float
    epochs_budget: int
    gpu_hours: float


def spent(spec: StudySpec, records: Sequence[TrialRecord], log: EventLog | None) -> Spent:
    """What a study has taken so far: the time from its event log, the rest from its trials."""
    elapsed = float((None if log is None else log.get_meta("elapsed")) or 0)
    hours = sum(r.seconds for r in records) * spec.gpus_per_trial / 3600
    return Spent(elapsed, sum(r.epoch for r in records), hours)


def grown(
    spec: StudySpec, content: Mapping[str, Any], records: Sequence[TrialRecord], cost: Spent
) -> StudySpec:
    """A study's specification with another total or other budgets.

    What an earlier version derived from the total stays what it was.

    Args:
        spec: the study.
        content: some of trials, time_budget (seconds), epochs_budget, gpu_hours, patience.
        records: its trials.
        cost: what it has taken so far.

    Raises:
        ConfigError: fewer trials than there are, more than a Gaussian process takes, or a budget that is spent already.
    """
    update: dict[str, Any] = {}
    if (total := content.get("trials")) is not None:
        if total < len(records):
            raise ConfigError(
                f"--trials {total}: the study {spec.name!r} has {counted(len(records), 'trial')} already, and --trials "
                f"is the new total. Give at least {max(len(records), 1)}."
            )
        if total > spec.trials:
            check_sampler(spec.sampler, total)
        update = {"trials": total, "startup_trials": startup_trials(spec)}
        if spec.sampler == "grid":
            update |= finer_grid(spec, total, [r.values for r in records])
    if (patience := content.get("patience")) is not None:
        update["patience"] = patience
    for name, unit in BUDGETS.items():
        if (budget := content.get(name)) is None:
            continue
        option, taken = f"--{name.replace('_', '-')}", getattr(cost, name)
        if name == "gpu_hours" and not spec.gpus_per_trial:
            raise ConfigError(
                f"{option} {budget:g}: the trials of {spec.name!r} use no GPU. Take --time-budget."
            )
        if budget <= taken:
            raise ConfigError(
                f"{option} {budget:g}: the study {spec.name!r} has taken {taken:.4g} {unit} already, and {option} is "
                "the new total. Give more."
            )
        update[name] = budget
    return spec.model_copy(update=update)


def check_budgets_left(spec: StudySpec, cost: Spent) -> None:
    """Refuse to go on with a study one of whose budgets is spent.

    Raises:
        ConfigError: says which, and how to raise it.
    """
    for name, unit in BUDGETS.items():
        budget, taken = getattr(spec, name), getattr(cost, name)
        if budget is not None and taken >= budget:
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"the study {spec.name!r} has spent its {option} of {budget:g} {unit}: no trial would begin. Give a "
                f"larger one with {option}, too."
            )


def checked_points(spec: StudySpec, points: Sequence[Any], where: str) -> list[dict[str, Any]]:
    """Points as a study tries them.

    Args:
        spec: the study.
        points: mappings of searched parameters.
        where: they come from, for the message.

    Raises:
        ConfigError: none, a name that is not searched, or a value out of its range.
    """
    if not points:
        raise ConfigError(f"{where}: there is no point.")
    return list(check_points(points, spec.search_space(), spec.config["epochs"], where))


def check_running(name: str, records: Sequence[TrialRecord], trial: str) -> None:
    """Refuse to stop a trial that does not run.

    Raises:
        ConfigError: says how it stands, and which do run.
    """
    record = _existing(name, records, trial)
    if record.state != "running":
        running = [r.trial for r in records if r.state == "running"]
        others = f"Running: {_listed(running)}." if running else "None is running."
        raise ConfigError(
            f"trial {trial} of {name!r} is not running: it is {record.state.replace('_', ' ')}. {others}"
        )


def check_pinned(name: str, records: Sequence[TrialRecord], trial: str) -> None:
    """Refuse to recommend a trial that has no result.

    Raises:
        ConfigError: there is no such trial, or it has none.
    """
    record = _existing(name, records, trial)
    if record.score is None or record.state == "failed":
        raise ConfigError(
            f"trial {trial} of {name!r} has no result to recommend: it is {record.state.replace('_', ' ')}."
        )


def failed(records: Sequence[TrialRecord]) -> tuple[list[str], list[str]]:
    """Failed trials: those that are tried again, and those that diverged and would do so again."""
    again = [r.trial for r in records if r.stop_reason in RETRIED]
    return again, [r.trial for r in records if r.stop_reason == "nan"]


def check_failed(name: str, records: Sequence[TrialRecord]) -> None:
    """Refuse to try failed trials again where there are none.

    Raises:
        ConfigError: none failed, or all that did diverged.
    """
    again, diverged = failed(records)
    if not again:
        why = (
            ""
            if not diverged
            else f" ({_listed(diverged)} diverged, and would diverge again to the same bits)"
        )
        raise ConfigError(f"--retry-failed: no trial of {name!r} failed for a cause that may be mended{why}.")


def _existing(name: str, records: Sequence[TrialRecord], trial: str) -> TrialRecord:
    found = next((r for r in records if r.trial == trial), None)
    if found is None:
        there = _listed([r.trial for r in records]) if records else "none yet"
        raise ConfigError(f"there is no trial {trial} in {name!r}. Its trials: {there}.")
    return found


def _listed(trials: Sequence[str]) -> str:
    return ", ".join(trials[:_SHOWN]) + (", ..." if len(trials) > _SHOWN else "")
