"""What `resume` can change of a study: its totals, and whether failed trials are tried again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssl_core.system.errors import ConfigError
from tune.definition.request import SearchRequest
from tune.findings.outlook.rule import is_settled
from tune.findings.study import Study
from tune.steering.inbox import Wish
from tune.store.event_log import EventLog
from tune.trials.record import TrialRecord

if TYPE_CHECKING:
    from tune.steering.checks import Spent


@dataclass(frozen=True, kw_only=True)
class Change:
    """New totals and patience of a study, None where one stays as it is; and whether trials that failed run again.

    Attributes:
        trials, time_budget, epochs_budget, gpu_hours: as of a request; the time in seconds, or text such as "2h".
        patience: another one.
        retry_failed: trials that failed for a cause that may be mended run again.
    """

    trials: int | None = None
    time_budget: float | str | None = None
    epochs_budget: int | None = None
    gpu_hours: float | None = None
    patience: int | None = None
    retry_failed: bool = False

    def __bool__(self) -> bool:
        return self != Change()

    def wishes(self) -> list[Wish]:
        """What is asked of the study.

        Raises:
            ConfigError: a number out of its range, or a time that cannot be read.
        """
        given = {k: v for k, v in dataclasses.asdict(self).items() if k != "retry_failed" and v is not None}
        request = SearchRequest(**given)
        found = [Wish("grow", {name: getattr(request, name) for name in given})] if given else []
        return found + ([Wish("retry")] if self.retry_failed else [])


NO_CHANGE = Change()


def _cost(study: Study, records: Sequence[TrialRecord]) -> Spent:
    from tune.steering import checks  # loads Optuna

    if not study.folder.events_db.exists():
        return checks.spent(study.spec, records, None)
    with EventLog(study.folder.events_db, read_only=True) as log:
        return checks.spent(study.spec, records, log)


def checked(study: Study, change: Change) -> list[Wish]:
    """The wishes that a change is, as far as they can be carried out as the study stands.

    Raises:
        ConfigError: fewer trials than there are, a budget that is spent, a patience that is over, or no failed trial.
    """
    from tune.steering import checks  # loads Optuna

    if not (wishes := change.wishes()):
        return []
    records, spec = study.records(), study.spec
    cost = _cost(study, records)
    for wish in wishes:
        if wish.kind == "grow":
            spec = checks.grown(spec, wish.content, records, cost)
        else:
            checks.check_failed(study.name, records)
    checks.check_budgets_left(spec, cost)
    if any(wish.kind == "grow" for wish in wishes) and is_settled(records, spec):
        raise ConfigError(
            f"--patience {spec.patience} has ended the study {spec.name!r}: so many trials in a row have not improved "
            "its recommendation, and no trial would begin. Give a larger one with --patience, too."
        )
    return wishes
