"""How good a search is: regret after equal epochs, on recorded learning curves, against random search and stock parts.

    python -m benchmarks.search_quality --plot docs/search-quality.png     # minutes of one core; prints the tables
    python -m benchmarks.search_quality --repetitions 2 --marks 135 --json # smaller; every repetition's regret

Nothing is trained. A configuration that a search asks for gets the curve of the nearest configuration in
data/curves.csv. Distances are taken in the unit cube of data/curves-space.yaml: the learning rate and the weight decay
on a logarithmic scale, the warm-up as its whole number of epochs over the run's. This is the same for every contender.
Four workers in virtual time train one epoch each in turn; a trial that ends is replaced at once. The number of trials
is not limited: a search goes on until its epochs are spent, those of trials under way included.

- Contenders of Ray's parts: `OptunaSearch` and `ASHAScheduler` themselves, set up as in their documentation (val/error,
  all epochs counted, grace 1, factor 3) and called in the order in which Ray Tune's controller calls them. Random
  search is the same class with Optuna's random sampler. Searches without early stopping have a `FIFOScheduler`.
- This project's search is its own searcher, scheduler, recorder and storages (`benchmarks.simulated`). It tries the
  space's baseline first. One of the stock contenders starts with the same point, to show what that alone is worth.

All recommend a configuration by the project's rule (`tune.findings.ranking.best_record`): the lowest val_error, then
val_loss, of the trials that ran to the end; before there is one, of those that came furthest after their warm-up.
Regret is the error of the recommended configuration at the end of its curve, less the lowest of all curves, in points.
It is given on the validation images, which the search works on, and on images that no decision sees, where it includes
the luck of having been chosen.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from optuna.samplers import RandomSampler
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from benchmarks.record_curves import EPOCHS, read_curves
from benchmarks.simulated import Driver, Outcome
from benchmarks.stock_search import HELD, IMAGES, METRIC, TIME, Recorded, StockSearch
from tune.definition.request import SearchRequest
from tune.definition.spec import REDUCTION_FACTOR, StudySpec
from tune.findings.comparisons import Spread
from tune.launch.request import resolve_request
from tune.store.home import Home
from tune.store.study_folder import StudyFolder
from tune.trials.record import TrialRecord

CONCURRENT, REPETITIONS, MARKS = 4, 30, (135, 270, 540, 1080)
RANDOM, RANDOM_ASHA, STOCK = "random search", "random search + ASHA", "stock: OptunaSearch + ASHA"
STOCK_BASELINE, OWN = "stock, this project's first point", "this project"


def own_spec(recorded: Recorded, seed: int, home: Home, **options: Any) -> StudySpec:
    """A study of this project's on the curves.

    Args:
        recorded: the curves.
        seed: of the search.
        home: where it is; nothing is written.
        options: of a `SearchRequest`, other than the defaults.
    """
    common: dict[str, Any] = {
        "trials": 10 * max(MARKS),  # never reached
        "startup_trials": 10,  # as the stock sampler has
        "sampler": "tpe",
        "objective": "val/error",
    }
    request = SearchRequest(
        name="quality",
        method=recorded.space.method,
        space=recorded.space.source,
        epochs=recorded.epochs,
        concurrent=CONCURRENT,
        seed=seed,
        settings={"threads": 1, "precision": "float32", "data.valid": recorded.valid},
        **common | options,
    )
    return resolve_request(request, home)


class OwnSearch:
    """This project's search, which can be halted after any epoch.

    Args:
        recorded: the curves.
        seed: of the search.
        options: of a `SearchRequest`, other than the defaults.
    """

    def __init__(self, recorded: Recorded, seed: int, **options: Any) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ssl-tune-quality-")
        home = Home(Path(self._folder.name))
        spec = own_spec(recorded, seed, home, **options)
        StudyFolder(home.study_folder(spec.name)).create(spec)

        def outcome_of(document: Mapping[str, Any]) -> Outcome:
            curve = recorded.nearest(_flat(document))
            return Outcome(curve.warmup, curve.val_error, curve.val_loss)

        self.driver = Driver(spec, home, outcome_of)

    def run(self, budget: int) -> None:
        """Go on until so many epochs have been spent since the beginning."""
        self.driver.run(budget)

    def records(self) -> list[TrialRecord]:
        """The trials as they stand."""
        return self.driver.records.all()

    def close(self) -> None:
        """Let go of the files."""
        self.driver.close()
        self._folder.cleanup()


def _flat(document: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration document by dotted names."""
    sections = {k: v for k, v in document.items() if isinstance(v, dict)}
    inner = {f"{section}.{k}": v for section, values in sections.items() for k, v in values.items()}
    return {k: v for k, v in document.items() if k not in sections} | inner


