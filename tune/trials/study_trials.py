"""The trials of a study in Optuna's storage: asked, reported, told.

Optuna is the one truth about a trial. Ray Tune runs trials and is thrown away at the end of every sitting;
what it was doing is found here again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ssl_core.system.faults import fault
from tune.definition.objective import FIELDS
from tune.definition.spec import StudySpec
from tune.errors import Exit, ServiceError
from tune.store.home import sqlite_url
from tune.store.study_folder import StudyFolder
from tune.trials.handover import warm_trials
from tune.trials.optuna_storage import answering, note_epoch, open_storage, studies_in
from tune.trials.reading import _records
from tune.trials.record import TrialRecord, _record, is_taken_over
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
        with answering(spec.storage or sqlite_url(folder.optuna_db)):
            self._study_id = _own_study(self._storage, spec)
            self._taken_over = self._take_over(folder)
            self._load()

    def _take_over(self, folder: StudyFolder) -> int:
        """Put the trials of `--warm-start` first; returns how many there are."""
        if self.spec.warm_start is None:
            return 0
        earlier = warm_trials(folder, self.spec, self._distributions)
        have = self._storage.get_n_trials(self._study_id)
        for trial in earlier[have:]:  # all of them, or those that a driver had no time for
            self._storage.create_new_trial(self._study_id, trial)
        return len(earlier)

    def _load(self) -> None:
        trials = self._storage.get_all_trials(self._study_id)
        self._running = {t.number: t for t in trials if not t.state.is_finished()}
        self._sampling = Sampling(self.spec, self._distributions)
        for trial in trials:
            self._sampling.add(trial)
        self._records = {t.number: self._record(t) for t in trials if not is_taken_over(t)}

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
        place = self.asked()
        number = self._taken_over + place
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
        assert trial.number == number, "another driver writes into this study"
        self._running[number] = trial
        self._records[number] = self._record(trial)
        return trial

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
        trial.state, trial.values = self._verdict(trial, stop_reason)
        for key, value in trial.system_attrs.items():
            self._storage.set_trial_system_attr(identity, key, value)
        self._storage.set_trial_state_values(identity, trial.state, trial.values)
        fault("tell:after")
        del self._running[number]
        self._records[number] = self._record(trial)
        self._sampling.end(trial)

    def _verdict(self, trial: FrozenTrial, stop_reason: str) -> tuple[TrialState, list[float] | None]:
        """How Optuna hears of an end; marks a trial infeasible that the sampler should not try again."""
        known = trial.intermediate_values
        last = [known[max(known)]] if known else None
        if stop_reason == "completed":
            return TrialState.COMPLETE, [trial.user_attrs["last"][FIELDS[self.spec.objective]]]
        if stop_reason in ("asha", "time", "user"):
            return TrialState.PRUNED, last
        to_blame = stop_reason == "oom" and any(map(is_memory_parameter, self._distributions))
        if stop_reason == "nan" or to_blame:
            trial.set_constraint(INFEASIBLE, 1.0)
            return TrialState.PRUNED, last
        return TrialState.FAIL, None

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


def _own_study(storage: RDBStorage, spec: StudySpec) -> int:
    """The study's id in its storage; made where it is not there yet."""
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
