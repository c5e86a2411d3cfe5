"""Does it cost anything that the sampler sees a part of a long study? Regret on the recorded curves with and without.

    python -m benchmarks.bounded_view                                   # three minutes of one core; the same each time
    python -m benchmarks.bounded_view --bounds 100x2000 --repetitions 4 --marks 20000 40000      # the bound as it is

The searches are those of `benchmarks.search_quality` ("this project"), once with a view of all trials and once for
each bound, BESTxNEWEST: so many of the best ended trials and of those asked for last. The bound that studies have
never takes hold in searches as short as these, so smaller ones are tried, which leave out most of a search.
Repetitions are paired by their seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean

from benchmarks.record_curves import read_curves
from benchmarks.search_quality import OWN, Course, course, standard_error
from benchmarks.stock_search import IMAGES, Recorded
from tune.findings.comparisons import Spread
from tune.trials import sampling

ALL = 10**9
BOUNDS = ((5, 20), (5, 10), (2, 5))
MARKS, REPETITIONS = (270, 540, 1080), 30

Bound = tuple[int, int]


@contextmanager
def bounded(bound: Bound) -> Iterator[None]:
    """Within the block samplers of new studies see so many of the best and of the newest trials."""
    before = sampling.BEST, sampling.NEWEST
    sampling.BEST, sampling.NEWEST = bound
    try:
        yield
    finally:
        sampling.BEST, sampling.NEWEST = before


def searches(recorded: Recorded, bound: Bound, repetitions: int, marks: Sequence[int]) -> list[Course]:
    """Every repetition with a bound, in order of their seeds."""
    with bounded(bound):
        return [course(OWN, recorded, seed, marks) for seed in range(repetitions)]


def table(courses: dict[Bound, list[Course]], marks: Sequence[int]) -> Iterator[str]:
    """A row for each bound and kind of images: regret, and its difference from the unbounded one, in Markdown."""
    columns = ["best, newest", "images", *(f"after {mark} epochs" for mark in marks), "trials"]
    yield "| " + " | ".join(columns) + " |"
    yield "|---" * len(columns) + "|"
    for bound, images in ((bound, images) for bound in courses for images in IMAGES):
        cells = []
        for mark in marks:
            values = [c.regret[images][mark] for c in courses[bound]]
            cell = f"{fmean(values):.2f} ± {standard_error(values):.2f}"
            if bound != (ALL, ALL):
                pairs = zip(courses[bound], courses[ALL, ALL], strict=True)
                spread = Spread(
                    tuple(one.regret[images][mark] - all_.regret[images][mark] for one, all_ in pairs)
                )
                interval = "" if spread.interval is None else " ({:+.2f} to {:+.2f})".format(*spread.interval)
                cell += f", {spread.mean:+.2f}{interval}"
            cells.append(cell)
        name = "all" if bound == (ALL, ALL) else "{}, {}".format(*bound)
        yield (
            "| " + " | ".join([name, images, *cells, f"{fmean(c.trials for c in courses[bound]):.0f}"]) + " |"
        )


def _bound(text: str) -> Bound:
    best, newest = text.split("x")
    return int(best), int(newest)


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--marks", type=int, nargs="+", default=list(MARKS), help="epochs of the tables")
    parser.add_argument("--bounds", type=_bound, nargs="+", default=list(BOUNDS), metavar="BESTxNEWEST")
    parser.add_argument("--json", action="store_true", help="every repetition's regrets instead of the table")
    options = parser.parse_args()
    recorded = Recorded(read_curves())
    courses = {
        bound: searches(recorded, bound, options.repetitions, options.marks)
        for bound in [(ALL, ALL), *options.bounds]
    }
    if options.json:
        found = {f"{best}x{newest}": [c.regret for c in found] for (best, newest), found in courses.items()}
        print(json.dumps(found))
        return
    print(
        f"{options.repetitions} repetitions; regret in points, mean ± standard error; less that of a view of all,"
    )
    print("paired, with the 95 % interval of its mean\n")
    print("\n".join(table(courses, options.marks)))


if __name__ == "__main__":
    main()
