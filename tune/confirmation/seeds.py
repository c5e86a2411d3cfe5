"""The trainings of a confirmation, seed after seed: as many as were asked for, or until the two best are told apart.

Which seed is the last is a function of what the trainings before it came to. So a confirmation that is started again
after Ctrl-C or a crash finds its trainings done, looks where it had looked, and ends where it would have ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ssl_core.system.errors import ConfigError, counted
from tune.confirmation.document import (
    Candidate,
    FinalTraining,
    comparisons_of,
    row_of,
    trainings_of,
    two_best,
)
from tune.confirmation.keeping import track
from tune.confirmation.looks import Looks
from tune.confirmation.trainings import Places, Redrawn, Trained, Training, ray_for, train_all
from tune.confirmation.verdicts import comparison_of
from tune.findings.confirmation import title
from tune.findings.study import Study
from tune.tracking.tracker import Tracker


@dataclass(frozen=True)
class Seeds:
    """How many seeds each configuration is trained on.

    Attributes:
        count: seeds, where there is one look; else those of the first.
        looks: the looks, where more seeds follow until the two best are told apart; None: one look.
        redrawn: what a seed draws anew.
    """

    count: int
    looks: Looks | None
    redrawn: Redrawn

    @property
    def most(self) -> int:
        """The most seeds of a configuration."""
        return self.count if self.looks is None else self.looks.most


def train_seeds(
    study: Study,
    candidates: Sequence[Candidate],
    seeds: Seeds,
    places: Places,
    tracker: Tracker,
    say: Callable[[str], None],
) -> tuple[list[FinalTraining], list[Trained]]:
    """Train every candidate on the fresh seeds; the trainings, seed by seed, and what came out of each.

    Args:
        study: the study.
        candidates: what is confirmed.
        seeds: how many, and until when.
        places: where.
        tracker: told of each training as it ends.
        say: told likewise, and of each look after which it goes on.

    Raises:
        ConfigError: nothing can be told apart, since there is one candidate alone.
    """
    if seeds.looks is not None and len(candidates) < 2:
        raise ConfigError(
            f"until_told_apart = {seeds.most}: the study {study.name!r} is supervised, so no baseline is beside its "
            "best. Take two configurations at least: --top 2."
        )
    tasks = trainings_of(study, candidates, seeds.count, seeds.redrawn)
    if seeds.looks is None:
        return tasks, train(tasks, places, tracker, say)
    with ray_for(places):  # once for all looks
        trained = train(tasks, places, tracker, say)
        for number in range(seeds.count + 1, seeds.most + 1):
            open_question = _not_told_apart(candidates, tasks, trained, study.spec.objective, seeds.looks)
            if open_question is None:
                break
            say(f"after {counted(number - 1, 'seed')} {open_question}: seed {number} of at most {seeds.most}")
            more = [t for t in trainings_of(study, candidates, number, seeds.redrawn) if t.number == number]
            tasks, trained = [*tasks, *more], [*trained, *train(more, places, tracker, say)]
    return tasks, trained


def _not_told_apart(
    candidates: Sequence[Candidate],
    tasks: Sequence[FinalTraining],
    trained: Sequence[Trained],
    objective: str,
    looks: Looks,
) -> str | None:
    """That the two best cannot be told apart yet, in words; None where they can."""
    rows = [row_of(candidate, tasks, trained) for candidate in candidates]
    pair = two_best(rows, objective)
    if pair is None:
        return "too few trainings have a result"
    found = comparison_of({"comparisons": comparisons_of(rows, looks)}, *pair)
    if found is not None and found["told_apart"]:
        return None
    known = "" if found is None or found["p_holm"] is None else f" (corrected p = {found['p_holm']:.2g})"
    return f"{title(pair[0])} cannot be told from {title(pair[1])}{known}"


def train(
    tasks: Sequence[FinalTraining], places: Places, tracker: Tracker, say: Callable[[str], None]
) -> list[Trained]:
    """Train what is not trained yet; each is tracked as it ends."""
    return train_all(
        [_training(t) for t in tasks],
        places,
        say,
        lambda number, outcome: track(tracker, tasks[number], outcome),
    )


def _training(task: FinalTraining) -> Training:
    what = ", refit" if task.config.refit else ""
    return Training(f"{title(task.who)}, seed {task.number}{what}", task.config, task.out)
