"""The trials of a study in Optuna's storage: asked, reported, told.

Optuna is the one truth about a trial. Ray Tune runs trials and is thrown away at the end of every sitting;
what it was doing is found here again.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ssl_core.system.errors import ConfigError
from ssl_core.system.faults import fault
from tune.definition.objective import FIELDS
from tune.definition.points import check_points
from tune.definition.spec import StudySpec
from tune.errors import Exit, ServiceError
from tune.store.study_folder import StudyFolder
from tune.trials.handover import warm_trials
from tune.trials.optuna_storage import answering, note_epoch, open_storage, studies_in
from tune.trials.reading import _records, begun_trials, check_nothing_lost, read_whole
from tune.trials.record import ENQUEUED, TrialRecord, _record, is_own
from tune.trials.sampling import INFEASIBLE, Sampling, is_memory_parameter


class StudyTrials:
    """The driver's hand on Optuna's storage, of whose trials it is the only writer.

    What it needs between two reports it keeps: the trials that run, and a line about every other. So a report
    costs two small writes, however many trials there are.

    Args:
        folder: the study's folder.
        spec: the study's specification.

    Raises:
        ServiceError: a storage that does not answer, or that holds another study of this name.
    """

    def __init__(self, folder: StudyFolder, spec: StudySpec) -> None:
        base = spec.base_config()
        assert base.epochs is not None
        self.spec, self.space, self.epochs = spec, spec.search_space(), base.epochs
        self._distributions = self.space.distributions(self.epochs)
        self._storage = open_storage(folder, spec.storage, shared=spec.address is not None)
        begun = begun_trials(folder, spec)
        with answering(folder, spec.storage), read_whole(folder, spec):
            there = _trials_there(self._storage, spec)
            check_nothing_lost(folder, spec, begun, there)
            self._study_id = own_study(self._storage, spec)
            self._take_over(folder)
            self._load()

    def _take_over(self, folder: StudyFolder) -> None:
        """Put the trials of `--warm-start` first."""
        if self.spec.warm_start is None:
            return
        earlier = warm_trials(folder, self.spec, self._distributions)
        have = self._storage.get_n_trials(self._study_id)
        for trial in earlier[have:]:  # all of them, or those that a driver had no time for
            self._storage.create_new_trial(self._study_id, trial)

    def _load(self) -> None:
        trials = self._storage.get_all_trials(self._study_id)
        own = [t for t in trials if is_own(t, self._distributions)]
        self._running = {t.number: t for t in own if not t.state.is_finished()}
        self._sampling = self._sampling_after(trials)
        self._records = {t.number: self._record(t) for t in own}
        self._enqueued = sum(ENQUEUED in t.user_attrs for t in own)
        self._seen = len(trials)

    def _sampling_after(self, trials: Sequence[FrozenTrial]) -> Sampling:
        """The sampler's view once these trials are there."""
        sampling = Sampling(self.spec, self._distributions)
        for trial in trials:
            sampling.add(trial)
        return sampling

    def _record(self, trial: FrozenTrial) -> TrialRecord:
        return _record(trial, self.space, self.epochs, self.spec.objective)

    def unfinished(self) -> list[FrozenTrial]:
        """Trials that were asked for and not told: they wait to be carried on, in order of creation."""
        return [self._running[number] for number in sorted(self._running)]

    def asked(self) -> int:
        """Trials asked for so far."""
        return len(self._records)

    def ask(self) -> FrozenTrial:
        """A new trial. It is in the storage with all of its parameters, in one write, before this returns."""
        if self._storage.get_n_trials(self._study_id) != self._seen:
            self._load()  # somebody has enqueued a trial through Optuna, or added one
        if (enqueued := self._next_enqueued()) is not None:
            return enqueued
        number, place = self._seen, self.asked() - self._enqueued
        first = [self.space.baseline_for(self.epochs), *self.spec.points]
        fixed = first[place] if place < len(first) else {}
        params = self._sampling.ask(number, place - len(first), fixed)
        trial = optuna.trial.create_trial(
            state=TrialState.RUNNING, params=params, distributions=self._distributions
        )
        fault("ask:before")
        trial._trial_id = self._storage.create_new_trial(self._study_id, trial)
        fault("ask:after")
        trial.number = self._storage.get_trial_number_from_id(trial._trial_id)
        if trial.number != number:  # somebody has enqueued one in between
            self._load()
            return self._running[trial.number]
        self._seen += 1
        self._running[number] = trial
        self._records[number] = self._record(trial)
        return trial

    def _next_enqueued(self) -> FrozenTrial | None:
        """The first trial that somebody enqueued through Optuna (`enqueue_trial`), as a trial of this study.

        What its point leaves open the sampler chooses. One that cannot be run is failed, and a warning says why.
        """
        for trial in self._storage.get_all_trials(self._study_id, states=(TrialState.WAITING,)):
            given = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            try:
                points = [given] if given else []
                checked = check_points(points, self.space, self.epochs, f"enqueued trial {trial.number}")
            except ConfigError as error:
                warnings.warn(f"{error} It is not run.", stacklevel=2)
                self._storage.set_trial_user_attr(trial._trial_id, "refused", str(error))
                self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
                continue
            before = self._sampling_after(self._storage.get_all_trials(self._study_id)[: trial.number])
            params = before.ask(trial.number, 0, checked[0] if checked else {})
            for name, distribution in self._distributions.items():
                value = distribution.to_internal_repr(params[name])
                self._storage.set_trial_param(trial._trial_id, name, value, distribution)
            self._storage.set_trial_user_attr(trial._trial_id, ENQUEUED, True)
            self._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
            self._load()
            return self._running[trial.number]
        return None

    def trial(self, number: int) -> FrozenTrial:
        """A trial by its number."""
        if number in self._running:
            return self._running[number]
        return self._storage.get_trial(self._id(number))

    def report(self, number: int, summary: Mapping[str, Any]) -> None:
        """Take in an epoch: `summary` has epoch, ssl_epoch, val_error, val_error_balanced, val_loss, seconds (of the
        trial) and the reason why the trial stops there, or None."""
        trial, step = self._running[number], summary["ssl_epoch"]
        value = summary[FIELDS[self.spec.objective]]
        known = step is not None and math.isfinite(value)
        note_epoch(self._storage, trial._trial_id, (step, value) if known else None, {"last": dict(summary)})
        if known:  # a whole curve of every trial that runs is not worth its memory
            trial.intermediate_values = {step: value}
        trial.user_attrs = trial.user_attrs | {"last": dict(summary)}
        self._records[number] = self._record(trial)

    def end(self, number: int, stop_reason: str, *, error: str | None = None) -> None:
        """End a trial for good; ending it twice is harmless (a driver may die between two stores)."""
        if number not in self._running:
            return
        trial = self._running[number]
        identity = trial._trial_id
        notes = {"stop_reason": stop_reason} | ({} if error is None else {"error": error[-4000:]})
        note_epoch(self._storage, identity, None, notes)
        trial.user_attrs = trial.user_attrs | notes
        fault("tell:before")
        trial.state, trial.values = verdict(trial, stop_reason, self.spec.objective, self._distributions)
        for key, value in trial.system_attrs.items():
            self._storage.set_trial_system_attr(identity, key, value)
        self._storage.set_trial_state_values(identity, trial.state, trial.values)
        fault("tell:after")
        del self._running[number]
        self._records[number] = self._record(trial)
        self._sampling.end(trial)

    def all(self) -> list[TrialRecord]:
        """Every trial asked for, in order of creation; without the curves, which `history` has."""
        return list(self._records.values())

    def history(self) -> list[TrialRecord]:
        """Every trial with its values by ssl_epoch, from the storage."""
        return _records(self._storage.get_all_trials(self._study_id, deepcopy=False), self.spec)

    def close(self) -> None:
        """Let go of the storage."""
        self._storage.engine.dispose()

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)


