"""Where early stopping looks at a trial. Apart from the scheduler, so that `plan` needs no Ray."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ssl_core.system.errors import ConfigError, counted
from tune.definition.spec import REDUCTION_FACTOR, StudySpec

RUNGS = 3


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """How a study stops trials early; the defaults are those of studies made before there was a choice.

    Attributes:
        scheduler: asha, median or none.
        eta: one of so many trials goes on at a rung.
        grace: epochs after the warm-up before which no trial is stopped; None: the first rung's.
        brackets: of ASHA; each further one lacks another of the lowest rungs, as Hyperband's do.
        folds: divisions of the images that a trial trains on. After each but the last ASHA has a rung, at which all
            trials that come there are compared, whatever their bracket.
    """

    scheduler: str = "asha"
    eta: int = REDUCTION_FACTOR
    grace: int | None = None
    brackets: int = 1
    folds: int = 1

    def fold_rungs(self, epochs: int) -> list[int]:
        """Epochs of a trial, warm-ups included, at which it is decided whether it trains another fold."""
        return [fold * epochs for fold in range(1, self.folds)] if self.scheduler == "asha" else []

    def rungs(self, epochs: int) -> list[int]:
        """Epochs after the warm-up at which a trial is compared with the others, ascending; of median the first."""
        places = rungs(epochs, self.eta, self.grace)
        return {"asha": places, "median": places[:1], "none": []}[self.scheduler]

    def by_bracket(self, epochs: int) -> list[list[int]]:
        """The rungs of each bracket of ASHA."""
        places = self.rungs(epochs)
        return [places[lacking:] for lacking in range(self.brackets)]

    def shares(self, epochs: int) -> list[float]:
        """The share of trials that each bracket gets: as Ray's, by the number of its rungs (e to the power of it)."""
        weights = [math.exp(len(places)) for places in self.by_bracket(epochs)]
        return [weight / sum(weights) for weight in weights]

    def check(self, epochs: int) -> None:
        """Refuse what a study of so many epochs has no room for.

        Raises:
            ConfigError: a grace period as long as the run, or more brackets than there are rungs.
        """
        if self.grace is not None and self.grace >= epochs:
            raise ConfigError(
                f"--grace {self.grace}: a run has {counted(epochs, 'epoch')}, and no trial could be stopped. Take "
                "fewer, or --scheduler none."
            )
        if self.scheduler != "asha" and self.brackets > 1:
            raise ConfigError(
                f"--brackets {self.brackets}: --scheduler {self.scheduler} has none. Take asha."
            )
        if self.scheduler == "asha" and self.brackets > (most := len(self.rungs(epochs))):
            raise ConfigError(
                f"--brackets {self.brackets}: runs of {counted(epochs, 'epoch')} have {counted(most, 'rung')}, and "
                f"each bracket lacks one more of them. Take at most {most}, more epochs or a smaller --grace."
            )


ASHA = Stopping()
"""What studies had before there was a choice."""


def stopping_of(spec: StudySpec) -> Stopping:
    """How a study stops trials early."""
    return Stopping(
        scheduler=spec.scheduler, eta=spec.eta, grace=spec.grace, brackets=spec.brackets, folds=spec.folds
    )


def rungs(epochs: int, eta: int = REDUCTION_FACTOR, grace: int | None = None) -> list[int]:
    """Epochs after the warm-up at which ASHA compares a trial with the others, ascending.

    The full budget divided by eta, its square and its cube, rounded. A single epoch says little: below the first share,
    one of less than 4/3 epochs is left out, and a little more is made two (so 12 epochs have two rungs).

    Args:
        epochs: the full budget of a trial.
        eta: one of so many trials goes on.
        grace: the first rung, where it is given: shares above it follow, however many.
    """
    if grace is not None:
        shares = [round(epochs / eta**k) for k in range(1, 1 + math.ceil(math.log(epochs, eta)) + 1)]
        return sorted({grace} | {place for place in shares if place > grace})
    lower = [epochs / eta**k for k in range(2, RUNGS + 1)]
    places = {max(2, round(share)) for share in lower if share >= 4 / 3}
    return sorted(places | {max(1, round(epochs / eta))})


def expected_epochs(epochs: int, trials: int, warmup: float, stopping: Stopping = ASHA) -> float:
    """Epochs that a study is expected to run, if each rung lets the best share go on; of median, its better half.

    Args:
        epochs: the full budget of a trial.
        trials: of the study.
        warmup: mean length of the warm-up in epochs.
        stopping: how trials are stopped.
    """
    first = sum(
        _expected(epochs, share * trials, warmup, places, _kept(stopping))
        for places, share in _brackets(epochs, stopping)
    )
    return first + epochs * sum(expected_in_folds(epochs, trials, warmup, stopping)[1:-1])


def _expected(epochs: int, trials: float, warmup: float, places: list[int], kept: float) -> float:
    total, going, at = 0.0, trials, -warmup
    end = epochs - warmup
    for rung in (place for place in places if place < end):
        total += going * (rung - at)
        going, at = max(min(1.0, trials), going * kept), rung
    return total + going * (end - at)


def expected_ends(epochs: int, trials: int, warmup: float, stopping: Stopping = ASHA) -> float:
    """Trials that are expected to run the full budget, all folds, under the same assumption."""
    return expected_in_folds(epochs, trials, warmup, stopping)[stopping.folds]


def expected_in_folds(epochs: int, trials: int, warmup: float, stopping: Stopping = ASHA) -> list[float]:
    """Trials that are expected to begin each fold, and those that finish the last, under the same assumption."""
    kept = _kept(stopping)
    ends = (
        share * trials * kept ** sum(place < epochs - warmup for place in places)
        for places, share in _brackets(epochs, stopping)
    )
    begun, going = [float(trials)], float(max(1.0, sum(ends)))
    for _ in range(1, stopping.folds):
        going = max(1.0, going * kept) if stopping.fold_rungs(epochs) else going
        begun.append(going)
    return [*begun, going]


def _brackets(epochs: int, stopping: Stopping) -> list[tuple[list[int], float]]:
    return list(zip(stopping.by_bracket(epochs), stopping.shares(epochs), strict=True))


def _kept(stopping: Stopping) -> float:
    return 0.5 if stopping.scheduler == "median" else 1 / stopping.eta
