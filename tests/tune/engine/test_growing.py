"""A study that lives: more trials, points by hand, a trial stopped, tried again or pinned, also while it runs.

Training is not needed for most of it: the driver's parts are the real ones, its reports come from a formula.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.simulated import Driver
from search_spaces import load_yaml
from ssl_core.system.errors import ConfigError
from tests.tune.engine.test_kill_points import drive, events, make_spec_again, outcome
from tests.tune.helpers import (
    SMALL,
    Done,
    make_pictures,
    make_spec,
    make_study,
    mlflow_runs,
    reports,
    told,
    when,
)
from tune.api.searching import run_resume, run_search
from tune.api.steering.commands import enqueue, export_points, pin, stop_trial
from tune.definition.request import SearchRequest
from tune.engine.study_run import StudyRun
from tune.findings.study import load_study
from tune.launch.growing.changes import Change, checked
from tune.launch.start import is_finished
from tune.steering import inbox
from tune.steering.asking import ask, carry_out
from tune.steering.inbox import Wish
from tune.store.event_log import EventLog
from tune.store.home import Home
from tune.store.study_folder import StudyFolder
from tune.trials.reading import read_records
from tune.trials.sampling import startup_trials
from tune.trials.study_trials import StudyTrials

Command = Callable[..., Done]
EPOCHS = 9
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def study_of(path: Path, trials: int, **options: Any) -> Home:
    """A home with a study `s` that has not begun."""
    home = Home(path)
    make_study(home, **({"epochs": EPOCHS, "trials": trials, "concurrent": 1, "seed": 2} | options))
    return home


def run(home: Home, budget: float = float("inf")) -> None:
    """A driver's sitting in this process, to the end or for so many epochs."""
    driver = Driver(make_spec_again(home), home, outcome)
    driver.run(budget)
    driver.close()


def folder_of(home: Home) -> StudyFolder:
    return StudyFolder(home.study_folder("s"))


def history(home: Home) -> list[str]:
    return [event["what"] for event in load_study("s", home=home.path).status()["history"]]


def ended(home: Home) -> None:
    folder_of(home).set_state("finished")


# More trials


def test_a_finished_study_that_grows_from_9_to_24_has_the_trials_that_one_of_24_has(
    tmp_path: Path,
) -> None:
    grown, whole = (study_of(tmp_path / n, t) for n, t in (("grown", 9), ("whole", 24)))
    run(grown)
    assert len(told(grown, "s")) == 9
    ended(grown)
    assert ask(folder_of(grown), Wish("grow", {"trials": 24})) == "the study s now has 24 trials"
    assert folder_of(grown).state() == "interrupted" and not is_finished(load_study("s", home=grown.path))
    assert make_spec_again(grown).trials == 24
    run(grown)
    run(whole)
    assert told(grown, "s") == told(whole, "s") and len(told(grown, "s")) == 24
    assert {k: v for k, v in events(grown).items() if k != "s"} == {
        k: v for k, v in events(whole).items() if k != "s"
    }
    assert len(history(grown)) == 1


def test_a_study_grows_while_it_runs_and_has_the_same_trials(tmp_path: Path) -> None:
    grown, whole = study_of(tmp_path / "grown", 4), study_of(tmp_path / "whole", 10)
    driver = Driver(make_spec_again(grown), grown, outcome)
    driver.run(10)
    inbox.put(folder_of(grown), Wish("grow", {"trials": 10}))
    driver.run()
    driver.close()
    run(whole)
    assert told(grown, "s") == told(whole, "s")
    assert inbox.waiting(folder_of(grown)) == []


@pytest.mark.parametrize(("trials", "startup"), [(1, 4), (12, 4), (16, 5), (24, 8), (30, 10), (1000, 10)])
def test_a_study_of_before_keeps_the_start_up_trials_of_the_total_it_began_with(
    home: Home, trials: int, startup: int
) -> None:
    folder, spec = make_study(home, trials=trials)
    assert spec.startup_trials == startup_trials(spec) == 5
    before = spec.model_copy(update={"startup_trials": None})
    assert startup_trials(before) == startup
    folder.write_spec(before)
    assert ask(folder, Wish("grow", {"trials": 2000})) == "it is done when the study is carried on"
    Driver(before, home, outcome).close()
    assert startup_trials(make_spec_again(home)) == startup


