"""Which rule should recommend a search's trial: held-out regret of each rule after each search, at four marks.

    python -m benchmarks.recommend --sets pseudo_label fixmatch   # the sets that choose
    python -m benchmarks.recommend --sets vat mean_teacher        # the sets that report

Nothing is trained. Each search is simulated once for each seed (`benchmarks.courses`; kept under
ssl-tune-home/courses), and every rule (`benchmarks.rules`) is applied to what it had seen after 5, 10, 20 and 40 full
trainings' worth of epochs. Regret is the held-out error of the recommended configuration, trained to the end, less the
lowest of all curves, in points.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.courses import BASELINES, FULL_TRAININGS, KEPT, MARKS, SEARCHES, Seen, Task, courses, task_of
from benchmarks.curve_sets import PARTS, SETS, read_runs
from benchmarks.record_curves import DATA
from benchmarks.rules import RULES, regret

REPETITIONS = 200


def tasks_of(name: str, folder: Path) -> list[Task]:
    """A set with each of its validation sets."""
    runs = read_runs(name, folder)
    return [task_of(name, part, runs) for part in range(PARTS)]


def regrets(tasks: Sequence[Task], searches: Sequence[list[Seen]], rule: str) -> np.ndarray:
    """(repetitions, marks)."""
    return np.array(
        [
            [regret(RULES[rule], tasks[seed % PARTS], seen) for seen in marks]
            for seed, marks in enumerate(searches)
        ]
    )


def used(tasks: Sequence[Task], searches: Sequence[list[Seen]]) -> np.ndarray:
    """Mean share of the curves that a search has used at each mark."""
    shares = [[len(set(s.curve)) / len(tasks[0].final) for s in marks] for marks in searches]
    return np.mean(shares, axis=0)


def cell(values: np.ndarray) -> str:
    """Mean and standard error."""
    return f"{values.mean():.2f} ± {values.std(ddof=1) / len(values) ** 0.5:.2f}"


def table(
    name: str, search_names: Sequence[str], rules: Sequence[str], repetitions: int, folder: Path, keep: Path
) -> Iterator[str]:
    """Markdown, a row a search and rule."""
    tasks = tasks_of(name, folder)
    yield f"| {name}, {len(tasks[0].final)} curves | " + " | ".join(map(str, FULL_TRAININGS)) + " |"
    yield "|---" * (len(MARKS) + 1) + "|"
    for search in search_names:
        found = courses(name, search, range(repetitions), folder, keep / f"{name}-{search}.jsonl")
        shares = " | ".join(f"{100 * share:.0f} %" for share in used(tasks, found))
        yield f"| *{search}*, curves used | {shares} |"
        for rule in rules:
            values = regrets(tasks, found, rule)
            yield f"| {search}; {rule} | " + " | ".join(cell(column) for column in values.T) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--searches", nargs="+", choices=list(SEARCHES), default=list(BASELINES))
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--curves", type=Path, default=DATA, help="folder of the packed curves")
    parser.add_argument("--keep", type=Path, default=KEPT, help="folder of finished searches")
    options = parser.parse_args()
    for name in options.sets:
        lines = table(
            name, options.searches, options.rules, options.repetitions, options.curves, options.keep
        )
        print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
