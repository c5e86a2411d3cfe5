"""The trials of a study in Optuna's storage: asked, reported, told.

Optuna is the one truth about a trial. Ray Tune runs trials and is thrown away at the end of every sitting;
what it was doing is found here again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search_spaces import SearchSpace
from tune.spec import StudySpec
from tune.study import StudyFolder

optuna.logging.set_verbosity(optuna.logging.WARNING)

STARTUP_SHARE = 1 / 3
"""Share of a study's trials drawn at random before TPE models anything, between 4 and 10 trials (Optuna's
default is 10, which would be most of a short study)."""


@dataclass(frozen=True)
class TrialRecord:
    """A trial as it stands.

    Attributes:
        trial: its Optuna number as a string.
        state: completed, stopped_early, failed or running (also while it waits for `resume`).
        stop_reason: completed, asha, nan, oom, error, user or time; None while it runs.
        val_error: percent, of the last finished epoch; None before the first.
        val_loss: nats, likewise.
        epoch: finished epochs; 0 before the first.
        ssl_epoch: finished epochs after the warm-up; None during it.
        seconds: spent in finished epochs.
        params: searched hyperparameters, the warm-up in epochs.
        error: first line of what made it fail.
        values: the same as Optuna has them (the warm-up as searched).
        intermediate: val/error by ssl_epoch, as Optuna has it.
    """

    trial: str
    state: str
    stop_reason: str | None
    val_error: float | None
    val_loss: float | None
    epoch: int
    ssl_epoch: int | None
    seconds: float
    params: dict[str, Any]
    error: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    intermediate: Mapping[int, float] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """The record without its parameters, flat."""
        names = ("trial", "state", "stop_reason", "val_error", "val_loss", "epoch", "ssl_epoch", "seconds")
        return {name: getattr(self, name) for name in names}


class Records:
    """The driver's hand on Optuna's storage.

    Args:
        folder: the study's folder.
        spec: the study's specification.
    """

    def __init__(self, folder: StudyFolder, spec: StudySpec) -> None:
        base = spec.base_config()
        assert base.epochs is not None
        self.spec, self.space, self.epochs = spec, spec.search_space(), base.epochs
        self._distributions = self.space.distributions(self.epochs)
        self._study = optuna.create_study(
            storage=storage(folder), study_name=spec.name, direction="minimize", load_if_exists=True
        )
        if not self._study.get_trials(deepcopy=False):
            self._study.enqueue_trial(self.space.baseline_for(self.epochs), skip_if_exists=True)

    def unfinished(self) -> list[FrozenTrial]:
        """Trials that were asked for and not told: they wait to be carried on, in order of creation."""
        waiting = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [self._asked_whole(trial) for trial in waiting]

    def _asked_whole(self, trial: FrozenTrial) -> FrozenTrial:
        """A trial with all of its parameters: an earlier driver may have died while it asked for them."""
        if trial.params.keys() == self._distributions.keys():
            return trial
        self._study.sampler = make_sampler(self.spec, number=trial.number)
        handle = optuna.Trial(self._study, self._id(trial.number))
        for name, distribution in self._distributions.items():
            handle._suggest(name, distribution)
        return self.trial(trial.number)

    def asked(self) -> int:
        """Trials asked for so far (a baseline that still waits in Optuna's queue is not)."""
        trials = self._study.get_trials(deepcopy=False)
        return sum(t.state != TrialState.WAITING for t in trials)

    def ask(self) -> FrozenTrial:
        """A new trial. Its parameters are in the storage before this returns."""
        self._study.sampler = make_sampler(self.spec, number=self.asked())
        asked = self._study.ask(self._distributions)
        return self.trial(asked.number)

    def trial(self, number: int) -> FrozenTrial:
        """A trial by its number."""
        return self._study.get_trials(deepcopy=False)[number]

    def report(self, number: int, summary: Mapping[str, Any]) -> None:
        """Take in an epoch: `summary` has epoch, ssl_epoch, val_error, val_loss, seconds (of the trial) and the
        reason why the trial stops there, or None."""
        handle = optuna.Trial(self._study, self._id(number))
        value = summary["val_error"]
        if summary["ssl_epoch"] is not None and math.isfinite(value):
            handle.report(value, summary["ssl_epoch"])
        handle.set_user_attr("last", dict(summary))

    def end(self, number: int, stop_reason: str, *, error: str | None = None) -> None:
        """End a trial for good; ending it twice is harmless (a driver may die between two stores)."""
        if self.trial(number).state.is_finished():
            return
        handle = optuna.Trial(self._study, self._id(number))
        handle.set_user_attr("stop_reason", stop_reason)
        if error is not None:
            handle.set_user_attr("error", error[-4000:])
        if stop_reason == "completed":
            self._study.tell(number, handle.user_attrs["last"]["val_error"])
        elif stop_reason in ("asha", "time", "user"):
            # Optuna takes the last intermediate value; `tell` with a value and PRUNED raises.
            self._study.tell(number, state=TrialState.PRUNED)
        else:
            self._study.tell(number, state=TrialState.FAIL)

    def all(self) -> list[TrialRecord]:
        """Every trial asked for, in order of creation."""
        return _records(self._study.get_trials(deepcopy=False), self.space, self.epochs)

    def _id(self, number: int) -> int:
        return self._study._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)