def test_budgets_grow_too_and_a_spent_one_has_to(home: Home) -> None:
    study_of(home.path, 9, epochs_budget=20, time_budget="1h")
    run(home, 20)
    study = load_study("s", home=home.path)
    with pytest.raises(ConfigError, match=r"has spent its --epochs-budget of 20 epochs.*larger one"):
        checked(study, Change(trials=24))
    with pytest.raises(ConfigError, match=r"--epochs-budget 20.*has taken 2\d epochs already"):
        checked(study, Change(epochs_budget=20))
    with pytest.raises(ConfigError, match=r"--gpu-hours 3: the trials of 's' use no GPU"):
        checked(study, Change(gpu_hours=3))
    with pytest.raises(ConfigError, match=r"time_budget|--time-budget '5 minutes'"):
        checked(study, Change(time_budget="5 minutes"))
    (wish,) = checked(study, Change(epochs_budget=100, time_budget="2h"))
    ask(study.folder, wish)
    spec = make_spec_again(home)
    assert (spec.epochs_budget, spec.time_budget, spec.trials) == (100, 7200.0, 9)


def test_a_total_below_what_there_is_is_refused(home: Home) -> None:
    study_of(home.path, 9)
    run(home, 20)
    count = len(told(home, "s"))
    with pytest.raises(
        ConfigError, match=f"--trials 1: the study 's' has {count} trials already.*at least {count}"
    ):
        checked(load_study("s", home=home.path), Change(trials=1))
    with pytest.raises(ConfigError, match=r"trials = 0: must be between 1 and"):
        checked(load_study("s", home=home.path), Change(trials=0))
    assert not Change() and Change(retry_failed=True)


def test_a_finished_study_with_a_wish_in_its_inbox_is_not_finished(home: Home) -> None:
    study_of(home.path, 3)
    run(home)
    ended(home)
    assert is_finished(load_study("s", home=home.path))
    inbox.put(folder_of(home), Wish("grow", {"trials": 4}))
    assert not is_finished(load_study("s", home=home.path))


def test_a_grid_grows_to_a_finer_one_that_leaves_out_what_was_tried(home: Home) -> None:
    _, spec = make_study(home, epochs=EPOCHS, trials=5, sampler="grid", concurrent=1)
    assert (spec.trials, spec.grid_levels) == (5, 2)  # 2 x 2, and the baseline
    run(home)
    with pytest.raises(ConfigError, match=r"every point of the grid.*the next finer one needs --trials \d+"):
        checked(load_study("s", home=home.path), Change(trials=6))
    ask(folder_of(home), Wish("grow", {"trials": 12}))
    run(home)
    records = load_study("s", home=home.path).records()
    points = [tuple(r.values.values()) for r in records]
    # A third threshold; the third share is a warm-up of one epoch as well.
    assert len(points) == len(set(points)) == make_spec_again(home).trials == 5 + 2
    assert len({tuple(r.params.values()) for r in records}) == 7


# Points by hand


