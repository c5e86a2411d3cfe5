"""`compare --race`: which method leaves, what it hands on, and that a driver that dies decides the same again.

Ray Tune's loop is replaced by one in virtual time, which calls searcher, scheduler and recorder in Ray's order; all
else is the real driver of a comparison. The reports come from a formula.
"""

from __future__ import annotations

import heapq
import itertools
import os
import signal
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

import tune
from ssl_core.system import faults
from tests.tune.helpers import make_spec, told
from tune.comparison import run as comparison_run
from tune.comparison.progress import Shown
from tune.comparison.race import END, Race, Values, in_a_sentence, judged, margin, validation_images
from tune.comparison.record import Comparison, Member, load_comparison, make_comparison, new_record
from tune.comparison.table import description, table_of
from tune.definition.spec import StudySpec
from tune.engine import together
from tune.engine.progress import Progress
from tune.engine.sitting import Sitting
from tune.errors import Exit
from tune.findings.study import load_study
from tune.images.study import StudyImages, write_images
from tune.store.home import Home
from tune.store.study_folder import StudyFolder
from tune.tracking.sender_process import SenderProcess
from tune.worker.report_keys import EPOCH, ERROR, LOSS, METRICS, SSL_EPOCH, STOP_REASON

EPOCHS, BUDGET, RUNG = 9, 150, 3
METHODS = {"supervised": 40.0, "pseudo_label": 8.0, "entropy_minimisation": 70.0}
"""What each method's trials come to, in percent, less what depends on their parameters."""
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.usefixtures("in_virtual_time"),
]

# The rule


def values(**by_study: dict[int, list[float]]) -> dict[str, Values]:
    return {
        study: {place: dict(enumerate(found)) for place, found in places.items()}
        for study, places in by_study.items()
    }


def test_the_margin_is_two_deviations_of_a_difference_of_two_binomial_shares() -> None:
    # sqrt(0.1 * 0.9 / 100 + 0.3 * 0.7 / 100) = 0.05477
    assert margin(10.0, 30.0, 100) == pytest.approx(2 * 5.477, abs=1e-3)
    assert margin(10.0, 30.0, 10_000) == pytest.approx(margin(10.0, 30.0, 100) / 10)


@pytest.mark.parametrize(
    ("mine", "others", "place"),
    [
        ({RUNG: [30.0, 25.0, 24.0]}, {RUNG: [10.0]}, RUNG),  # 24 - 10 = 14, above 10.4
        ({RUNG: [30.0, 25.0]}, {RUNG: [10.0]}, None),  # two trials say too little
        ({RUNG: [30.0, 25.0, 19.0]}, {RUNG: [10.0]}, None),  # 19 - 10 = 9, below 9.9
        ({2: [90.0] * 9}, {2: [10.0] * 9}, None),  # an earlier rung is not looked at
        ({RUNG: [30.0, 25.0, 24.0], END: [12.0]}, {RUNG: [10.0], END: [8.0]}, None),  # it has caught up since
        ({RUNG: [30.0, 25.0, 24.0], END: [40.0]}, {RUNG: [10.0], END: [8.0]}, RUNG),
        ({RUNG: [30.0, 25.0, 24.0], END: [40.0]}, {RUNG: [10.0]}, None),  # nobody to compare its end with
        ({RUNG: [10.0] * 3, END: [40.0, 41.0, 42.0]}, {RUNG: [10.0], END: [8.0]}, END),
    ],
)
def test_who_is_too_far_behind_at_the_deepest_place_leaves(
    mine: dict[int, list[float]], others: dict[int, list[float]], place: int | None
) -> None:
    found = judged("b", values(a=others, b=mine), RUNG, 100)
    assert (found is None) == (place is None)
    if found is not None:
        assert (found.place or END) == place and found.leader == "a"
        assert found.value - found.leader_value > found.margin


def test_a_balanced_error_is_as_uncertain_as_its_smallest_class() -> None:
    images = StudyImages("simulated", ["a", "b"], [5, 5], [40, 10], None, 100, 0)
    assert validation_images("val/error", images) == 50
    assert validation_images("val/error_balanced", images) == 20


def race(left: Any = ()) -> tuple[Race, list[Any]]:
    spec = SimpleNamespace(objective=ERROR, config={"epochs": EPOCHS}, full_epochs=EPOCHS, eta=3, grace=None)
    written: list[Any] = []
    studies: Any = {"supervised": spec, "good": spec, "bad": spec}
    found = Race(studies, {name: [] for name in studies}, 100, ["supervised"], left, written.append)
    return found, written


def report(of: Race, study: str, trial: int, epoch: int, error: float | None) -> bool:
    return of.judge(study, trial, {EPOCH: epoch, SSL_EPOCH: epoch, ERROR: error})


