"""What `search --patience N` saves and costs, on recorded curves; and the looks of `confirm --until-told-apart`.

    python -m benchmarks.patience                      # seconds; prints the tables
    python -m benchmarks.patience --own 30 --json      # also 30 studies of this project's search: minutes of one core

Nothing is trained. A study is 40 of the configurations of data/curves.csv, drawn at random without replacement and all
trained to the end, with 50 validation images; 400 such studies are drawn. With `--own` there are also studies of this
project's search (`benchmarks.simulated`, TPE and ASHA, one trial at a time), answered by the nearest curve. With one
trial at a time a study with `--patience N` is the beginning of the same study without it, so one gives all lengths. The
cost is in the error on held-out images that no decision sees: of what is recommended at the end that patience brings,
less that of what is recommended after all trials. The number of distinct curves asked for is given, too: where it nears
105 the search has exhausted them.

The looks: paired differences of errors are drawn from a normal distribution, and the looks at 5 to 20 seeds are taken
by three shapes of the nominal level, each at the size that errs in 5 % of the cases without a difference.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.record_curves import EPOCHS, METHOD, SPACE, read_curves
from benchmarks.record_curves import SEEN as VALID
from benchmarks.search_quality import _flat, standard_error
from benchmarks.simulated import Driver, Outcome
from benchmarks.stock_search import HELD, Recorded
from tune.definition.request import SearchRequest
from tune.findings.outlook.rule import standing
from tune.findings.ranking import best_record
from tune.launch.request import resolve_request
from tune.store.home import Home
from tune.store.study_folder import StudyFolder
from tune.trials.record import TrialRecord

TRIALS, DRAWN, PATIENCE = 40, 400, (3, 5, 8, 12, 16)
FIRST, MOST, LEVEL = 5, 20, 0.05


@dataclass(frozen=True)
class Row:
    """What a patience does with one sampler and scheduler.

    Attributes:
        search, patience: of the studies.
        ended: share of the studies that it ended before all of their trials.
        trials, epochs: of a study, in the mean.
        all_epochs: of a study without patience, in the mean.
        cost, cost_error: in held-out error, points, and its standard error over the studies.
        worse, better: shares of the studies whose recommendation has the higher, and the lower, held-out error for it.
    """

    search: str
    patience: int
    ended: float
    trials: float
    epochs: float
    all_epochs: float
    cost: float
    cost_error: float
    worse: float
    better: float


def drawn(recorded: Recorded, seed: int) -> list[TrialRecord]:
    """A study of configurations drawn at random, each another one, that all run to their end or diverge."""
    chosen = random.Random(seed).sample(recorded.curves, TRIALS)
    return [
        TrialRecord(
            trial=str(number),
            state="failed" if curve.diverged else "completed",
            stop_reason="nan" if curve.diverged else "completed",
            val_error=curve.val_error[-1],
            val_loss=curve.val_loss[-1],
            epoch=len(curve.val_error),
            ssl_epoch=len(curve.val_error) - curve.warmup,
            seconds=0.0,
            params=recorded.space.resolve(curve.params, EPOCHS),
        )
        for number, curve in enumerate(chosen)
    ]


def searched(recorded: Recorded, seed: int) -> list[TrialRecord]:
    """The trials of a study of this project's search that runs to its last one."""

    def outcome_of(document: Mapping[str, Any]) -> Outcome:
        curve = recorded.nearest(_flat(document))
        return Outcome(curve.warmup, curve.val_error, curve.val_loss)

    with tempfile.TemporaryDirectory(prefix="ssl-tune-patience-") as folder:
        home = Home(Path(folder))
        request = SearchRequest(
            name="patience",
            method=METHOD,
            space=str(SPACE),
            trials=TRIALS,
            epochs=EPOCHS,
            concurrent=1,
            seed=seed,
            sampler="tpe",
            objective="val/error",
            settings={"threads": 1, "precision": "float32"},
        )
        spec = resolve_request(request, home)
        StudyFolder(home.study_folder(spec.name)).create(spec)
        driver = Driver(spec, home, outcome_of)
        driver.run()
        found = driver.records.all()
        driver.close()
    return found


def length(records: Sequence[TrialRecord], patience: int) -> int:
    """How many trials a study has that patience ends."""
    for count in range(1, len(records)):
        if standing(records[:count], VALID).since >= patience:
            return count
    return len(records)


def held_out(recorded: Recorded, records: Sequence[TrialRecord]) -> float:
    """Held-out error in percent of what is recommended."""
    chosen, _ = best_record(records)
    assert chosen is not None
    return recorded.final(recorded.nearest(chosen.params), HELD)