def test_enqueued_points_are_tried_next_and_are_marked(home: Home) -> None:
    study_of(home.path, 9)
    run(home, 20)
    before = len(told(home, "s"))
    points = [{"pseudo_label.threshold": 0.77, "warmup_epochs": 3}, {"pseudo_label.threshold": 0.78}]
    steered = enqueue("s", points, home=home.path)
    assert steered.said == "2 points enqueued, to be tried next" and steered.waits == "resume"
    assert enqueue("s", settings=["pseudo_label.threshold=0.79"], home=home.path).said.startswith("1 point")
    run(home)
    rows = load_study("s", home=home.path).records()
    mine = [r for r in rows if r.is_users]
    assert [r.params["pseudo_label.threshold"] for r in mine] == [0.77, 0.78, 0.79]
    assert mine[0].params["warmup_epochs"] == 3 and [r.trial for r in rows[before : before + 3]] == [
        r.trial for r in mine
    ]
    assert len(rows) == 9
    with EventLog(folder_of(home).events_db, read_only=True) as log:
        tags = {r.trial: log.find(f"s/{r.trial}:start").payload["tags"] for r in rows}  # type: ignore[union-attr]
    assert {t for t, found in tags.items() if found.get("ssl.origin") == "user"} == {r.trial for r in mine}
    assert enqueue("s", [{"warmup_epochs": 2}], home=home.path).waits == "more trials"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--set", "pseudo_label.threshold=0.3"), "pseudo_label.threshold = 0.3: 0.5 to 0.995 is searched"),
        (("--set", "lr=0.3"), "unknown searched parameter 'lr'"),
        (("--set", "pseudo_label.treshold=0.8"), "Did you mean"),
        (("--points", "none.yaml"), "there is no such file"),
        ((), "name what to try"),
    ],
)
def test_points_that_cannot_be_are_refused_and_nothing_is_left(
    ssl_tune: Command, home: Home, words: tuple[str, ...], says: str
) -> None:
    make_study(home)
    done = ssl_tune("enqueue", "s", *words)
    assert done.code == 2 and says in done.err, done
    assert inbox.waiting(folder_of(home)) == []


def test_a_wish_that_came_too_late_is_noted_and_leaves_the_study_alone(home: Home) -> None:
    study_of(home.path, 9)
    run(home, 20)
    before = told(home, "s")
    for wish in (
        Wish("grow", {"trials": 1}),
        Wish("stop", {"trial": "0"}),
        Wish("enqueue", {"points": [{"lr": 3}]}),
        Wish("dance", {}),
    ):
        with pytest.raises(ConfigError):
            ask(folder_of(home), wish)
    place = folder_of(home).path / "inbox" / Wish("pin").name
    place.write_text("{")
    carry_out(folder_of(home))
    assert told(home, "s") == before and inbox.waiting(folder_of(home)) == []
    assert [said.partition(":")[0] for said in history(home)] == ["not done"] * 5


# A trial stopped, tried again, pinned


def test_a_trial_is_stopped_and_keeps_its_last_epoch(home: Home) -> None:
    study_of(home.path, 4, concurrent=2)
    driver = Driver(make_spec_again(home), home, outcome)
    driver.run(1)
    inbox.put(folder_of(home), Wish("stop", {"trial": "1"}))
    driver.run()
    driver.close()
    rows = told(home, "s")
    assert (rows[1]["state"], rows[1]["stop_reason"]) == ("stopped_early", "user") and rows[1]["epoch"] in (
        1,
        2,
    )
    assert [r["stop_reason"] == "user" for r in rows].count(True) == 1 and len(rows) == 4
    with pytest.raises(
        ConfigError, match=r"trial 1 of 's' is not running: it is stopped early. None is running"
    ):
        stop_trial("s", 1, home=home.path)
    with pytest.raises(ConfigError, match=r"there is no trial 9 in 's'. Its trials: 0, 1, 2, 3"):
        stop_trial("s", 9, home=home.path)


def test_a_trial_that_waits_is_stopped_when_the_study_is_carried_on(home: Home) -> None:
    study_of(home.path, 3)
    driver = Driver(make_spec_again(home), home, outcome)
    driver.run(1)
    driver.close()
    assert stop_trial("s", 0, home=home.path).waits == "resume"
    run(home)
    assert told(home, "s")[0]["stop_reason"] == "user" and told(home, "s")[0]["epoch"] == 1


