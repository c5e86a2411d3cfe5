"""No work twice: a configuration whose bits are known is not trained again, in this study or in the home."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.simulated import Driver, Outcome
from tests.tune.engine.test_kill_points import drive, events, make_spec_again
from tests.tune.helpers import SPACE, Done, make_study, told
from tune.api.steering.commands import enqueue
from tune.findings.elsewhere import HomeResults
from tune.findings.study import load_study
from tune.store.home import Home
from tune.store.study_folder import StudyFolder
from tune.trials.optuna_storage import open_storage
from tune.trials.reading import read_records
from tune.trials.study_trials import StudyTrials

Command = Callable[..., Done]
EPOCHS = 6
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def outcome(document: Any) -> Outcome:
    """Six configurations, each with an error of its own."""
    good = 20.0 + 10 * document["warmup_epochs"] + (0 if document["lr"] > 0.01 else 40)
    errors = tuple(good + 10 / (1 + epoch) for epoch in range(EPOCHS))
    return Outcome(document["warmup_epochs"], errors, tuple(e / 50 for e in errors))


def small(home: Home, name: str = "s", **options: Any) -> StudyFolder:
    """A study over two learning rates and warm-ups of one to three epochs: six configurations."""
    home.path.mkdir(exist_ok=True)
    space = home.path / "space.yaml"
    space.write_text(SPACE)
    options = {"epochs": EPOCHS, "trials": 20, "space": str(space), "name": name, "seed": 1} | options
    return make_study(home, **options)[0]


def run(home: Home, name: str = "s") -> Driver:
    from tune.store.specification import read_spec

    spec = read_spec(home.study_folder(name))
    driver = Driver(spec, home, outcome)
    driver.records._elsewhere = HomeResults(home, spec)
    driver.run()
    driver.close()
    return driver


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_space_of_six_configurations_is_searched_once_and_then_exhausted(home: Home, sampler: str) -> None:
    small(home, sampler=sampler)
    driver = run(home)
    records = load_study("s", home=home.path).records()
    points = {tuple(r.params.values()) for r in records}
    assert len(points) == len(records) == 6 and driver.records.exhausted
    assert all(int(trial) < int(r.trial) for r in records for trial in r.instead_of)
    # Optuna has no more trials than were run: nothing was told twice.
    assert len(open_storage(StudyFolder(home.study_folder("s"))).get_all_trials(1)) == 6
    again = run(home)  # `resume` finds the same
    assert again.records.exhausted and len(load_study("s", home=home.path).records()) == 6


def test_a_driver_that_is_killed_while_it_looks_for_another_point_finds_the_same(tmp_path: Path) -> None:
    homes = [Home(tmp_path / name) for name in ("whole", "killed")]
    for home in homes:
        small(home, name="s")
    whole, killed = homes
    import tests.tune.engine.test_kill_points as kill

    original, kill.outcome = kill.outcome, outcome  # type: ignore[assignment]
    try:
        assert drive(whole) is None
        for count in (2, 4, 1):
            for point in ("ask:before", "ask:after"):
                assert drive(killed, point, count) in (signal.SIGKILL, None)
        assert drive(killed) is None
    finally:
        kill.outcome = original  # type: ignore[assignment]
    assert told(killed, "s") == told(whole, "s") and len(told(whole, "s")) == 6
    assert events(killed) == events(whole)
    kept = [[r.instead_of for r in read_records(StudyFolder(h.study_folder("s")))] for h in homes]
    assert kept[0] == kept[1] and any(kept[0])


def test_two_values_of_a_share_that_are_one_warm_up_are_one_configuration(home: Home) -> None:
    folder, spec = make_study(home, epochs=2, settings={"pseudo_label.threshold": 0.9}, trials=5)
    records = StudyTrials(folder, spec)
    first = records.ask()
    assert first is not None and records.ask() is None and records.exhausted
    assert records.all()[0].params == {"warmup_epochs": 1}


def test_a_configuration_that_failed_for_a_cause_outside_of_it_may_run_again(home: Home) -> None:
    folder, spec = make_study(home, epochs=2, settings={"pseudo_label.threshold": 0.9}, trials=5)
    records = StudyTrials(folder, spec)
    for number in range(2):
        trial = records.ask()
        assert trial is not None and trial.number == number
        records.end(number, "error")
    for number, reason in ((2, "time"), (3, "nan")):
        assert records.ask() is not None
        records.end(number, reason)
    assert records.ask() is None


def test_an_enqueued_point_that_is_known_is_not_run(home: Home) -> None:
    folder = small(home, trials=3)
    driver = Driver(make_spec_again(home), home, outcome)
    assert driver.records.ask() is not None
    driver.close()
    enqueue("s", [{"lr": 0.05, "warmup_epochs": 1}, {"lr": 0.05}], home=home.path)
    records = StudyTrials(folder, make_spec_again(home))
    with pytest.warns(
        UserWarning, match="enqueued trial 1: trial 0 has this configuration already. It is not run"
    ):
        other = records.ask()
    assert other is not None and other.params["lr"] == 0.05 and other.params["warmup_epochs"] != 1


def test_a_grid_leaves_out_the_points_that_are_given_already(ssl_tune: Command, home: Home) -> None:
    folder = small(home, sampler="grid", points=[{"lr": 1.0e-6, "warmup_epochs": 2}])
    spec = make_spec_again(home)
    assert spec.trials == 6  # 2 x 3; the baseline and the point are two of them
    run(home)
    points = [tuple(r.params.values()) for r in read_records(folder)]
    assert len(points) == len(set(points)) == 6 and points[:2] == [(0.05, 1), (1.0e-6, 2)]
    shown = ssl_tune(
        "plan", "--sampler", "grid", "--space", home.path / "space.yaml", "--epochs", 6, "--json"
    )
    assert shown.document["trials"] == 6


def test_what_another_study_of_the_home_trained_is_taken_over_once(ssl_tune: Command, home: Home) -> None:
    facts = {"split_hash": "0" * 16, "fingerprint": {"torch": "2"}}
    for name, seed in (("first", 1), ("second", 2), ("elsewhere", 3)):
        folder = small(home, name, seed=0, trials=4 if name == "first" else 6)
        from tune.store.specification import read_spec

        kept = facts | ({"fingerprint": {"torch": "3"}} if name == "elsewhere" else {})
        folder.write_spec(read_spec(folder.path).model_copy(update=kept))
        assert seed
    run(home, "first")
    whole = {
        tuple(r.params.values())
        for r in load_study("first", home=home.path).records()
        if r.state == "completed"
    }
    driver = run(home, "second")
    second = load_study("second", home=home.path)
    taken = second.taken_over()
    assert {tuple(r.params.values()) for r in taken} == whole and len(taken) == len(whole) >= 1
    assert all(r.taken_from is not None and r.taken_from.startswith("first/") for r in taken)
    own = {tuple(r.params.values()) for r in second.records()}
    assert not own & whole and own | whole == {(lr, w) for lr in (0.05, 1.0e-6) for w in (1, 2, 3)}
    # The sampler has heard of each once.
    stored = open_storage(StudyFolder(home.study_folder("second"))).get_all_trials(1)
    seen = [tuple(t.params.values()) for t in stored]
    assert len(seen) == len(set(seen)) == 6
    assert "taken over, not trained again: first/" in ssl_tune("trials", "second").out
    before = [(t.number, t.params, t.value) for t in stored]
    again = run(home, "second")
    stored = open_storage(StudyFolder(home.study_folder("second"))).get_all_trials(1)
    assert [(t.number, t.params, t.value) for t in stored] == before
    assert driver.records.exhausted and again.records.exhausted
    run(home, "elsewhere")  # other versions: nothing is taken over
    assert load_study("elsewhere", home=home.path).taken_over() == []
    assert len(load_study("elsewhere", home=home.path).records()) == 6


def test_a_study_of_before_goes_on_as_it_was(home: Home) -> None:
    folder, spec = make_study(home, epochs=2, settings={"pseudo_label.threshold": 0.9}, trials=5)
    assert spec.no_work_twice
    records = StudyTrials(folder, spec.model_copy(update={"no_work_twice": False}))
    assert [t.number for t in (records.ask(), records.ask()) if t is not None] == [0, 1]
