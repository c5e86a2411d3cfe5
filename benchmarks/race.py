"""What a race of methods (`compare --race`) gets wrong, and what it hands on, on recorded learning curves.

    python -m benchmarks.race                      # a minute of one core; prints a table
    python -m benchmarks.race --repetitions 50 --json

Nothing is trained. Four methods share a number of epochs, once with the race and once without. Each is a random search
with early stopping over data/curves.csv: 120 configurations of pseudo-labelling on digits, errors on 50 validation
images, with all the noise and all the crossings that real curves have. The methods differ by points that are added to
their errors: one number at the first epoch, another at the last, straight in between. So a slow starter is a method
that is worse early and better at the end, the case that a rule which looks early gets wrong.

A method is counted as lost where it left the race and had the lowest error at full budget without one. What that costs
is the difference between what the two recommend, in points of the error on 200 images that no decision sees.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import fmean

import numpy as np
from ray.tune.schedulers import TrialScheduler

from benchmarks.record_curves import EPOCHS, SEEN, Curve, read_curves
from tune.comparison.race import END, Values, judged
from tune.definition.rungs import rungs
from tune.engine.scheduler import StudyASHA

Offsets = Mapping[str, tuple[float, float]]
"""Points that are added to a method's errors at the first epoch, and at the last."""
SETTINGS: dict[str, Offsets] = {
    "alike": {"a": (0, 0), "b": (0, 0), "c": (0, 0), "d": (0, 0)},
    "two are 10 points worse": {"a": (0, 0), "b": (0, 0), "c": (10, 10), "d": (10, 10)},
    "three are 20 points worse": {"a": (0, 0), "b": (20, 20), "c": (20, 20), "d": (20, 20)},
    "the best starts 10 points worse, ends 5 better": {
        "a": (0, 0),
        "b": (10, -5),
        "c": (5, 5),
        "d": (10, 10),
    },
    "the best starts 20 points worse, ends 5 better": {
        "a": (0, 0),
        "b": (20, -5),
        "c": (5, 5),
        "d": (10, 10),
    },
}
BUDGET, REPETITIONS = 540, 200


@dataclass(frozen=True)
class Row:
    """One setting.

    Attributes:
        setting: its name.
        left: methods that left the race, on average.
        handed_on: of a method that stayed, its share of the epochs with the race over that without.
        lost: share of the comparisons in which the method that had won left.
        cost: points of error that the race's recommendation has more, on average; below 0: fewer.
    """

    setting: str
    left: float
    handed_on: float
    lost: float
    cost: float


class _Search:
    """Random search with early stopping over the recorded curves, an epoch at a time."""

    def __init__(self, curves: list[Curve], offset: tuple[float, float], seed: int) -> None:
        self._curves, self._asha = curves, StudyASHA(EPOCHS)
        self._more = np.linspace(*offset, EPOCHS)
        self._order = np.random.default_rng(seed).permutation(len(curves)).tolist()
        self.values: Values = {}
        self.best: tuple[float, float] | None = None
        """Error on the validation images and on the others, of the best at full budget."""
        self.epochs, self._trial, self._epoch = 0, 0, 0

    def trial(self, last_rung: int) -> None:
        """Run the next trial to its end, or to where early stopping ends it."""
        curve, number = self._curves[self._order[self._trial % len(self._order)]], self._trial
        self._trial += 1
        for epoch, value in enumerate(curve.val_error, 1):
            self.epochs += 1
            error, place = value + float(self._more[epoch - 1]), epoch - curve.warmup
            if place == last_rung:
                self.values.setdefault(place, {})[number] = error
            if epoch == EPOCHS:
                self.values.setdefault(END, {})[number] = error
                held = curve.held_error[-1] + float(self._more[-1])
                self.best = min(self.best or (error, held), (error, held))
            elif place > 0 and self._asha._judge(number, place, error) == TrialScheduler.STOP:
                return


def course(
    curves: list[Curve], offsets: Offsets, seed: int, *, race: bool
) -> tuple[dict[str, _Search], set[str]]:
    """A comparison until its epochs are spent: the searches, and those that left the race. `a` is the baseline."""
    searches = {n: _Search(curves, offset, seed * 100 + i) for i, (n, offset) in enumerate(offsets.items())}
    out, last = set[str](), rungs(EPOCHS)[-1]
    while sum(search.epochs for search in searches.values()) < BUDGET:
        next_one = min((n for n in searches if n not in out), key=lambda name: searches[name].epochs)
        searches[next_one].trial(last)
        if race:
            values = {n: search.values for n, search in searches.items()}
            out |= {n for n in searches if n not in out and n != "a" and judged(n, values, last, SEEN)}
    return searches, out


def measure(name: str, offsets: Offsets, repetitions: int) -> Row:
    """One setting, with and without the race."""
    curves = read_curves()
    left, lost, cost, handed = list[float](), list[float](), list[float](), list[float]()
    for seed in range(repetitions):
        plain, _ = course(curves, offsets, seed, race=False)
        raced, out = course(curves, offsets, seed, race=True)
        winner, kept = _winner(plain), _winner(raced)
        left.append(len(out))
        lost.append(winner in out)
        handed += [raced[n].epochs / plain[n].epochs for n in offsets if n not in out]
        cost.append(_held(raced[kept]) - _held(plain[winner]))
    return Row(name, fmean(left), fmean(handed), fmean(lost), fmean(cost))


def _winner(searches: Mapping[str, _Search]) -> str:
    return min(searches, key=lambda n: (searches[n].best or (101.0, 0.0))[0])


def _held(search: _Search) -> float:
    assert search.best is not None
    return search.best[1]


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = [measure(name, offsets, arguments.repetitions) for name, offsets in SETTINGS.items()]
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    print(
        "| methods | left | epochs of those that stay, times | winner lost | cost, points |\n"
        + "|---" * 5
        + "|"
    )
    for row in rows:
        print(
            f"| {row.setting} | {row.left:.2f} | {row.handed_on:.2f} | {100 * row.lost:.1f} % | {row.cost:+.2f} |"
        )


if __name__ == "__main__":
    main()
