"""Trainings that end with the test set: each in a folder of its own, carried on where it was, read once.

A confirmation and a reproduced table are lists of them. One at a time, they run in this process; side by side,
on Ray. Whoever starts the same list again, after Ctrl-C or a crash, is given what is done and trains the rest.
"""

from __future__ import annotations

import fcntl
import json
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ssl_core import method_file
from ssl_core.config import RunConfig
from ssl_core.system.errors import NonFiniteError
from ssl_core.system.files import write_atomically
from tune.images.held_out import membership_of_document
from tune.store.events import Report
from tune.store.home import Home
from tune.store.layout import WARMUPS
from tune.worker.task import PRELOAD

FIRST_SEED = 1000
"""Seeds of final models begin here: none that a person would give a study by hand."""
PROBLEM_FILE = "not-finite.txt"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Training:
    """One training, to its last epoch and to the test set.

    Attributes:
        title: what it is called while it runs.
        config: resolved.
        out: its folder; of two trainings with one folder only one is made.
    """

    title: str
    config: RunConfig
    out: Path


@dataclass(frozen=True)
class Trained:
    """What came out.

    Attributes:
        result: `ssl_core.training.result.Result.document`; None where the training turned NaN or infinite.
        reports: every epoch's, whenever it was trained; those before a loss that was not finite, too.
        problem: why there is no result.
        warmup: epochs of its warm-up.
        readings: of the test set, as they are recorded.
    """

    result: dict[str, Any] | None
    reports: list[Report]
    problem: str | None = None
    warmup: int = 0
    readings: list[dict[str, Any]] = field(default_factory=list)

    @property
    def began_ms(self) -> int | None:
        """When its first epoch began, in Unix milliseconds; None where that is not known."""
        if not self.reports or not self.reports[0].time_ms:
            return None
        first = self.reports[0]
        return first.time_ms - round(1000 * first.metrics["time/epoch_seconds"])

    @property
    def ended_ms(self) -> int | None:
        """When its last epoch ended, in Unix milliseconds; None where that is not known."""
        return (self.reports[-1].time_ms or None) if self.reports else None


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where trainings run, and how many side by side.

    Attributes:
        home: cache of decoded images, and the record of test readings.
        data_root: where downloaded data lie.
        concurrent: trainings side by side.
        cpus, gpus: that Ray reserves for one.
        address: of the Ray cluster that this process has joined and they run on; None: this machine.
        held_out: the record of held-out test images (`Membership.document`); None: the data set brings its own.
        warmup_cache: bytes that stored warm-ups may take; 0: none are stored or taken; None: a share of the free disk.
    """

    home: Home
    data_root: str | None
    concurrent: int
    cpus: float
    gpus: float
    address: str | None = None
    held_out: Mapping[str, Any] | None = None
    warmup_cache: int | None = None


Redrawn = Literal["training", "labels", "everything"]
"""What a fresh seed changes beside the training itself: nothing, the labelled images, or the validation images too."""


def fresh(config: RunConfig, number: int, redrawn: Redrawn = "labels") -> RunConfig:
    """A configuration on the training seed, and the labelled set, of final model `number` (from 1)."""
    seed = FIRST_SEED + number
    seeds = {"training": (), "labels": ("label_seed",), "everything": ("label_seed", "split_seed")}[redrawn]
    data = config.data.model_copy(update=dict.fromkeys(seeds, seed))
    return config.model_copy(update={"seed": seed, "data": data, "stop_after_epoch": None})


def train_all(
    trainings: Sequence[Training],
    places: Places,
    say: Say,
    each: Callable[[int, Trained], None] = lambda place, trained: None,
) -> list[Trained]:
    """Train what is not trained yet; what came out of each, in their order.

    Args:
        trainings: what to train.
        places: where, and how many side by side.
        say: told as each ends.
        each: given what came out of each as it ends, with its place among `trainings`.
    """
    found: dict[int, Trained] = {}
    left = list(range(len(trainings)))
    if places.home.url is not None:
        # What a worker has trained on its own disk before may lie on another machine than that of the next one.
        found = {place: done for place in left if (done := finished(trainings[place])) is not None}
        left = [place for place in left if place not in found]
    for number, trained in each_of(_train, [_arguments(trainings[place], places) for place in left], places):
        place = left[number]
        found[place] = trained
        if places.home.url is not None:
            bring_home(trainings[place], trained, places.home)
        say(f"{len(found)}/{len(trainings)} {_line(trainings[place], trained)}")
        each(place, trained)
    return [found[place] for place in range(len(trainings))]


def finished(training: Training) -> Trained | None:
    """What came out of a training that is done, without training anything; None where it is not."""
    from ssl_core.training.result import RESULT_FILE  # loads torch

    noted, result = training.out / PROBLEM_FILE, training.out / RESULT_FILE
    if noted.exists():
        return Trained(None, [], noted.read_text())
    document = json.loads(result.read_text()) if result.exists() else {}
    return Trained(document, []) if "test_error" in document else None


def bring_home(training: Training, trained: Trained, home: Home) -> None:
    """Keep on this machine what a worker has trained on its own disk: the home is an object store, and no machine
    sees another's files. From here the driver commits it.

    Args:
        training: what was trained.
        trained: what came out.
        home: the home.
    """
    from ssl_core.training.reading import READINGS_FILE, append_reading, is_recorded  # loads torch
    from ssl_core.training.result import RESULT_FILE  # loads torch

    training.out.mkdir(parents=True, exist_ok=True)
    for reading in trained.readings:
        for record in (training.out / READINGS_FILE, home.test_readings):
            if not is_recorded(record, reading):
                append_reading(record, reading)
    result, noted = training.out / RESULT_FILE, training.out / PROBLEM_FILE
    if trained.result is not None and not result.exists():
        write_atomically(result, json.dumps(trained.result, indent=1).encode())
    if trained.problem is not None and not noted.exists():
        write_atomically(noted, trained.problem.encode())


def each_of(
    function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], places: Places
) -> Iterator[tuple[int, Any]]:
    """Call a function once for each of several arguments, here or side by side on Ray; what it returns, as it ends.

    Args:
        function: of a module, which a worker can load.
        arguments: of each call.
        places: where, and how many side by side.
    """
    if _in_this_process(places):
        for place, each in enumerate(arguments):
            yield place, function(*each)
        return
    from tune.cluster import local_ray  # loads Ray

    with ray_for(places):
        local_ray.await_workers()
        ray = local_ray.ray
        remote = ray.remote(num_cpus=places.cpus, num_gpus=places.gpus, max_retries=2)(function)
        left, waiting = deque(enumerate(arguments)), dict[Any, int]()
        while left or waiting:
            while left and len(waiting) < places.concurrent:  # a cluster may hold more than were asked for
                place, each = left.popleft()
                waiting[remote.remote(*each)] = place
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            yield waiting.pop(ready), ray.get(ready)


def _in_this_process(places: Places) -> bool:
    return places.concurrent == 1 and places.address is None


@contextmanager
def ray_for(places: Places) -> Iterator[None]:
    """For a block with trainings at these places: Ray runs, where they need it."""
    if _in_this_process(places):
        yield
        return
    from tune.cluster import local_ray  # loads Ray

    trial = {"cpu": places.cpus, "gpu": places.gpus} if places.address is None else None
    with local_ray.running(math.ceil(places.concurrent * places.cpus), PRELOAD, places.concurrent, trial):
        yield


def _line(training: Training, trained: Trained) -> str:
    if trained.result is None:
        return f"{training.title}: {trained.problem}"
    error = trained.result.get("val_error")  # a refit has none
    validated = "" if error is None else f"val/error {error:.2f} %, "
    return f"{training.title}: {validated}{trained.result['seconds']:.0f} s"


def _arguments(training: Training, places: Places) -> tuple[Any, ...]:
    home, root, digest = places.home, places.data_root, training.config.method_digest
    text = None if digest is None else method_file.text_of(digest)
    place = str(home.cache), str(training.out), str(home.test_readings)
    return training.config.document(), text, root, *place, places.held_out, places.warmup_cache


def _train(
    config: dict[str, Any],
    method_text: str | None,
    data_root: str | None,
    cache: str,
    out: str,
    readings: str,
    held_out: Mapping[str, Any] | None,
    warmup_cache: int | None,
) -> Trained:
    """One training, here or on a worker: goes on where it was, and reads the test set once."""
    from ssl_core import train  # loads torch
    from ssl_core.training.warmups.store import WarmupStore  # loads torch

    folder = Path(out)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if method_text is not None:
        method_file.load(method_text, str(folder / method_file.COPY))
    with _alone(folder):
        noted = folder / PROBLEM_FILE
        if noted.exists():  # the same bits would turn out the same
            return _trained(folder, problem=noted.read_text())
        try:
            result = train(
                config,
                data_root=Path(data_root) if data_root else None,
                cache=Path(cache),
                out=folder,
                resume=True,
                final=True,
                readings=Path(readings),
                membership=membership_of_document(held_out),
                warmups=WarmupStore(Path(cache) / WARMUPS, warmup_cache),
            )
        except NonFiniteError as error:
            noted.write_text(str(error))
            return _trained(folder, problem=str(error))
        return _trained(folder, result.document())


def _trained(folder: Path, result: dict[str, Any] | None = None, problem: str | None = None) -> Trained:
    """What came out, with what the run reported, as its newest checkpoint has it."""
    from ssl_core.training import checkpoint  # loads torch
    from ssl_core.training.reading import READINGS_FILE, recorded_in  # loads torch
    from ssl_core.training.result import CHECKPOINTS  # loads torch

    history = (checkpoint.load_newest(folder / CHECKPOINTS) or {"history": []})["history"]
    reports = [Report(r["epoch"], r.get("time_ms", 0), r["metrics"], r.get("classes", {})) for r in history]
    warmup = sum(r["ssl_epoch"] is None for r in history)
    return Trained(result, reports, problem, warmup, recorded_in(folder / READINGS_FILE))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a run's folder: the worker of a driver that was killed may be at it for a moment longer."""
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
