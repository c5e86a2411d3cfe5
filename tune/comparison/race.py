"""A race: a method that cannot win any more gets no further epochs, and the others of the comparison share them.

The rule looks at the last rung of early stopping (with the usual eta a third of the budget) and at the end of the
budget. Of the two it takes the deeper one to which a method has brought three trials. The method is out where its best
trial there is worse than the best of all others there by more than `DEVIATIONS` standard deviations of a difference of
two errors on the validation images; and where it has a trial at the end of the budget, its best one there must be
behind by as much. Nothing else enters, so whoever reads the same trials comes to the same decision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssl_core.system.faults import fault
from tune.definition.objective import in_words
from tune.definition.rungs import rungs
from tune.definition.spec import StudySpec
from tune.findings.ranking import resolution
from tune.images.study import StudyImages
from tune.trials.record import TrialRecord
from tune.worker.report_keys import EPOCH, SSL_EPOCH

FEWEST = 3
"""Trials that a method has brought to a place before it is judged there: one bad configuration says little."""
DEVIATIONS = 2.0
"""How far behind is too far, in standard deviations of the difference of two errors on the validation images."""
END = 1_000_000_000
"""The end of the budget, as a place behind every rung: warm-ups differ, so trials get there at different epochs."""

Values = dict[int, dict[int, float]]
"""Of a method: at each place (a rung in epochs after the warm-up, or `END`) the objective of each trial, by number."""


@dataclass(frozen=True)
class Left:
    """A method that left the race.

    Attributes:
        study: its study.
        place: the rung in epochs after the warm-up; None: the end of the budget.
        trials: that it had brought there.
        value: of the best of them.
        leader: the study with the lowest value there.
        leader_value: that value.
        margin: the difference, in the objective's unit, that was exceeded.
        epochs: that the method had trained; filled in when the decision is written down.
    """

    study: str
    place: int | None
    trials: int
    value: float
    leader: str
    leader_value: float
    margin: float
    epochs: int = 0


def margin(one: float, other: float, valid: int) -> float:
    """What the choice of the validation images leaves open between two errors in percent, in points.

    `DEVIATIONS` times the standard deviation of the difference of two binomial shares, as if each had images of its
    own. Both are measured on the same images, and methods that see the same pictures fail on many of the same, which
    makes the true deviation smaller.
    """
    return DEVIATIONS * math.hypot(resolution(valid, one), resolution(valid, other))


def judged(study: str, values: Mapping[str, Values], last_rung: int, valid: int) -> Left | None:
    """Whether a study's method cannot win any more, by the rule above; None: it can, or it is too early to tell.

    Args:
        study: the study.
        values: of all studies of the race.
        last_rung: where early stopping looks last.
        valid: how many validation images there are.
    """
    enough = [place for place in (END, last_rung) if len(values[study].get(place, {})) >= FEWEST]
    if not enough:
        return None
    found = _behind(study, values, enough[0], valid)
    if found is not None and enough[0] != END and values[study].get(END):
        return found if _behind(study, values, END, valid) else None
    return found


def _behind(study: str, values: Mapping[str, Values], place: int, valid: int) -> Left | None:
    """How a study's best at a place stands to the best of the others, where it is too far behind."""
    own = values[study][place]
    others = {name: min(v[place].values()) for name, v in values.items() if name != study and v.get(place)}
    if not others:
        return None
    leader = min(others, key=lambda name: others[name])
    best, first = min(own.values()), others[leader]
    open_to = margin(best, first, valid)
    if best - first <= open_to:
        return None
    return Left(study, None if place == END else place, len(own), best, leader, first, open_to)


def validation_images(objective: str, images: StudyImages) -> int:
    """On how many images an objective is measured: of one that counts classes alike, as many as of the smallest."""
    if objective == "val/error_balanced":
        return max(2, len(images.valid) * min(images.valid))
    return max(2, sum(images.valid))


class Race:
    """Decides which studies of a comparison get no more trials.

    What is decided is written down after the report that decided it. A driver that dies in between finds the same
    trials again, and decides the same before it hands out another one.

    Args:
        specs: the specifications of all studies of the comparison, by name.
        records: their trials so far.
        valid: how many validation images there are.
        keep_in: studies that always stay: the baseline.
        out: those that have left.
        write: makes a decision durable.
    """

    def __init__(
        self,
        specs: Mapping[str, StudySpec],
        records: Mapping[str, Sequence[TrialRecord]],
        valid: int,
        keep_in: Collection[str],
        out: Sequence[Left],
        write: Callable[[Left], None],
    ) -> None:
        self._valid, self._keep_in, self._write = valid, keep_in, write
        self._objective = next(iter(specs.values())).objective
        self._budget = {name: spec.full_epochs for name, spec in specs.items()}
        self._rung = {
            name: rungs(int(spec.config["epochs"]), spec.eta, spec.grace)[-1] for name, spec in specs.items()
        }
        self._out = {each.study: each for each in out}
        self._unwritten: list[Left] = []
        self._values: dict[str, Values] = {name: {} for name in specs}
        for name in specs:
            for record in records[name]:
                self._take_in(name, record)
        self._look()

    def is_out(self, study: str) -> bool:
        """Whether a study gets no more trials."""
        return study in self._out

    def judge(self, study: str, trial: int, result: Mapping[str, Any]) -> bool:
        """Take in a report, before it is written down; whether its study is out now.

        Args:
            study: whose trial it is.
            trial: its number.
            result: as its worker reports it.
        """
        if EPOCH in result:
            self._note(study, trial, result.get(SSL_EPOCH), result[EPOCH], result.get(self._objective))
        return self.is_out(study)

    def keep(self) -> None:
        """Make durable what was decided since the last time; the reports that decided it are."""
        while self._unwritten:
            fault("race:before")
            self._write(self._unwritten[0])
            self._unwritten.pop(0)

    def _take_in(self, study: str, record: TrialRecord) -> None:
        number, done = int(record.trial), record.ssl_epoch or 0
        for at, value in record.intermediate.items():
            if at <= done:  # else its driver died while noting it: it is reported again
                self._values_at(study, at, number, value)
        if record.epoch >= self._budget[study]:
            self._values_at(study, END, number, record.score)

    def _note(self, study: str, trial: int, at: int | None, epoch: int, value: float | None) -> None:
        if at is not None:
            self._values_at(study, at, trial, value)
        if epoch >= self._budget[study]:
            self._values_at(study, END, trial, value)
        if at == self._rung[study] or epoch >= self._budget[study]:
            self._look()

    def _values_at(self, study: str, place: int, trial: int, value: float | None) -> None:
        if place in (self._rung[study], END) and value is not None and math.isfinite(value):
            self._values[study].setdefault(place, {})[trial] = value

    def _look(self) -> None:
        for study in self._values:
            if study in self._out or study in self._keep_in:
                continue
            found = judged(study, self._values, self._rung[study], self._valid)
            if found is not None:
                self._out[study] = found
                self._unwritten.append(found)


def in_a_sentence(left: Left, methods: Mapping[str, str], objective: str) -> str:
    """Why a method left the race, as a sentence without its full stop.

    Args:
        left: the method.
        methods: the method of each study.
        objective: what the studies go by.
    """
    where = (
        "at the end of the budget" if left.place is None else f"after {left.place} epochs past the warm-up"
    )
    return (
        f"{methods[left.study]} left the race after {left.epochs} epochs: {where} the best of its {left.trials} trials "
        f"has {objective} {in_words(objective, left.value)}, {methods[left.leader]} "
        f"{in_words(objective, left.leader_value)}, and the validation images leave only {left.margin:.2f} points open"
    )