def make_sampler(spec: StudySpec, number: int) -> optuna.samplers.BaseSampler:
    """The sampler for one ask, seeded by the study's seed and the trial's number.

    So a study that was interrupted asks on as if it had not been, and its start-up points do not repeat.
    """
    digest = hashlib.blake2b(f"{spec.seed}/ask/{number}".encode(), digest_size=4).digest()
    seed = int.from_bytes(digest, "big")
    if spec.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    startup = max(4, min(10, round(spec.trials * STARTUP_SHARE)))
    return optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=True
    )


def storage(folder: StudyFolder) -> optuna.storages.RDBStorage:
    """Optuna's storage in the study's folder; waits for another process's write rather than fail."""
    return optuna.storages.RDBStorage(
        f"sqlite:///{folder.optuna_db}", engine_kwargs={"connect_args": {"timeout": 60}}
    )


def read_records(folder: StudyFolder) -> list[TrialRecord]:
    """The trials of a study, for reading alone; none where it has not begun."""
    from tune.spec import read_spec

    if not folder.optuna_db.exists():
        return []
    spec = read_spec(folder.path)
    base = spec.base_config()
    assert base.epochs is not None
    try:
        study = optuna.load_study(study_name=spec.name, storage=storage(folder))
    except KeyError:  # killed between making the database and the study in it
        return []
    return _records(study.get_trials(deepcopy=False), spec.search_space(), base.epochs)


_STATES = {
    "completed": "completed",
    "asha": "stopped_early",
    "time": "stopped_early",
    "user": "stopped_early",
    "nan": "failed",
    "oom": "failed",
    "error": "failed",
}


def _records(trials: list[FrozenTrial], space: SearchSpace, epochs: int) -> list[TrialRecord]:
    return [_record(t, space, epochs) for t in trials if t.state != TrialState.WAITING]


def _record(trial: FrozenTrial, space: SearchSpace, epochs: int) -> TrialRecord:
    last = trial.user_attrs.get("last", {})
    # A driver may die between noting the reason and telling: until it is told, the trial is running.
    reason = trial.user_attrs.get("stop_reason") if trial.state.is_finished() else None
    return TrialRecord(
        trial=str(trial.number),
        state=_STATES[reason] if reason else "running",
        stop_reason=reason,
        val_error=last.get("val_error"),
        val_loss=last.get("val_loss"),
        epoch=last.get("epoch", 0),
        ssl_epoch=last.get("ssl_epoch"),
        seconds=last.get("seconds", 0.0),
        params=space.resolve(trial.params, epochs) if len(trial.params) == len(space.parameters) else {},
        error=trial.user_attrs.get("error"),
        values=trial.params,
        intermediate=trial.intermediate_values,
    )