def test_a_method_leaves_once_and_for_all_and_the_baseline_never() -> None:
    found, written = race()
    assert not report(found, "good", 0, RUNG, 5.0)
    for trial in range(3):
        report(found, "supervised", trial, RUNG, 80.0)
        out = report(found, "bad", trial, RUNG, [80.0, float("nan"), 70.0][trial])
    assert not out  # one of its three has no value
    assert report(found, "bad", 3, RUNG, 75.0) and not found.is_out("supervised")
    assert written == []  # the report that decided it is not written down yet
    found.keep()
    found.keep()
    assert [(each.study, each.trials, each.leader) for each in written] == [("bad", 3, "good")]
    report(found, "bad", 4, RUNG, 1.0)
    assert found.is_out("bad")
    said = in_a_sentence(written[0], {"bad": "vat", "good": "uda"}, ERROR)
    assert said.startswith(
        "vat left the race after 0 epochs: after 3 epochs past the warm-up the best of its 3"
    )
    assert "val/error 70.00 %, uda 5.00 %" in said
    again, _ = race(left=written)
    assert again.is_out("bad") and not again.is_out("good")


# A driver


def errors_of(config: dict[str, Any]) -> list[float]:
    """Errors after each epoch: those of the method, a few points more for some parameters, falling with the epochs."""
    luck = zlib.crc32(repr(sorted(str(item) for item in config.items())).encode()) % 1000 / 100
    return [METHODS[config["method"]] + luck + 20 / (1 + epoch) for epoch in range(EPOCHS)]


def loop(
    spec: StudySpec, folder: Path, *, searcher: Any, scheduler: Any, recorder: Any, stopper: Any
) -> None:
    """Ray Tune's loop, with epochs that take one unit of time."""
    places: list[tuple[int, int, Any]] = []
    now, ids = 0, itertools.count()
    while not stopper.stop_all():
        while len(places) < spec.concurrent:
            task = searcher.suggest(f"ray-{(number := next(ids))}")
            if not isinstance(task, dict):
                assert task in (None, Searcher.FINISHED)
                break
            trial = SimpleNamespace(trial_id=f"ray-{number}", config=task, epoch=task["known_epoch"])
            trial.run_metadata = SimpleNamespace(num_failures=0)
            scheduler.on_trial_add(None, trial)
            recorder.on_trial_start(0, [], trial)
            heapq.heappush(places, (now + 1, number, trial))
        if not places:
            return
        now, number, trial = heapq.heappop(places)
        trial.epoch += 1
        error = errors_of(trial.config["config"])[trial.epoch - 1]
        warmup = trial.config["config"].get("warmup_epochs") or 0
        metrics = {ERROR: error, LOSS: error / 50, "time/epoch_seconds": 1.0}
        result: dict[str, Any] = {EPOCH: trial.epoch, ERROR: error, LOSS: error / 50, METRICS: metrics}
        if trial.epoch > warmup:
            result[SSL_EPOCH] = trial.epoch - warmup
        if trial.epoch == EPOCHS:
            result |= {"done": True, STOP_REASON: "completed"}
        elif scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP:
            result["done"] = True
        recorder.on_trial_result(0, [], trial, result)
        if result.get("done"):
            scheduler.on_trial_complete(None, trial, result)
            searcher.on_trial_complete(trial.trial_id, result)
            recorder.on_trial_complete(0, [], trial)
        else:
            heapq.heappush(places, (now + 1, number, trial))


@pytest.fixture(scope="module")
def in_virtual_time() -> Iterator[None]:
    """No Ray and no sender."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(together, "ray_loop", loop)
        patch.setattr(together.local_ray, "running", lambda *_: nullcontext())
        patch.setattr(SenderProcess, "start", lambda self: None)
        yield


@pytest.fixture(scope="module")
def raced(in_virtual_time: None, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with a comparison whose race is over; to be read."""
    home = make(tmp_path_factory.mktemp("raced") / "home")
    assert sit(home) == Exit.TRACKING_PENDING
    return home


def make(path: Path, *, race: bool = True, concurrent: int = 1) -> Home:
    """A home with a comparison that has not begun."""
    home = Home(path)
    members = tuple(Member(method, f"which-{method}") for method in METHODS)
    record = new_record("which", members, 0, epochs_budget=BUDGET, race=race)
    comparison = make_comparison(record, home)
    options = {
        "epochs": EPOCHS,
        "trials": BUDGET,
        "epochs_budget": BUDGET,
        "concurrent": concurrent,
        "seed": 2,
    }
    for member in members:
        spec = make_spec(home, method=member.method, name=member.study, tracking_timeout=0, **options)
        folder = StudyFolder(home.study_folder(member.study))
        folder.create(spec)
        write_images(folder.path, StudyImages("simulated", ["a", "b"], [6, 6], [50, 50], None, 1000, 0))
        folder.unlock()
    comparison.keep(record.__class__(**{**record.__dict__, "complete": True}))
    comparison.folder.unlock()
    return home


