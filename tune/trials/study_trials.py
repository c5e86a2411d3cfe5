"""The trials of a study in Optuna's storage: asked, reported, told.

Optuna is the one truth about a trial. Ray Tune runs trials and is thrown away at the end of every sitting;
what it was doing is found here again.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from ssl_core.system.errors import ConfigError
from ssl_core.system.faults import fault
from tune.definition.objective import FIELDS
from tune.definition.points import check_points
from tune.definition.spec import StudySpec
from tune.store.study_folder import StudyFolder
from tune.trials.handover import warm_trials
from tune.trials.optuna_storage import answering, open_storage
from tune.trials.reading import _records, begun_trials, check_nothing_lost, read_whole
from tune.trials.record import (
    ENQUEUED,
    GIVEN,
    INSTEAD_OF,
    SAME_BITS,
    STOP_ASKED,
    TAKEN_OVER,
    TrialRecord,
    _record,
    is_own,
)
from tune.trials.repeats import MOST_REPEATS, Elsewhere, Found, Known, nowhere
from tune.trials.sampling import Sampling
from tune.trials.stored import enqueue, own_study, trials_there, verdict
from tune.trials.tables.reading import read_trials, trial_numbers
from tune.trials.tables.writing import add_trial, end_trial, newest_trial, note_epoch, reopen


class StudyTrials:
    """The driver's hand on Optuna's storage, of whose trials it is the only writer.

    What it needs between two reports it keeps: the trials that run, and a line about every other. So a report
    costs two small writes, however many trials there are.

    Args:
        folder: the study's folder.
        spec: the study's specification.
        elsewhere: looks for a point's result in other studies.

    Raises:
        ServiceError: a storage that does not answer, or that holds another study of this name.
    """

    def __init__(self, folder: StudyFolder, spec: StudySpec, elsewhere: Elsewhere = nowhere) -> None:
        self._elsewhere = elsewhere
        self.exhausted = False
        """Whether no configuration was found any more that is not known."""
        self.stop_asked: set[int] = set()
        """Running trials that somebody stops."""
        self.spec, self.space, self.epochs = spec, spec.search_space(), int(spec.config["epochs"])
        self._distributions = self.space.distributions(self.epochs)
        self._storage = open_storage(folder, spec.storage, shared=spec.address is not None)
        begun = begun_trials(folder, spec)
        with answering(folder, spec.storage), read_whole(folder, spec):
            there = trials_there(self._storage, spec)
            check_nothing_lost(folder, spec, begun, there)
            self._study_id = own_study(self._storage, spec)
            self._take_over(folder)
            self._load()

    def _take_over(self, folder: StudyFolder) -> None:
        """Put the trials of `--warm-start` first."""
        if self.spec.warm_start is None:
            return
        earlier = warm_trials(folder, self.spec, self._distributions)
        have = len(trial_numbers(self._storage, self._study_id))
        for trial in earlier[have:]:  # all of them, or those that a driver had no time for
            self._storage.create_new_trial(self._study_id, trial)

    def _load(self) -> None:
        trials = read_trials(self._storage, self._study_id)
        own = [t for t in trials if is_own(t, self._distributions)]
        self._running = {t.number: t for t in own if not t.state.is_finished()}
        self.stop_asked.clear()
        self.stop_asked.update(n for n, t in self._running.items() if STOP_ASKED in t.user_attrs)
        self._sampling = self._sampling_after(trials)
        self._known = Known(self.space, self.epochs, is_used=self.spec.no_work_twice)
        for trial in trials:
            self._known.add(trial)
        self._records = {t.number: self._record(t) for t in own}
        plain = sum(ENQUEUED not in t.user_attrs and GIVEN not in t.user_attrs for t in own)
        self._place = max([plain, *(t.user_attrs[GIVEN] + 1 for t in trials if GIVEN in t.user_attrs)])
        self._seen = len(trials)
        self._newest = trials[-1]._trial_id if trials else None
        self._waits = any(t.state == TrialState.WAITING for t in trials)

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

    def ask(self) -> FrozenTrial | None:
        """A new trial. It is in the storage with all of its parameters, in one write, before this returns.

        None: the space is exhausted, or the grid is.
        """
        if newest_trial(self._storage, self._study_id) != self._newest:
            self._load()  # somebody has enqueued a trial through Optuna, or added one
        if (enqueued := self._next_enqueued()) is not None:
            return enqueued
        if (chosen := self._chosen()) is None:
            self.exhausted = True
            return None
        number = self._seen
        params, notes = chosen
        trial = optuna.trial.create_trial(
            state=TrialState.RUNNING, params=params, distributions=self._distributions, user_attrs=notes
        )
        fault("ask:before")
        add_trial(self._storage, self._study_id, trial)
        fault("ask:after")
        if trial.number != number:  # somebody has enqueued one in between
            self._load()
            return self._running[trial.number]
        self._seen, self._newest = self._seen + 1, trial._trial_id
        self._running[number] = trial
        self._known.add(trial)
        self._records[number] = self._record(trial)
        return trial

    def _chosen(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The next point whose configuration is not known, and what is to be noted of it; None: there is none."""
        first = [self.space.baseline_for(self.epochs), *self.spec.points]
        repeated: list[str] = []
        while len(repeated) < MOST_REPEATS:
            fixed = first[self._place] if self._place < len(first) else {}
            params = self._sampling.ask(self._seen, fixed, attempt=len(repeated))
            if params is None:
                return None
            notes: dict[str, Any] = {GIVEN: self._place} if fixed else {}
            self._place += 1 if fixed else 0
            if (known := self._known.find(params)) is None:
                found = self._elsewhere(params) if self.spec.no_work_twice else None
                if found is None:
                    return params, notes | ({INSTEAD_OF: repeated} if repeated else {})
                known = found.where
                if not self._known.is_warm(params):  # else the sampler has heard of it
                    self._keep_found(params, found, notes)
            repeated.append(known)
        return None

    def _keep_found(self, params: Mapping[str, Any], found: Found, notes: Mapping[str, Any]) -> None:
        """Take over what another study knows of a point, for the sampler; it is no trial of this study."""
        trial = optuna.trial.create_trial(
            state=TrialState.COMPLETE,
            value=found.value,
            params=dict(params),
            distributions=self._distributions,
            user_attrs={
                **notes,
                TAKEN_OVER: found.where,
                SAME_BITS: True,
                "last": dict(found.last),
                "stop_reason": "completed",
            },
            intermediate_values=dict(found.curve),
        )
        trial._trial_id = self._storage.create_new_trial(self._study_id, trial)
        trial.number = self._seen
        self._seen, self._newest = self._seen + 1, trial._trial_id
        self._known.add(trial)
        self._sampling.end(trial)

    def _next_enqueued(self) -> FrozenTrial | None:
        """The first trial that somebody enqueued (`ssl-tune enqueue`, Optuna's `enqueue_trial`), as one of the study.

        What its point leaves open the sampler chooses. One that cannot be run, or that was trained already, is failed,
        and a warning says why.
        """
        waiting = (TrialState.WAITING,)
        for trial in self._storage.get_all_trials(self._study_id, states=waiting) if self._waits else ():
            given = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            try:
                points = [given] if given else []
                checked = check_points(points, self.space, self.epochs, f"enqueued trial {trial.number}")
                params = self._filled_in(trial.number, checked[0] if checked else {})
            except ConfigError as error:
                warnings.warn(f"{error} It is not run.", stacklevel=2)
                self._storage.set_trial_user_attr(trial._trial_id, "refused", str(error))
                self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
                continue
            for name, distribution in self._distributions.items():
                value = distribution.to_internal_repr(params[name])
                self._storage.set_trial_param(trial._trial_id, name, value, distribution)
            self._storage.set_trial_user_attr(trial._trial_id, ENQUEUED, True)
            self._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
            self._load()
            return self._running[trial.number]
        self._waits = False
        return None

    def _filled_in(self, number: int, given: Mapping[str, Any]) -> dict[str, Any]:
        """All values of an enqueued trial.

        Raises:
            ConfigError: its configuration is known.
        """
        before = self._sampling_after(read_trials(self._storage, self._study_id)[:number])
        for attempt in range(MOST_REPEATS):
            params = before.ask(number, given, attempt)
            known = None if params is None else self._known.find(params)
            if params is not None and known is None:
                return params
            if params is None or params.keys() == given.keys():
                break
        raise ConfigError(f"enqueued trial {number}: trial {known} has this configuration already.")

    def enqueue(self, points: Sequence[Mapping[str, Any]], wish: str) -> list[int]:
        """Put points into the queue: see `tune.trials.stored.enqueue`."""
        return enqueue(self._storage, self._study_id, points, wish)

    def ask_to_stop(self, number: int) -> None:
        """Note of a running trial that somebody stops it: it ends with its next report, or when it would go on."""
        trial = self._running[number]
        note_epoch(self._storage, trial._trial_id, None, {STOP_ASKED: True})
        trial.user_attrs = trial.user_attrs | {STOP_ASKED: True}
        self.stop_asked.add(number)

    def reopen(self, number: int) -> None:
        """Make a failed trial one that waits to be carried on, from its last epoch."""
        if number in self._running:
            return
        identity = self._id(number)
        last = self._storage.get_trial(identity).user_attrs.get("last")
        if last is not None:
            note_epoch(self._storage, identity, None, {"last": last | {"stop_reason": None}})
        reopen(self._storage, identity, ("stop_reason", "error", STOP_ASKED))
        self._load()

    def change(self, spec: StudySpec) -> None:
        """The study has another specification: a new total, a finer grid."""
        self.spec, self.exhausted = spec, False
        self._load()

    def trial(self, number: int) -> FrozenTrial:
        """A trial by its number."""
        if number in self._running:
            return self._running[number]
        return self._storage.get_trial(self._id(number))

    def report(self, number: int, summary: Mapping[str, Any]) -> None:
        """Take in an epoch: `summary` has epoch, ssl_epoch, val_error, val_error_balanced, val_loss, seconds (of the
        trial) and the reason why the trial stops there, or None."""
        trial, step = self._running[number], summary["ssl_epoch"]
        measured = summary.get(
            FIELDS[self.spec.objective]
        )  # a worker of an earlier version may not measure it
        value = math.nan if measured is None else float(measured)
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
        trial.user_attrs = trial.user_attrs | notes
        fault("tell:before")
        trial.state, trial.values = verdict(trial, stop_reason, self.spec.objective, self._distributions)
        end_trial(self._storage, identity, trial.state, trial.values, notes, trial.system_attrs)
        fault("tell:after")
        del self._running[number]
        self.stop_asked.discard(number)
        self._known.add(trial)
        self._records[number] = self._record(trial)
        self._sampling.end(trial)

    def all(self) -> list[TrialRecord]:
        """Every trial asked for, in order of creation; without the curves, which `history` has."""
        return list(self._records.values())

    def history(self) -> list[TrialRecord]:
        """Every trial with its values by ssl_epoch, from the storage."""
        return _records(read_trials(self._storage, self._study_id), self.spec)

    def close(self) -> None:
        """Let go of the storage."""
        self._storage.engine.dispose()

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