def asha(recorded: Recorded) -> ASHAScheduler:
    """As in Ray's documentation."""
    return ASHAScheduler(
        time_attr=TIME,
        metric=METRIC,
        mode="min",
        max_t=recorded.epochs,
        grace_period=1,
        reduction_factor=REDUCTION_FACTOR,
    )


def stock(recorded: Recorded, scheduler: TrialScheduler, **options: Any) -> StockSearch:
    """Ray's `OptunaSearch` with these options and a scheduler."""
    space = recorded.space.distributions(recorded.epochs)
    searcher = OptunaSearch(space, metric=METRIC, mode="min", **options)
    return StockSearch(recorded, searcher, scheduler, CONCURRENT)


def _first(recorded: Recorded) -> list[dict[str, Any]]:
    return [recorded.space.baseline_for(recorded.epochs)]


CONTENDERS: dict[str, Callable[[Recorded, int], StockSearch | OwnSearch]] = {
    RANDOM: lambda recorded, seed: stock(recorded, FIFOScheduler(), sampler=RandomSampler(seed=seed)),
    RANDOM_ASHA: lambda recorded, seed: stock(recorded, asha(recorded), sampler=RandomSampler(seed=seed)),
    STOCK: lambda recorded, seed: stock(recorded, asha(recorded), seed=seed),
    STOCK_BASELINE: lambda r, seed: stock(r, asha(r), seed=seed, points_to_evaluate=_first(r)),
    OWN: OwnSearch,
}


@dataclass(frozen=True)
class Course:
    """One repetition of a contender.

    Attributes:
        regret: in points, for each of IMAGES, after each of `places` epochs.
        trials: begun by the end.
        completed: of them, those that ran to their last epoch.
    """

    regret: dict[str, dict[int, float]]
    trials: int
    completed: int


def course(contender: str, recorded: Recorded, seed: int, places: Sequence[int]) -> Course:
    """A search from its beginning to the last of `places`, each a number of epochs."""
    search = CONTENDERS[contender](recorded, seed)
    regret: dict[str, dict[int, float]] = {images: {} for images in IMAGES}
    try:
        for place in places:
            search.run(place)
            for images, points in recorded.regret(search.records()).items():
                regret[images][place] = points
        records = search.records()
    finally:
        search.close()
    return Course(regret, len(records), sum(r.state == "completed" for r in records))


def measure(recorded: Recorded, repetitions: int, marks: Sequence[int]) -> dict[str, list[Course]]:
    """Every contender's repetitions, in order of their seeds; regrets after every EPOCHS epochs and at the marks."""
    places = sorted({*range(EPOCHS, max(marks) + 1, EPOCHS), *marks})
    return {
        name: [course(name, recorded, seed, places) for seed in range(repetitions)] for name in CONTENDERS
    }


def standard_error(values: Sequence[float]) -> float:
    """Of the mean; 0 for a single value."""
    return (Spread(tuple(values)).std or 0.0) / len(values) ** 0.5


@dataclass(frozen=True)
class Pairing:
    """This project's regret less another contender's, in points, paired by repetition.

    Attributes:
        images: what the regret is measured on, of IMAGES.
        other: the contender.
        epochs: spent by each.
        mean: of the differences; below 0 where this project is better.
        interval: of 95 % for the mean (Student's t); None for fewer than three repetitions.
        better, equal, worse: in how many repetitions this project was.
    """

    images: str
    other: str
    epochs: int
    mean: float
    interval: tuple[float, float] | None
    better: int
    equal: int
    worse: int


def pairings(courses: Mapping[str, Sequence[Course]], marks: Sequence[int]) -> Iterator[Pairing]:
    """This project against every other contender, on either images, at every mark."""
    others = [name for name in CONTENDERS if name != OWN]
    for images, other, mark in itertools.product(IMAGES, others, marks):
        pairs = zip(courses[OWN], courses[other], strict=True)
        spread = Spread(tuple(own.regret[images][mark] - its.regret[images][mark] for own, its in pairs))
        signs = [(d > 0) - (d < 0) for d in spread.values]
        counts = {"better": signs.count(-1), "equal": signs.count(0), "worse": signs.count(1)}
        yield Pairing(images, other, mark, spread.mean, spread.interval, **counts)


