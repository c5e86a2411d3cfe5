"""Which clock is fair to trials of different warm-ups: measured on recorded learning curves.

    python -m benchmarks.clock      # half a minute; prints the tables of docs/results.md

ASHA compares trials when they have trained for a certain time. A clock says how that time is counted. Where the length
of the warm-up is searched, counting epochs after the warm-up judges a trial with a short warm-up after little training;
counting all epochs judges a trial with a long warm-up before its method has begun. For each clock the tables show how
well the errors at a rung rank the trials as their final errors do (Spearman; the final error is on images that no
decision sees), and which trials a simulated ASHA stops, by the length of their warm-up.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from types import SimpleNamespace

from ray.tune.schedulers.async_hyperband import _Bracket
from scipy.stats import spearmanr

from benchmarks.record_curves import EPOCHS, Curve, read_curves
from tune.definition.rungs import rungs
from tune.definition.spec import REDUCTION_FACTOR

TRIALS, CONCURRENT, REPETITIONS, BUDGET = 60, 4, 200, 540
Clock = Callable[[int, int], float | None]
"""Of a warm-up and an epoch, both in epochs: what the clock shows; None: no decision."""


def ssl_epoch(warmup: int, epoch: int) -> float | None:
    """Epochs after the warm-up."""
    return epoch - warmup if epoch > warmup else None


def all_epochs(warmup: int, epoch: int) -> float | None:
    """All epochs, the warm-up's among them."""
    return epoch


def with_grace(grace: int) -> Clock:
    """All epochs, but no decision before so many after the warm-up."""

    def clock(warmup: int, epoch: int) -> float | None:
        return epoch if epoch >= warmup + grace else None

    return clock


def share(warmup: int, epoch: int) -> float | None:
    """How much of the way from the warm-up to the end lies behind, on the scale of the full budget."""
    return EPOCHS * (epoch - warmup) / (EPOCHS - warmup) if epoch > warmup else None


CLOCKS: dict[str, Clock] = {
    "epochs after the warm-up": ssl_epoch,
    "all epochs": all_epochs,
    **{f"all epochs, none before {n} after the warm-up": with_grace(n) for n in (1, 3, 6)},
    "share of the way after the warm-up": share,
}


@dataclass(frozen=True)
class Judged:
    """A trial of a simulated study: its curve, and the epoch after which it was stopped (None: it completed)."""

    curve: Curve
    stopped: int | None


def judged_at(curve: Curve, clock: Clock, place: float) -> int | None:
    """The epoch after which a curve is compared at a rung; None where it ends before."""
    for epoch in range(1, len(curve.val_error)):
        now = clock(curve.warmup, epoch)
        if now is not None and now >= place:
            return epoch
    return None


def simulate(curves: Sequence[Curve], clock: Clock, concurrent: int = CONCURRENT) -> Iterator[Judged]:
    """Ray's ASHA over trials in this order, `concurrent` side by side, an epoch of each in turn."""
    bracket = _Bracket(1, EPOCHS, REDUCTION_FACTOR, 0, False)
    bracket._rungs = [(place, {}) for place in reversed(rungs(EPOCHS))]
    waiting, running = list(reversed(curves)), list[list[int]]()
    order = list(curves)
    while waiting or running:
        while waiting and len(running) < concurrent:
            running.append([len(order) - len(waiting), 0])
            waiting.pop()
        place = min(running, key=lambda entry: entry[1])
        place[1] += 1
        curve, epoch = order[place[0]], place[1]
        if epoch >= len(curve.val_error):
            running.remove(place)
            yield Judged(curve, None)
            continue
        now = clock(curve.warmup, epoch)
        if now is None:
            continue
        shim = SimpleNamespace(trial_id=str(place[0]))
        if bracket.on_result(shim, now, -curve.val_error[epoch - 1]) == "STOP":
            running.remove(place)
            yield Judged(curve, epoch)


def correlations(curves: Sequence[Curve], clock: Clock) -> list[float]:
    """Spearman's rank correlation of the error at each rung and the final one on other images."""
    found = []
    for place in rungs(EPOCHS):
        pairs = [(c, judged_at(c, clock, place)) for c in curves if not c.diverged]
        known = [(c.val_error[at - 1], c.held_error[-1]) for c, at in pairs if at is not None]
        found.append(float(spearmanr([a for a, _ in known], [b for _, b in known]).statistic))
    return found


