"""ASHA on the clock of epochs after the warm-up (Li et al. 2020), with rungs that survive a restart."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler

from ssl_core.system.faults import fault
from tune.definition.objective import DEFAULT
from tune.definition.rungs import rungs
from tune.definition.spec import REDUCTION_FACTOR
from tune.trials.record import TrialRecord
from tune.worker.report_keys import SSL_EPOCH


class StudyASHA(AsyncHyperBandScheduler):
    """Ray's ASHA, one bracket, whose rungs are keyed by the trial's number in the study.

    Ray loses its rungs when the driver ends, and keys them by an id that changes with every sitting. Here they are
    filled again from the trials in Optuna.

    Args:
        epochs: the study's full budget.
        earlier: the study's trials so far.
        objective: what the study goes by; its name is the key of its value in a worker's report.
    """

    def __init__(self, epochs: int, earlier: Iterable[TrialRecord] = (), objective: str = DEFAULT) -> None:
        self._objective = objective
        super().__init__(
            time_attr=SSL_EPOCH,
            metric=objective,
            mode="min",
            max_t=rungs(epochs)[-1] * REDUCTION_FACTOR,
            grace_period=rungs(epochs)[0],
            reduction_factor=REDUCTION_FACTOR,
            brackets=1,
            stop_last_trials=False,
        )
        bracket = self._brackets[0]
        # Ray builds its own list up to max_t, which may come out one short by a rounding of its logarithm.
        bracket._rungs = [(milestone, {}) for milestone in reversed(rungs(epochs))]
        for record in earlier:
            shim = SimpleNamespace(trial_id=str(record.trial))
            for ssl_epoch, value in sorted(record.intermediate.items()):
                if ssl_epoch > (record.ssl_epoch or 0):
                    continue  # its driver died while noting it: it is reported, and judged, again
                bracket.on_result(shim, ssl_epoch, -value)  # type: ignore[arg-type]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Put the trial into the one bracket."""
        self._trial_info[trial.trial_id] = self._brackets[0]

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Go on, or stop: the objective's value at a rung against those that came there before."""
        if SSL_EPOCH not in result or result.get(self._objective) is None:
            return str(self.CONTINUE)
        shim = SimpleNamespace(trial_id=str(trial.config["trial"]))
        fault("rung:before")
        decision = str(self._brackets[0].on_result(shim, result[SSL_EPOCH], -result[self._objective]))  # type: ignore[arg-type]
        fault("rung:after")
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Enter a last report that reached a rung and was never judged, since the run ended with it."""
        if SSL_EPOCH in result and result.get(self._objective) is not None:
            self.on_trial_result(tune_controller, trial, result)
        self._trial_info.pop(trial.trial_id, None)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Forget Ray's id; what the trial left in the rungs stays."""
        self._trial_info.pop(trial.trial_id, None)