def test_failed_trials_run_again_from_where_they_were_and_diverged_ones_do_not(
    ssl_tune: Command, home: Home
) -> None:
    folder, spec = make_study(home, epochs=EPOCHS, trials=4, concurrent=1)
    driver = Driver(spec, home, outcome)
    for number, reason in enumerate(("error", "oom", "nan", "completed")):
        driver.records.ask()
        driver.recorder._start(number)
        driver.recorder._last[number] = {"epoch": 0, "seconds": 0.0}
        metrics = {"val/error": 30.0, "val/loss": 1.0, "time/epoch_seconds": 1.0}
        result = {"epoch": 1, "val/error": 30.0, "val/loss": 1.0, "metrics": metrics}
        driver.recorder._epoch(number, result, None)
        driver.recorder._end(number, reason, error="the disk was away")
    driver.close()
    place = folder.trials / "0"
    place.mkdir(parents=True)
    for name in ("failures", "error.txt", "epoch-000001.ckpt"):
        (place / name).write_text("2")
    study = load_study("s", home=home.path)
    shown = ssl_tune("status", "s").out
    assert (
        "3 trials failed. Once the cause is mended, run them again with: ssl-tune resume s --retry-failed"
        in shown
    )
    assert (
        sum(word == "failed" for line in shown.splitlines() for word in line.replace("│", " ").split()[1:2])
        == 3
    )
    with pytest.raises(ConfigError, match=r"--trials 1: the study 's' has 4 trials already"):
        checked(study, Change(trials=1))
    (wish,) = checked(study, Change(retry_failed=True))
    said = ask(folder, wish)
    assert said == "failed trials tried again: 0, 1; 2 diverged and would do so again"
    assert [p.name for p in place.iterdir()] == ["epoch-000001.ckpt"]
    rows = read_records(folder)
    assert [(r.state, r.epoch) for r in rows[:2]] == [("running", 1)] * 2
    assert [r.stop_reason for r in rows[2:]] == ["nan", "completed"] and rows[0].error is None
    run(home)
    assert {r["stop_reason"] for r in told(home, "s")[:2]} <= {"completed", "asha", "nan"}
    with pytest.raises(ConfigError, match=r"no trial of 's' failed for a cause.*2 diverged, and would"):
        checked(load_study("s", home=home.path), Change(retry_failed=True))


def test_a_pinned_trial_is_named_beside_the_best_and_is_what_export_takes(
    ssl_tune: Command, home: Home
) -> None:
    study_of(home.path, 6)
    run(home)
    study = load_study("s", home=home.path)
    best = study.best()
    assert best is not None
    other = next(r for r in study.records() if r.trial != best["trial"] and r.state != "failed")
    assert ssl_tune("pin", "s", other.trial).code == 0
    status = ssl_tune("status", "s", "--json").document
    assert status["pinned"]["trial"] == other.trial and status["best"]["trial"] == best["trial"]
    shown = ssl_tune("status", "s").out
    assert f"best: trial {best['trial']}" in shown and f"pinned: trial {other.trial}" in shown
    assert f"trial {other.trial} is pinned" in shown
    assert load_yaml(ssl_tune("export", "s").out, "x")["origin"]["trial"] == other.trial
    assert pin("s", None, home=home.path).said == "no trial is pinned any more"
    assert ssl_tune("status", "s", "--json").document["pinned"] is None
    assert load_yaml(ssl_tune("export", "s").out, "x")["origin"]["trial"] == best["trial"]
    refused = ssl_tune("pin", "s", "99")
    assert refused.code == 2 and "there is no trial 99" in refused.err
    assert ssl_tune("pin", "s").code == 2


def test_a_study_s_best_points_are_points(home: Home, tmp_path: Path) -> None:
    study_of(home.path, 6)
    run(home)
    path = tmp_path / "points.yaml"
    assert export_points("s", path, top=3, home=home.path) == 3
    spec = make_spec(home, name="t", epochs=EPOCHS, points=str(path))
    best = load_study("s", home=home.path).best()
    assert best is not None and len(spec.points) == 3
    rows = {r.trial: r for r in load_study("s", home=home.path).records()}
    assert spec.points[0] == dict(rows[best["trial"]].values)
    with pytest.raises(ConfigError, match="cannot be written"):
        export_points("s", tmp_path / "no" / "x.yaml", home=home.path)


# A driver that dies


WISHES = {
    "grow": {"trials": 7},
    "enqueue": {"points": [{"pseudo_label.threshold": 0.77}, {"pseudo_label.threshold": 0.78}]},
    "stop": {"trial": "2"},
    "pin": {"trial": "0"},
    "retry": {},
}
POINTS = {"enqueue": ("wish:inside",), "retry": ("wish:inside",)}