def terciles(values: Sequence[float]) -> tuple[float, float]:
    """The two values that cut a sample into thirds."""
    ranked = sorted(values)
    return ranked[len(ranked) // 3], ranked[2 * len(ranked) // 3]


def stop_rates(
    curves: Sequence[Curve], clock: Clock, *, matched: bool, repetitions: int = REPETITIONS
) -> tuple[list[float], float]:
    """Share of trials that are stopped, by third of the warm-up's length (short, middle, long); epochs spent.

    Args:
        curves: to draw studies of TRIALS from.
        clock: which.
        matched: weight the trials so that each third has the same final errors: what is left is the clock's doing.
        repetitions: studies to average over.
    """
    short, middle = terciles([c.warmup for c in curves])
    good, fair = terciles([c.held_error[-1] for c in curves])

    def third(value: float, low: float, high: float) -> int:
        return int(value >= low) + int(value >= high)

    stopped: dict[tuple[int, int], list[bool]] = {}
    epochs = []
    for repetition in range(repetitions):
        drawn = random.Random(repetition).choices(curves, k=TRIALS)
        spent = 0
        for each in simulate(drawn, clock):
            key = third(each.curve.warmup, short, middle), third(each.curve.held_error[-1], good, fair)
            stopped.setdefault(key, []).append(each.stopped is not None)
            spent += each.stopped or len(each.curve.val_error)
        epochs.append(spent)
    rates = []
    for length in range(3):
        cells = [stopped.get((length, quality), []) for quality in range(3)]
        known = [cell for cell in cells if cell]
        rates.append(fmean(map(fmean, known)) if matched else fmean([x for cell in known for x in cell]))
    return rates, fmean(epochs)


def lost_best(curves: Sequence[Curve], clock: Clock, repetitions: int = REPETITIONS) -> float:
    """How often a study stops the best of its trials (by the final error on other images)."""
    lost = []
    for repetition in range(repetitions):
        drawn = random.Random(repetition).choices(curves, k=TRIALS)
        trials = list(simulate(drawn, clock))
        best = min(t.curve.held_error[-1] for t in trials)
        lost.append(all(t.stopped is not None for t in trials if t.curve.held_error[-1] == best))
    return fmean(lost)


def regret(
    curves: Sequence[Curve], clock: Clock, budget: int = BUDGET, repetitions: int = REPETITIONS
) -> float:
    """Points by which the chosen trial's final error exceeds the best there is, after so many epochs.

    The trial is chosen as a study does it: the lowest error, then loss, among those that ran to the end.
    """
    best = min(c.held_error[-1] for c in curves)
    found = []
    for repetition in range(repetitions):
        spent, completed = 0, list[Curve]()
        for each in simulate(random.Random(repetition).choices(curves, k=budget), clock):
            spent += each.stopped or len(each.curve.val_error)
            if spent > budget:
                break
            completed += [each.curve] if each.stopped is None else []
        chosen = min(completed, key=lambda c: (c.val_error[-1], c.val_loss[-1]), default=None)
        found.append((chosen or curves[0]).held_error[-1] - best)
    return fmean(found)


def rows(curves: Sequence[Curve]) -> Iterator[str]:
    """The table, in Markdown."""
    places = rungs(EPOCHS)
    columns = [
        "clock",
        *(f"rank correlation at {p}" for p in places),
        "stopped, by third of the warm-up: short, middle, long",
        "the same at equal final errors",
        "best trial stopped",
        "epochs",
        f"regret after {BUDGET} epochs",
    ]
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for name, clock in CLOCKS.items():
        found = correlations(curves, clock)
        plain, epochs = stop_rates(curves, clock, matched=False)
        matched, _ = stop_rates(curves, clock, matched=True)
        cells = [name, *(f"{x:.2f}" for x in found), _percent(plain), _percent(matched)]
        cells += [f"{100 * lost_best(curves, clock):.0f} %", f"{epochs:.0f}", f"{regret(curves, clock):.2f}"]
        yield f"| {' | '.join(cells)} |"


def _percent(rates: Sequence[float]) -> str:
    return ", ".join(f"{100 * rate:.0f}" for rate in rates) + " %"


def main() -> None:
    curves = [c for c in read_curves() if not c.diverged]
    print(f"{len(curves)} configurations; studies of {TRIALS} trials, {CONCURRENT} side by side\n")
    print("\n".join(rows(curves)))


if __name__ == "__main__":
    main()