def sit(home: Home) -> Exit:
    """A sitting of the comparison's driver, to its end."""
    comparison = load_comparison("which", home)
    comparison.folder.lock()
    with ExitStack() as held:
        held.callback(comparison.folder.unlock)
        sittings = [
            held.enter_context(Sitting(study.spec, study.folder, home, Progress()))
            for study in comparison.studies()
        ]
        return comparison_run._Driver(comparison, sittings, Shown(), lambda message: None).run().code


def killed(home: Home, point: str, count: int) -> int:
    """A sitting in a process of its own, which dies at a point; the signal that ended it."""
    process = os.fork()
    if process == 0:
        try:
            faults._point, faults._left = point, count
            sit(home)
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(process, 0)[1])


def studies(home: Home) -> dict[str, list[dict[str, Any]]]:
    return {method: told(home, f"which-{method}") for method in METHODS}


def epochs(home: Home) -> dict[str, int]:
    return {method: sum(row["epoch"] for row in rows) for method, rows in studies(home).items()}


def comparison_of(home: Home) -> Comparison:
    return load_comparison("which", home)


def test_the_epochs_are_for_all_together_and_those_of_a_method_that_left_go_to_the_others(
    tmp_path: Path, raced: Home
) -> None:
    plain = make(tmp_path / "plain", race=False)
    assert sit(plain) == Exit.TRACKING_PENDING
    alike, handed = epochs(plain), epochs(raced)
    assert sum(alike.values()) == sum(handed.values()) == BUDGET
    assert max(alike.values()) - min(alike.values()) <= EPOCHS
    assert handed["entropy_minimisation"] < alike["entropy_minimisation"] / 1.5
    assert all(handed[name] > alike[name] for name in ("supervised", "pseudo_label"))
    (left,) = comparison_of(raced).record.left
    assert (left.study, left.leader, left.place) == ("which-entropy_minimisation", "which-pseudo_label", RUNG)
    assert left.epochs == handed["entropy_minimisation"]
    assert comparison_of(plain).record.left == ()
    for home in (plain, raced):
        assert all(study.folder.state() == "finished" for study in comparison_of(home).studies())
    assert "race" in {row["stop_reason"] for row in studies(raced)["entropy_minimisation"]}


def test_what_is_decided_stands_in_document_table_history_and_description(raced: Home) -> None:
    home = raced
    status = tune.status("which", home=home.path)
    assert status["epochs_budget"] == BUDGET and [each["method"] for each in status["race"]] == [
        "entropy_minimisation"
    ]
    said = status["race"][0]["said"]
    row = next(row for row in table_of(status) if row[0] == "entropy_minimisation")
    assert row[5].startswith(
        f"{len(studies(home)['entropy_minimisation'])} trials, "
    )  # of no number of trials
    assert row[5].endswith("left the race")
    assert said in description(comparison_of(home))
    history = load_study("which-entropy_minimisation", home=home.path).status()["history"]
    assert [event["what"] for event in history] == [said.removesuffix(".")]
    assert load_study("which-supervised", home=home.path).status()["history"] == []


@pytest.mark.long
def test_a_driver_that_dies_at_any_moment_makes_the_same_decisions_and_the_same_trials(
    tmp_path: Path, raced: Home
) -> None:
    whole, broken = raced, make(tmp_path / "broken")
    before = [("report:inside", 4), ("ask:after", 3), ("race:before", 1)]
    after_it = [("rung:after", 6), ("tell:before", 2), ("tell:after", 3), ("report:inside", 10)]
    for point, count in before:
        assert killed(broken, point, count) == signal.SIGKILL, point
    assert comparison_of(broken).record.left == ()  # decided, and not kept
    for point, count in after_it:
        assert killed(broken, point, count) == signal.SIGKILL, point
    sit(broken)
    assert studies(broken) == studies(whole)
    assert comparison_of(broken).record.left == comparison_of(whole).record.left
    status = load_study("which-entropy_minimisation", home=broken.path).status()
    assert len(status["history"]) == 1


def test_a_decision_that_is_kept_and_not_noted_yet_is_noted_by_the_next_driver(
    tmp_path: Path, raced: Home
) -> None:
    home = make(tmp_path / "after")
    assert killed(home, "race:kept", 1) == signal.SIGKILL
    (left,) = comparison_of(home).record.left
    study = load_study("which-entropy_minimisation", home=home.path)
    assert study.status()["history"] == []
    assert sit(home) == Exit.TRACKING_PENDING
    assert studies(home) == studies(raced) and comparison_of(home).record.left == (left,)
    assert len(study.status()["history"]) == 1


def test_trials_beside_the_one_that_decides_it_end_with_their_next_report(tmp_path: Path) -> None:
    home = make(tmp_path / "home", concurrent=4)
    sit(home)
    (left,) = comparison_of(home).record.left
    rows = studies(home)["entropy_minimisation"]
    assert all(row["state"] != "running" for row in rows)
    assert sum(epochs(home).values()) == BUDGET
    assert 0 <= epochs(home)["entropy_minimisation"] - left.epochs <= 3  # one report each, of those beside it