def measure(
    recorded: Recorded, search: str, studies: Sequence[Sequence[TrialRecord]]
) -> tuple[list[Row], dict[str, float]]:
    """A row for each patience; and how the expected last doubling foretells the next one."""
    at_end = [held_out(recorded, records) for records in studies]
    rows = []
    for patience in PATIENCE:
        lengths = [length(records, patience) for records in studies]
        cut = [records[:count] for records, count in zip(studies, lengths, strict=True)]
        costs = [held_out(recorded, c) - end for c, end in zip(cut, at_end, strict=True)]
        rows.append(
            Row(
                search,
                patience,
                fmean(count < len(records) for count, records in zip(lengths, studies, strict=True)),
                fmean(lengths),
                fmean(sum(r.epoch for r in c) for c in cut),
                fmean(sum(r.epoch for r in records) for records in studies),
                fmean(costs),
                standard_error(costs),
                fmean(cost > 0 for cost in costs),
                fmean(cost < 0 for cost in costs),
            )
        )
    return rows, _foretold(recorded, studies)


def _foretold(recorded: Recorded, studies: Sequence[Sequence[TrialRecord]]) -> dict[str, float]:
    """After half of the trials: what `status` expects of as many again, and what these brought."""
    halves = [standing(records[: TRIALS // 2], VALID) for records in studies]
    gains = [_lowest(records[: TRIALS // 2]) - _lowest(records) for records in studies]
    asked = [len({recorded.nearest(r.params).number for r in records}) for records in studies]
    not_expected = [place for place, half in enumerate(halves) if half.improves is False]
    improved = [gains[place] > (halves[place].resolves or 0.0) for place in not_expected]
    return {
        "expected_points": fmean(half.last_doubling or 0.0 for half in halves),
        "brought_points": fmean(gains),
        "said_not_expected": len(not_expected) / len(studies),
        "improved_though_not_expected": fmean(improved) if improved else 0.0,
        "distinct_curves": fmean(asked),
    }


def _lowest(records: Sequence[TrialRecord]) -> float:
    """The lowest val/error of trials that ran to their end."""
    return min(r.val_error for r in records if r.state == "completed" and r.val_error is not None)


def looks(sequences: int = 40_000) -> list[dict[str, float]]:
    """Power, and seeds in the mean, of three shapes of the nominal level over the looks; and of one look at the end."""
    import numpy as np
    from scipy.stats import t

    count = np.arange(FIRST, MOST + 1)

    def p_values(effect: float, seed: int) -> Any:
        drawn = np.random.default_rng(seed).normal(effect, 1.0, (sequences, MOST))
        sums, squares = drawn.cumsum(axis=1)[:, FIRST - 1 :], (drawn**2).cumsum(axis=1)[:, FIRST - 1 :]
        spread = np.sqrt((squares - sums**2 / count) / (count - 1))
        return 2 * t.sf(np.abs(sums) / spread / np.sqrt(count), count - 1)

    null, rows = p_values(0.0, 0), []
    for shape in (0, 1, 2):
        weights = (count / MOST) ** shape
        last = float(np.quantile((null / weights).min(axis=1), LEVEL))
        for effect in (0.5, 0.8, 1.2, 2.0):
            hit = p_values(effect, 1) <= last * weights
            ends = np.where(hit.any(axis=1), hit.argmax(axis=1) + FIRST, MOST)
            fixed = float((p_values(effect, 1)[:, -1] <= LEVEL).mean())
            found = {
                "shape": shape,
                "last_level": last,
                "effect": effect,
                "power": float(hit.any(axis=1).mean()),
            }
            rows.append(found | {"seeds": float(ends.mean()), "power_of_one_look": fixed})
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--own", type=int, default=0, help="studies of this project's search")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    recorded = Recorded(read_curves())
    studies = {"drawn at random": [drawn(recorded, seed) for seed in range(DRAWN)]}
    if arguments.own:
        studies["TPE and ASHA"] = [searched(recorded, seed) for seed in range(arguments.own)]
    found = {search: measure(recorded, search, each) for search, each in studies.items()}
    if arguments.json:
        rows = [asdict(row) for rows, _ in found.values() for row in rows]
        told = {search: each for search, (_, each) in found.items()}
        print(json.dumps({"patience": rows, "foretold": told, "looks": looks()}))
        return
    print(
        "| search | patience | ended | trials | epochs (without) | cost in held-out error, points | worse / better |"
    )
    print("|---" * 7 + "|")
    for rows, _ in found.values():
        for row in rows:
            print(
                f"| {row.search} | {row.patience} | {100 * row.ended:.0f} % | {row.trials:.1f} | "
                f"{row.epochs:.0f} ({row.all_epochs:.0f}) | {row.cost:+.2f} ± {row.cost_error:.2f} | "
                f"{100 * row.worse:.0f} % / {100 * row.better:.0f} % |"
            )
    for search, (_, each) in found.items():
        print(search, {name: round(value, 2) for name, value in each.items()})
    for look in looks():
        print({name: round(value, 4) for name, value in look.items()})


if __name__ == "__main__":
    main()
