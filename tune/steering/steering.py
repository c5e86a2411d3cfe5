"""Carries out what somebody asks of a study: the driver's part while it runs, a command's where nobody drives it.

Each wish is done, noted in the study's history and removed, in this order. Doing it twice is harmless, since a driver
may die in between: a specification is written whole, a point that is in the queue already is not put there again, a
trial that runs again is no failed one any more.

    grow      {trials, time_budget, epochs_budget,
               gpu_hours, patience}    new totals, those that are given
    retry     {}                       failed trials run again, from their checkpoints
    enqueue   {points}                 tried next
    stop      {trial}                  it ends its epoch, which is kept
    pin       {trial}                  the recommendation; None: none any more
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ssl_core.system.errors import ConfigError, counted
from ssl_core.system.faults import fault
from tune.definition.spec import StudySpec
from tune.steering import checks, inbox
from tune.steering.inbox import Wish
from tune.store.event_log import EventLog
from tune.store.layout import FAILURE_FILES
from tune.store.study_folder import StudyFolder
from tune.tracking import history
from tune.trials.study_trials import StudyTrials


def _nothing(_: Any) -> None:
    """What is done with news that nobody wants."""


class Steering:
    """Reads a study's inbox, and does what is asked for there.

    Args:
        folder: the study's folder, locked by this process.
        records: its trials.
        log: its event log.
        say: told what was done, a sentence without its full stop.
        changed: told a new specification.
        returned: told the numbers of trials that are to run again.
    """

    def __init__(
        self,
        folder: StudyFolder,
        records: StudyTrials,
        log: EventLog,
        *,
        say: Callable[[str], None] = _nothing,
        changed: Callable[[StudySpec], None] = _nothing,
        returned: Callable[[Sequence[int]], None] = _nothing,
    ) -> None:
        self._folder, self._records, self._log = folder, records, log
        self._say, self._changed, self._returned = say, changed, returned
        self._do: dict[str, Callable[[Wish], tuple[str, dict[str, object]]]] = {
            "grow": self._grow,
            "retry": self._retry,
            "enqueue": self._enqueue,
            "stop": self._stop,
            "pin": self._pin,
        }

    def look(self) -> bool:
        """Carry out what waits in the inbox; whether there was anything."""
        wishes = inbox.read(self._folder)
        for wish in wishes:
            self._carry_out(wish)
        return bool(wishes)

    def _carry_out(self, wish: Wish) -> None:
        study = self._records.spec.name
        if history.noted(self._log, study, wish.name) is None:
            fault("wish:before")
            try:
                said, facts = self._do.get(wish.kind, _unknown)(wish)
            except ConfigError as error:  # things have changed since it was asked for
                said, facts = f"not done: {error}".rstrip("."), {"refused": str(error)}
            fault("wish:done")
            history.note(self._log, study, said, wish.name, wish=wish.kind, **facts)
            self._say(said)
        fault("wish:noted")
        self._folder.drop_wish(wish.name)

    def _grow(self, wish: Wish) -> tuple[str, dict[str, object]]:
        spec, records = self._records.spec, self._records.all()
        new = checks.grown(spec, wish.content, records, checks.spent(spec, records, self._log))
        self._folder.write_spec(new)
        self._records.change(new)
        self._changed(new)
        words = [counted(new.trials, "trial")] if "trials" in wish.content else []
        words += [
            f"a budget of {getattr(new, name):g} {unit}"
            for name, unit in checks.BUDGETS.items()
            if wish.content.get(name) is not None
        ]
        words += [f"patience {new.patience}"] if "patience" in wish.content else []
        return f"the study {spec.name} now has {', '.join(words)}", {}

    def _retry(self, wish: Wish) -> tuple[str, dict[str, object]]:
        records, name = self._records.all(), self._records.spec.name
        checks.check_failed(name, records)
        again, diverged = checks.failed(records)
        self._folder.commit()  # in an object store: what of them was to be removed is removed before they begin anew
        for trial in again:
            self._forget_failures(int(trial))
            self._records.reopen(int(trial))
            fault("wish:inside")
        self._returned([int(trial) for trial in again])
        left = f"; {', '.join(diverged)} diverged and would do so again" if diverged else ""
        many = "trial" if len(again) == 1 else "trials"
        return f"failed {many} tried again: {', '.join(again)}{left}", {"trials": again}

    def _forget_failures(self, trial: int) -> None:
        for name in FAILURE_FILES:
            (self._folder.trials / str(trial) / name).unlink(missing_ok=True)
            if self._folder.remote is not None:
                self._folder.remote.drop(trial, name)

    def _enqueue(self, wish: Wish) -> tuple[str, dict[str, object]]:
        points = checks.checked_points(self._records.spec, wish.content["points"], "enqueue")
        numbers = self._records.enqueue(points, wish.name)
        return f"{counted(len(points), 'point')} enqueued, to be tried next", {"trials": numbers}

    def _stop(self, wish: Wish) -> tuple[str, dict[str, object]]:
        trial = str(wish.content["trial"])
        checks.check_running(self._records.spec.name, self._records.all(), trial)
        self._records.ask_to_stop(int(trial))
        return f"trial {trial} is stopped: it ends its epoch", {"trial": trial}

    def _pin(self, wish: Wish) -> tuple[str, dict[str, object]]:
        trial = wish.content["trial"]
        if trial is None:
            return "no trial is pinned any more", {"pinned": None}
        checks.check_pinned(self._records.spec.name, self._records.all(), str(trial))
        return f"trial {trial} is pinned: it is the recommendation", {"pinned": str(trial)}


def _unknown(wish: Wish) -> tuple[str, dict[str, object]]:
    why = wish.content.get("why", f"a wish of the kind {wish.kind!r} is unknown to this version")
    raise ConfigError(f"{wish.name} in the inbox is left out: {why}.")
