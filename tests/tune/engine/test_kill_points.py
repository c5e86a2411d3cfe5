"""A driver that dies at each of the moments at which dying would hurt most, again and again, and goes on exactly.

Training is not needed for it: the driver's parts are the real ones, its reports come from a formula.
"""

from __future__ import annotations

import os
import signal
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.simulated import Driver, Outcome
from ssl_core.system import faults
from tests.tune.helpers import make_study, told
from tune.engine.scheduler import StudyASHA, make_scheduler
from tune.store.event_log import EventLog
from tune.store.home import Home
from tune.trials.study_trials import StudyTrials

EPOCHS = 9
POINTS = (
    "ask:before",
    "ask:after",
    "rung:before",
    "rung:after",
    "report:inside",
    "tell:before",
    "tell:after",
)


def outcome(config: Mapping[str, Any], folds: int = 1) -> Outcome:
    """Better towards a threshold of 0.8, with noise; some trials diverge."""
    threshold, warmup = config["pseudo_label"]["threshold"], config["warmup_epochs"]
    final = 10 + 100 * abs(threshold - 0.8)
    every = folds * EPOCHS
    noise = [zlib.crc32(f"{threshold}/{epoch}".encode()) % 600 / 100 for epoch in range(every)]
    errors = [final + 60 / (1 + epoch % EPOCHS) + noise[epoch] for epoch in range(every)]
    length = 5 if noise[0] < 0.6 else every
    return Outcome(warmup, tuple(errors[:length]), tuple(e / 50 for e in errors[:length]))


def drive(home: Home, point: str = "", count: int = 1) -> int | None:
    """A driver's sitting in a process of its own; returns the signal that ended it, or None."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            faults._point, faults._left = point, count
            spec = make_spec_again(home)
            of_trial = outcome if spec.folds == 1 else partial(outcome, folds=spec.folds)
            driver = Driver(spec, home, of_trial)
            driver.run()
            driver.close()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else None


def make_spec_again(home: Home) -> Any:
    from tune.store.specification import read_spec

    return read_spec(home.study_folder("s"))


DEFAULTS = {"objective": "val/error_and_loss", "sampler": "auto"}


def started(path: Path, folds: int = 1, **options: Any) -> Home:
    home = Home(path)
    make_study(home, epochs=EPOCHS, trials=16, concurrent=1, seed=2, folds=folds, **options)
    return home


def events(home: Home) -> dict[str, list[tuple[int, dict[str, float]]]]:
    with EventLog(home.study_folder("s") / "events.db", read_only=True) as log:
        return {run: [(r.epoch, r.metrics) for r in log.reports(run)] for run in log.runs()}


def rungs_of(home: Home) -> list[Any]:
    from tune.store.study_folder import StudyFolder

    spec = make_spec_again(home)
    records = StudyTrials(StudyFolder(home.study_folder("s")), spec)
    asha = make_scheduler(spec, records.history(), ())
    assert isinstance(asha, StudyASHA)
    found = asha._brackets[0]._rungs + asha._folds._rungs
    assert records.unfinished() == []
    records.close()
    return [(milestone, dict(values)) for milestone, values in found]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("folds", "options"),
    [(1, {}), (3, {}), (1, DEFAULTS)],
    ids=["one fold", "three folds", "defaults of a new study"],
)
def test_a_study_whose_driver_is_killed_at_every_point_equals_one_that_was_not(
    tmp_path: Path, folds: int, options: dict[str, Any]
) -> None:
    whole, killed = (started(tmp_path / name, folds, **options) for name in ("whole", "killed"))
    assert drive(whole) is None
    for count in (1, 3) if folds == 1 and not options else (3,):
        for point in POINTS:
            assert drive(killed, point, count) == signal.SIGKILL, point
    assert drive(killed) is None
    assert told(killed, "s") == told(whole, "s")
    assert {r["stop_reason"] for r in told(whole, "s")} == {"completed", "asha", "nan"}
    assert events(killed) == events(whole)
    assert rungs_of(killed) == rungs_of(whole)
    assert {len(r["folds"]) for r in told(whole, "s")} >= ({0} if folds == 1 else {0, 1, 3})
    with EventLog(killed.study_folder("s") / "events.db", read_only=True) as log:
        assert all(log.last(run, "status") is not None for run in log.runs() if run != "s")