def _trials_there(storage: RDBStorage, spec: StudySpec) -> Collection[int]:
    """Numbers of the trials that a storage holds of a study."""
    if spec.name not in studies_in(storage):
        return []
    study_id = storage.get_study_id_from_name(spec.name)
    return {t.number for t in storage.get_all_trials(study_id, deepcopy=False)}


def own_study(storage: RDBStorage, spec: StudySpec) -> int:
    """The study's id in its storage; made where it is not there yet.

    Raises:
        ServiceError: the storage holds another study of this name.
    """
    name = spec.name
    if name not in studies_in(storage):
        storage.create_new_study([StudyDirection.MINIMIZE], name)
    study_id = storage.get_study_id_from_name(name)
    known = storage.get_study_user_attrs(study_id).get("ssl.uid")
    if known is None and not storage.get_n_trials(study_id):  # a driver died in between
        storage.set_study_user_attr(study_id, "ssl.uid", spec.uid)
    elif (known or "") != spec.uid:
        raise ServiceError(
            f"the study {name!r} in {spec.storage or 'this storage'} is another one of the same name. Bring the "
            "right storage back, or start a new study.",
            Exit.STORAGE,
        )
    return study_id


def verdict(
    trial: FrozenTrial, stop_reason: str, objective: str, distributions: Collection[str]
) -> tuple[TrialState, list[float] | None]:
    """How Optuna hears of an end; marks a trial infeasible that the sampler should not try again.

    Args:
        trial: with its last epoch and its values.
        stop_reason: why it ended.
        objective: what the study goes by.
        distributions: names of the searched parameters.
    """
    known = trial.intermediate_values
    last = [known[max(known)]] if known else None
    if stop_reason == "completed":
        return TrialState.COMPLETE, [trial.user_attrs["last"][FIELDS[objective]]]
    if stop_reason in ("asha", "time", "user"):
        return TrialState.PRUNED, last
    to_blame = stop_reason == "oom" and any(map(is_memory_parameter, distributions))
    if stop_reason == "nan" or to_blame:
        trial.set_constraint(INFEASIBLE, 1.0)
        return TrialState.PRUNED, last
    return TrialState.FAIL, None