def half_way(path: Path) -> Home:
    """Two trials have ended, one of them failed, and the third is under way."""
    home = study_of(path, 5)
    driver = Driver(make_spec_again(home), home, outcome)
    while len(driver.records.all()) < 3 or driver.records.all()[-1].epoch < 1:
        driver.run(driver.epochs + 1)
    driver.close()
    return home


@pytest.mark.parametrize("kind", ["grow", "enqueue", "stop", "pin"])
def test_a_driver_that_is_killed_over_a_wish_loses_nothing_and_does_nothing_twice(
    tmp_path: Path, kind: str
) -> None:
    name = "1700000000000000-" + "0" * 32 + ".json"
    whole, killed = half_way(tmp_path / "whole"), half_way(tmp_path / "killed")
    for home in (whole, killed):
        inbox.put(folder_of(home), Wish(kind, WISHES[kind], name))
    assert drive(whole) is None
    for point in ("wish:before", *POINTS.get(kind, ()), "wish:done", "wish:noted"):
        assert drive(killed, point) == signal.SIGKILL, point
    assert drive(killed) is None
    assert told(killed, "s") == told(whole, "s")
    assert events(killed) == events(whole)
    assert history(killed) == history(whole) and len(history(killed)) == 1
    assert inbox.waiting(folder_of(killed)) == []
    assert make_spec_again(killed) == make_spec_again(whole).model_copy(
        update={"uid": make_spec_again(killed).uid, "created": make_spec_again(killed).created}
        | {"tracking_uri": make_spec_again(killed).tracking_uri}
    )


def test_a_driver_that_is_killed_while_failed_trials_are_opened_again_opens_each_once(tmp_path: Path) -> None:
    name = "1700000000000000-" + "0" * 32 + ".json"
    homes = []
    for place in ("whole", "killed"):
        home = study_of(tmp_path / place, 5)
        driver = Driver(make_spec_again(home), home, outcome)
        for number in range(2):
            driver.records.ask()
            driver.recorder._start(number)
            driver.recorder._end(number, "error", error="away")
        driver.close()
        inbox.put(folder_of(home), Wish("retry", {}, name))
        homes.append(home)
    whole, killed = homes
    assert drive(whole) is None
    for point in ("wish:before", "wish:inside", "wish:done", "wish:noted"):
        assert drive(killed, point) == signal.SIGKILL, point
    assert drive(killed) is None
    assert told(killed, "s") == told(whole, "s") and len(told(killed, "s")) == 5
    assert events(killed) == events(whole)


# Another study's trials


def test_a_warm_start_takes_over_the_trials_inside_of_the_new_ranges(home: Home, tmp_path: Path) -> None:
    study_of(home.path, 8)
    run(home)
    rows = load_study("s", home=home.path).records()
    space = tmp_path / "narrow.yaml"
    why = "role: scientific, why: a test"
    space.write_text(
        "method: pseudo_label\ndefault:\n"
        f"  pseudo_label.threshold: {{type: float, low: 0.7, high: 0.96, {why}}}\n"
        f"  warmup_epochs: {{type: int, low: 1, high: 4, {why}}}\n"
        f"  lr: {{type: float, low: 0.01, high: 0.1, log: true, {why}}}\n"
        "baseline: {pseudo_label.threshold: 0.95, warmup_epochs: 1, lr: 0.03}\n"
    )
    inside = [
        r
        for r in rows
        if r.state != "failed"
        and 0.7 <= r.params["pseudo_label.threshold"] <= 0.96
        and r.params["warmup_epochs"] <= 4
    ]
    assert 0 < len(inside) < len(rows)
    folder, spec = make_study(home, name="later", epochs=EPOCHS, space=str(space), warm_start="s")
    records = StudyTrials(folder, spec)
    records.close()
    kept = json.loads((folder.path / "warm-start.json").read_text())
    diverged = [
        r for r in rows if r.stop_reason == "nan" and 0.7 <= r.params["pseudo_label.threshold"] <= 0.96
    ]
    assert len(inside) <= len(kept) <= len(inside) + len(diverged)
    assert {row["params"]["lr"] for row in kept} == {0.03}  # fixed there
    names = {r.trial: r for r in rows}
    for row in kept:
        earlier = names[row["from"].partition("/")[2]]
        assert row["params"]["warmup_epochs"] == earlier.params["warmup_epochs"]
    space.write_text(
        space.read_text()
        .replace("low: 0.01, high: 0.1", "low: 0.05, high: 0.1")
        .replace("lr: 0.03", "lr: 0.06")
    )
    with pytest.raises(ConfigError, match=r"none of its \d trials lies in the space.*lr = 0.03"):
        make_spec(home, name="none", epochs=EPOCHS, space=str(space), warm_start="s")


