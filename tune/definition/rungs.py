"""Where ASHA looks at a trial. Apart from the scheduler, so that `plan` needs no Ray."""

from __future__ import annotations

from tune.definition.spec import REDUCTION_FACTOR

RUNGS = 3


def rungs(epochs: int) -> list[int]:
    """Epochs after the warm-up at which a trial is compared with the others, ascending.

    The full budget divided by 3, 9 and 27, rounded. A single epoch says little: below the first third, a share
    of less than 4/3 epochs is left out, and a little more is made two (so 12 epochs have two rungs).
    """
    lower = [epochs / REDUCTION_FACTOR**k for k in range(2, RUNGS + 1)]
    places = {max(2, round(share)) for share in lower if share >= 4 / 3}
    return sorted(places | {max(1, round(epochs / REDUCTION_FACTOR))})


def expected_epochs(epochs: int, trials: int, warmup: float) -> float:
    """Epochs that a study is expected to run, if each rung lets the best third go on.

    Args:
        epochs: the full budget of a trial.
        trials: of the study.
        warmup: mean length of the warm-up in epochs.
    """
    total, going, at = 0.0, float(trials), -warmup
    end = epochs - warmup
    for rung in (place for place in rungs(epochs) if place < end):
        total += going * (rung - at)
        going, at = max(1.0, going / REDUCTION_FACTOR), rung
    return total + going * (end - at)


def expected_ends(epochs: int, trials: int, warmup: float) -> float:
    """Trials that are expected to run the full budget, under the same assumption."""
    passed = sum(place < epochs - warmup for place in rungs(epochs))
    return float(max(1.0, trials / REDUCTION_FACTOR**passed))
