"""Which rule should recommend a search's trial: held-out regret of each rule after each search, at four marks.

    python -m benchmarks.recommend --sets pseudo_label fixmatch --choose   # the sets that choose
    python -m benchmarks.recommend --sets vat mean_teacher fixmatch-photographs --shared 0.5   # those that report

Nothing is trained. Each search is simulated once for each seed (`benchmarks.courses`; kept under
ssl-tune-home/courses), and every rule (`benchmarks.rules`) is applied to what it had seen after 5, 10, 20 and 40 full
trainings' worth of epochs. Regret is the held-out error of the recommended configuration, trained to the end, less the
lowest of all curves, in points.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.courses import BASELINES, FULL_TRAININGS, KEPT, SEARCHES, Seen, Task, courses, task_of
from benchmarks.curve_sets import DATA, EPOCHS, PARTS, SETS, read_runs
from benchmarks.rules import RULES, expectation, known, recommended, regret
from benchmarks.stock_search import NO_MODEL

REPETITIONS = 200


@cache
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


def covered(tasks: Sequence[Task], searches: Sequence[list[Seen]], rule: str, shared: float) -> np.ndarray:
    """Share of the searches whose 90 % interval holds the held-out error of the recommendation, at each mark; and how
    far the measured and the expected error are below the held-out one, in points: (3, marks)."""
    found = []
    for seed, marks in enumerate(searches):
        task = tasks[seed % PARTS]
        row = []
        for seen in marks:
            k, chosen = known(task, seen), recommended(RULES[rule], task, seen)
            if k is None or chosen is None or task.final[chosen] == NO_MODEL:
                row.append((np.nan, np.nan, np.nan))
                continue
            e, truth = expectation(k, chosen, shared), float(task.final[chosen])
            row.append((float(e.low <= truth <= e.high), truth - e.measured, truth - e.expected))
        found.append(row)
    return np.asarray(np.nanmean(np.array(found), axis=0).T)


def cell(values: np.ndarray) -> str:
    """Mean and standard error."""
    return f"{values.mean():.2f} ± {values.std(ddof=1) / len(values) ** 0.5:.2f}"


@dataclass(frozen=True)
class Protocol:
    """What is simulated.

    Attributes:
        searches, rules: their names.
        trainings: marks, in full trainings' worth of epochs.
        repetitions: seeds of each search.
        folder: of the packed curves.
        keep: folder of finished searches.
    """

    searches: tuple[str, ...]
    rules: tuple[str, ...]
    trainings: tuple[int, ...]
    repetitions: int
    folder: Path
    keep: Path

    def courses(self, name: str, search: str, curves: int) -> list[list[Seen]]:
        """A search's repetitions on a set of so many curves."""
        marks = [EPOCHS * n for n in self.trainings]
        kept = self.keep / f"{name}-{curves}-{'-'.join(map(str, self.trainings))}-{search}.jsonl"
        return courses(name, search, range(self.repetitions), marks, self.folder, kept)


@cache
def judged(name: str, search: str, rule: str, protocol: Protocol) -> np.ndarray:
    """`regrets` of a search and a rule on a set."""
    tasks = tasks_of(name, protocol.folder)
    return regrets(tasks, protocol.courses(name, search, len(tasks[0].final)), rule)


def choice(names: Sequence[str], protocol: Protocol) -> list[tuple[str, float]]:
    """The rules and their mean regret over these sets, all searches and all marks, the best first."""
    pairs = [(name, search) for name in names for search in protocol.searches]
    means = {
        rule: float(np.mean([judged(*pair, rule, protocol).mean() for pair in pairs]))
        for rule in protocol.rules
    }
    return sorted(means.items(), key=lambda pair: pair[1])


def regret_rows(name: str, protocol: Protocol) -> Iterator[list[str]]:
    """Cells of a set's table: search, rule, and the regret at each mark."""
    tasks = tasks_of(name, protocol.folder)
    for search in protocol.searches:
        found = protocol.courses(name, search, len(tasks[0].final))
        yield [search, "*curves used*", *(f"{100 * share:.0f} %" for share in used(tasks, found))]
        for rule in protocol.rules:
            yield [search, rule, *map(cell, judged(name, search, rule, protocol).T)]