# For real


def live_request(pictures: Path, **options: Any) -> SearchRequest:
    """A search `live` of a few seconds."""
    small: dict[str, Any] = {"labels": 12, "network": "wrn-10-1", "name": "live", "concurrent": 1}
    return SearchRequest(dataset=f"folder:{pictures}", **small, **options)


@pytest.mark.long
def test_a_study_that_is_asked_for_as_many_more_between_two_rounds_runs_them(
    local_ray: None, ready_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many trials are left then as before the first round, which is no sign that nothing was done."""
    tune_round, rounds = StudyRun._tune, []

    def and_ask_for_more(run: StudyRun) -> None:
        tune_round(run)
        rounds.append(run.records.asked())
        if len(rounds) == 1:
            inbox.put(run.folder, Wish("grow", {"trials": 2}))

    monkeypatch.setattr(StudyRun, "_tune", and_ask_for_more)
    pictures = make_pictures(tmp_path / "shapes")
    request = live_request(pictures, epochs=1, trials=1, settings=SMALL | {"warmup_epochs": 0})
    study = run_search(request, ready_home).study
    assert rounds == [1, 2] and [r.state for r in study.records()] == ["completed"] * 2
    assert study.status()["state"] == "finished"


@pytest.mark.long
def test_a_real_study_grows_while_it_runs_and_after_it_but_not_on_other_data(
    ssl_tune: Command, local_ray: None, ready_home: Home, tmp_path: Path
) -> None:
    pictures = make_pictures(tmp_path / "shapes")
    request = live_request(pictures, epochs=2, trials=2, settings=SMALL)
    place = ready_home.study_folder("live")
    said: list[str] = []

    def ask_for_more() -> None:
        said.append(enqueue("live", [{"pseudo_label.threshold": 0.77}], home=ready_home.path).said)
        done = run_resume("live", ready_home, change=Change(trials=4)).search
        said.extend(done.told)

    with when(lambda: reports(place) > 0, ask_for_more):
        run_search(request, ready_home)
    study = run_resume("live", ready_home).study  # a driver that ended before it looked left more to run
    assert said == ["1 point enqueued, to be tried next", "the study live now has 4 trials"]
    rows = study.records()
    assert len(rows) == 4 and [r.params["pseudo_label.threshold"] for r in rows if r.is_users] == [0.77]
    grown = ssl_tune("resume", "live", "--trials", 5, "--home", ready_home.path)
    assert grown.code == 0 and "best 5 of 5 trials" in grown.out
    runs = mlflow_runs(ready_home, "live")
    assert runs["live"].info.status == "FINISHED" and len(runs) == 6
    assert [n for n, run in runs.items() if run.data.tags.get("ssl.origin") == "user"] == [
        f"trial {next(r.trial for r in rows if r.is_users)}"
    ]
    status = ssl_tune("status", "live", "--home", ready_home.path)
    assert "the study live now has 5 trials" in status.out
    shutil.copy(next((pictures / "train" / "a").iterdir()), pictures / "train" / "a" / "more.png")
    changed = ssl_tune("resume", "live", "--trials", 6, "--home", ready_home.path)
    assert changed.code == 2 and "changed since the study 'live' began" in changed.err
    assert load_study("live", home=ready_home.path).spec.trials == 5
    assert is_finished(load_study("live", home=ready_home.path))
    low = ssl_tune("resume", "live", "--trials", 3, "--home", ready_home.path)
    assert low.code == 2 and "the study 'live' has 5 trials already" in low.err