def tables(courses: Mapping[str, Sequence[Course]], marks: Sequence[int]) -> Iterator[str]:
    """One of the contenders for each of IMAGES, and one of the pairs, in Markdown."""
    for images in IMAGES:
        columns = [
            f"regret on the {images}",
            *(f"after {mark} epochs" for mark in marks),
            "trials",
            "completed",
        ]
        yield from ("| " + " | ".join(columns) + " |", "|---" * len(columns) + "|")
        for name, repetitions in courses.items():
            values = [[c.regret[images][mark] for c in repetitions] for mark in marks]
            cells = [f"{fmean(column):.2f} ± {standard_error(column):.2f}" for column in values]
            cells.append(f"{fmean(c.trials for c in repetitions):.0f}")
            cells.append(f"{fmean(c.completed for c in repetitions):.0f}")
            yield "| " + " | ".join([name, *cells]) + " |"
        yield ""
    yield "| this project less | images | epochs | difference in points | 95 % interval | better, equal, worse |"
    yield "|---" * 6 + "|"
    for pair in pairings(courses, marks):
        interval = "" if pair.interval is None else "{:+.2f} to {:+.2f}".format(*pair.interval)
        cells = [pair.other, pair.images, str(pair.epochs), f"{pair.mean:+.2f}", interval]
        yield "| " + " | ".join([*cells, f"{pair.better}, {pair.equal}, {pair.worse}"]) + " |"


def plot(courses: Mapping[str, Sequence[Course]], lowest: float, path: Path) -> None:
    """Mean regret against epochs, with a band of a standard error to each side: a panel for each of IMAGES."""
    from tune.figures.style import BLACK, drawing, save

    figure = drawing(12, 5)
    repetitions = len(courses[OWN])
    for place, images in enumerate(IMAGES, 1):
        axes = figure.add_subplot(1, 2, place)
        _panel(axes, courses, images)
        if images == HELD:
            axes.axhline(lowest, color=BLACK, linewidth=0.8)
            note = "the rule's choice among all curves at full length"
            axes.text(0.01, lowest, note, fontsize=8, va="bottom", transform=axes.get_yaxis_transform())
        else:
            axes.legend(frameon=False, fontsize=9)
            axes.set_title(
                f"mean of {repetitions} searches, band: one standard error", loc="left", fontsize=9
            )
    save(figure, path)


def _panel(axes: Any, courses: Mapping[str, Sequence[Course]], images: str) -> None:
    from tune.figures.style import BLUE, GREY, ORANGE, SKY, VERMILLION, dress

    looks = zip((GREY, ORANGE, VERMILLION, SKY, BLUE), ("--", "-.", "-", ":", "-"), strict=True)
    for (name, repetitions), (colour, line) in zip(courses.items(), looks, strict=True):
        places = list(repetitions[0].regret[images])
        values = [[c.regret[images][place] for c in repetitions] for place in places]
        means, errors = [fmean(v) for v in values], [standard_error(v) for v in values]
        axes.plot(places, means, line, color=colour, label=name, linewidth=2.5 if name == OWN else 1.6)
        low, high = zip(*((m - e, m + e) for m, e in zip(means, errors, strict=True)), strict=True)
        axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
    dress(axes, title="", x="epochs trained, over all trials", y=f"regret on the {images}, points of error")
    axes.set_ylim(bottom=0)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--marks", type=int, nargs="+", default=list(MARKS), help="epochs of the tables")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="write the curves as PNG")
    parser.add_argument(
        "--json", action="store_true", help="every repetition's regrets instead of the tables"
    )
    options = parser.parse_args(arguments)
    recorded = Recorded(read_curves())
    courses = measure(recorded, options.repetitions, options.marks)
    lowest = recorded.floor()
    if options.plot is not None:
        plot(courses, lowest, options.plot)
    if options.json:
        pairs = [asdict(pair) for pair in pairings(courses, options.marks)]
        found = {name: [asdict(c) for c in repetitions] for name, repetitions in courses.items()}
        print(json.dumps({"floor": lowest, "contenders": found, "pairs": pairs}))
        return
    print(
        f"{len(recorded.curves)} curves, {options.repetitions} repetitions; regret in points, mean ± standard error"
    )
    print(f"of the rule's choice among all curves at full length, on the {HELD}: {lowest:.2f}\n")
    print("\n".join(tables(courses, options.marks)))


if __name__ == "__main__":
    main()