def interval_rows(name: str, protocol: Protocol, shared: float) -> Iterator[list[str]]:
    """Cells of a set's table of intervals: search, rule, and at each mark how often the interval held."""
    tasks = tasks_of(name, protocol.folder)
    for search in protocol.searches:
        found = protocol.courses(name, search, len(tasks[0].final))
        for rule in protocol.rules:
            cells = covered(tasks, found, rule, shared).T
            yield [search, rule, *(f"{100 * c:.0f} % ({m:+.1f}, {e:+.1f})" for c, m, e in cells)]


def plot(names: Sequence[str], protocol: Protocol, mark: int, path: Path) -> None:
    """A picture of a mark: a panel a set, a row a rule, a point a search; bars are standard errors."""
    from tune.figures.style import BLUE, GREY, ORANGE, VERMILLION, drawing, dress, save

    looks = list(zip((GREY, ORANGE, VERMILLION, BLUE), "osD^", strict=True))
    figure = drawing(5.2 * len(names) + 1.6, 0.34 * len(protocol.rules) + 1.6)
    for place, name in enumerate(names, 1):
        axes = figure.add_subplot(1, len(names), place)
        for (colour, marker), search in zip(looks, protocol.searches, strict=False):
            values = [judged(name, search, rule, protocol)[:, mark] for rule in protocol.rules]
            middles = [v.mean() for v in values]
            errors = [v.std(ddof=1) / len(v) ** 0.5 for v in values]
            look = {"fmt": marker, "color": colour, "markersize": 5, "linewidth": 1, "label": search}
            axes.errorbar(middles, range(len(values)), xerr=errors, **look)
        title = f"{name}: {protocol.trainings[mark]} trainings, {protocol.repetitions} searches"
        dress(axes, title=title, x="held-out regret, points of error", y="")
        axes.set_yticks(
            range(len(protocol.rules)), protocol.rules if place == 1 else [""] * len(protocol.rules)
        )
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        if place == 1:
            axes.legend(frameon=False, fontsize=8, loc="lower left")
    save(figure, path)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table, line by line."""
    yield "| " + " | ".join(head) + " |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--searches", nargs="+", choices=list(SEARCHES), default=list(BASELINES))
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    parser.add_argument("--trainings", nargs="+", type=int, default=list(FULL_TRAININGS), help="the marks")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--curves", type=Path, default=DATA, help="folder of the packed curves")
    parser.add_argument("--keep", type=Path, default=KEPT, help="folder of finished searches")
    parser.add_argument(
        "--shared", type=float, help="show the interval too, with this correlation of two trials' mistakes"
    )
    parser.add_argument(
        "--choose", action="store_true", help="the rules by their mean over all of it, the best first"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FOLDER", help="draw a picture a mark: search-quality-MARK.png"
    )
    options = parser.parse_args(arguments)
    protocol = Protocol(
        tuple(options.searches),
        tuple(options.rules),
        tuple(options.trainings),
        options.repetitions,
        options.curves,
        options.keep,
    )
    marks = [str(n) for n in options.trainings]
    for name in options.sets:
        print(
            "\n".join(markdown([f"{name}: search", "rule", *marks], regret_rows(name, protocol))), flush=True
        )
        if options.shared is not None:
            head = [f"{name}: search", "the interval held (held-out above measured, above expected)", *marks]
            print("\n".join(markdown(head, interval_rows(name, protocol, options.shared))), flush=True)
    if options.choose:
        print("\n".join(f"{mean:.3f} {rule}" for rule, mean in choice(options.sets, protocol)))
    for place, mark in enumerate(options.trainings if options.plot else ()):
        plot(options.sets, protocol, place, options.plot / f"search-quality-{mark}.png")


if __name__ == "__main__":
    main()
