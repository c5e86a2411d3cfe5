"""Several methods, one question: studies side by side on the same places, one confirmation, one table, one page."""

from __future__ import annotations

import json
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.search import Searcher

import tune
from ssl_core.system.errors import ConfigError
from tests.tune.helpers import (
    SMALL,
    Done,
    copy_home,
    driver,
    make_home,
    mlflow_runs,
    reports,
    told,
    wait_until,
    when,
    words_of,
)
from tune.comparison.confirm import answer
from tune.comparison.record import is_comparison, load_comparison
from tune.comparison.request import CompareRequest
from tune.comparison.run import resolved
from tune.confirmation.document import comparison_document
from tune.engine.sharing import SharedSearcher
from tune.errors import ServiceError
from tune.findings.comparisons import compare_all
from tune.findings.confirmation import confirmed
from tune.findings.study import load_study
from tune.store.home import Home
from tune.store.study_folder import StudyFolder

Command = Callable[..., Done]
METHODS = ("supervised", "pseudo_label", "entropy_minimisation")


def options_of(pictures: Path) -> dict[str, Any]:
    """A comparison of two methods with supervised, in seconds."""
    return {
        "methods": ",".join(METHODS[1:]),
        "name": "which",
        "dataset": f"folder:{pictures}",
        "labels": 12,
        "network": "wrn-10-1",
        "epochs": 3,
        "trials": 2,
        "concurrent": 1,
        "settings": SMALL | {"steps_per_epoch": 3, "ema_decay": 0.0, "bn_momentum": 0.1},
    }


# What is asked for


def test_supervised_takes_part_and_settings_go_to_the_methods_that_have_them() -> None:
    request = CompareRequest(methods="vat, pseudo_label", settings={"lr": 0.01, "vat.eps": 3.0}, trials=4)
    request.check()
    assert request.all_methods() == ("supervised", "vat", "pseudo_label")
    assert request.of("vat", "a-vat").settings == {"lr": 0.01, "vat.eps": 3.0}
    assert request.of("supervised", "a").settings == {"lr": 0.01}
    assert request.of("vat", "a-vat").trials == 4 and request.of("vat", "a-vat").name == "a-vat"
    assert request.of("vat", "a-vat").confirm_seeds == 5


def test_a_budget_of_epochs_is_for_all_methods_together_and_bounds_the_trials_of_each() -> None:
    request = CompareRequest(methods="vat", epochs_budget=90, race=True)
    request.check()
    assert (request.of("vat", "v").trials, request.of("vat", "v").epochs_budget) == (90, 90)
    bounded = CompareRequest(methods="vat", epochs_budget=90, trials=4)
    assert bounded.of("vat", "v").trials == 4
    assert CompareRequest(methods="vat").of("vat", "v").trials == CompareRequest(methods="vat").trials == 16


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "methods is missing"),
        ({"methods": "supervised"}, "nothing to compare it with"),
        ({"methods": "vat,vat"}, "names 'vat' twice"),
        ({"methods": "vat,fixmach"}, "Did you mean 'fixmatch'"),
        ({"methods": "vat", "points": "points.yaml"}, "points is no option of a comparison"),
        ({"methods": "vat", "method": "vat"}, "method is no option of a comparison"),
        ({"methods": "vat", "space": "mine.yaml"}, "a comparison takes each method's own space"),
        ({"methods": "vat", "settings": {"vat.epsilon": 3}}, "vat.eps"),
        ({"methods": 3}, "methods = 3"),
        ({"methods": "vat", "race": True}, "race: what it shares out is a number of epochs"),
        ({"methods": "vat", "race": 2, "epochs_budget": 90}, "race = 2"),
        ({"methods": "vat,uda", "epochs_budget": 2}, "epochs_budget = 2: 3 methods share it"),
        (
            {"methods": "vat", "race": True, "epochs_budget": 90, "objective": "val/loss"},
            "'val/loss' is none",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(options: dict[str, Any], said: str, home: Home) -> None:
    with pytest.raises(ConfigError, match=said):
        CompareRequest(**options).check()
    assert not home.path.exists()


def test_the_studies_share_all_but_the_method(home: Home) -> None:
    request = CompareRequest(methods="vat,fixmatch", trials=1, settings={"steps_per_epoch": 2}, name="a")
    specs = resolved(request, home)
    assert [spec.name for spec in specs] == ["a-supervised", "a-vat", "a-fixmatch"]
    cores = len(os.sched_getaffinity(0))
    assert {spec.concurrent for spec in specs} == {
        min(cores, 3)
    }  # places for all trials, not for one study's
    shared = (
        "dataset",
        "labels",
        "network",
        "epochs",
        "steps_per_epoch",
        "threads",
        "seed",
        "batch_size",
        "mu",
    )
    assert all(spec.config[name] == specs[0].config[name] for spec in specs for name in shared)
    assert all(spec.config["data"] == specs[0].config["data"] for spec in specs)


# Who gets the next place


class Hands:
    """Hands out so many trials, as a study's searcher does."""

    def __init__(self, name: str, trials: int) -> None:
        self.left, self.running, self.name = deque(range(trials)), set[str](), name

    def suggest(self, trial_id: str) -> Any:
        if not self.left:
            return None if self.running else Searcher.FINISHED
        self.running.add(trial_id)
        return {"trial": self.left.popleft(), "study": self.name}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        self.running.discard(trial_id)


def shared(
    trials: Mapping[str, int],
    before: Mapping[str, int] | None = None,
    waiting: Mapping[str, int] | None = None,
) -> tuple[SharedSearcher, Any]:
    runs: dict[str, Any] = {
        name: SimpleNamespace(
            spec=SimpleNamespace(objective="val/error"),
            searcher=lambda alone, name=name, count=count: Hands(name, count),
            records=SimpleNamespace(
                all=lambda name=name: [SimpleNamespace(epoch=(before or {}).get(name, 0))],
                unfinished=lambda name=name: [None] * (waiting or {}).get(name, 0),
            ),
            recorder=SimpleNamespace(epochs_run=0, returned=deque()),
        )
        for name, count in trials.items()
    }
    return SharedSearcher(runs), runs


def test_places_go_to_the_study_that_has_had_least_and_to_the_others_once_it_has_ended() -> None:
    searcher, runs = shared({"a": 3, "b": 1, "c": 3})
    assert [searcher.suggest(str(n))["study"] for n in range(2)] == ["a", "b"]
    runs["b"].recorder.epochs_run = 5
    searcher.on_trial_complete("1")
    assert searcher.suggest("2")["study"] == "c"  # nobody waits for another study to end
    runs["a"].recorder.epochs_run = 9
    searcher.on_trial_complete("0")
    assert searcher.suggest("3")["study"] == "a"  # b has ended: a and c share its place
    runs["c"].recorder.epochs_run = 9
    searcher.on_trial_complete("2")
    assert searcher.suggest("4")["study"] == "c"
    searcher.on_trial_complete("3")
    searcher.on_trial_complete("4")
    assert [searcher.suggest(str(n))["study"] for n in (5, 6)] == ["a", "c"]
    assert searcher.suggest("7") is None  # one that runs may come back
    searcher.on_trial_complete("5")
    searcher.on_trial_complete("6")
    assert searcher.suggest("8") == Searcher.FINISHED


def test_a_study_that_had_more_in_an_earlier_sitting_waits_for_its_turn() -> None:
    searcher, _ = shared({"a": 2, "b": 2}, before={"a": 10, "b": 1})
    assert searcher.suggest("0")["study"] == "b"


def test_trials_that_an_interruption_left_come_first_whatever_their_study_has_had() -> None:
    searcher, _ = shared({"a": 2, "b": 2}, before={"a": 10, "b": 1}, waiting={"a": 1})
    assert [searcher.suggest(str(n))["study"] for n in range(2)] == ["a", "b"]


# A whole comparison


@pytest.fixture(scope="module")
def compared(
    local_ray: None,
    readable: None,
    no_figures: None,
    pictures: Path,
    migrated_store: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Home:
    """A home with one finished comparison, `which`, confirmed on three seeds."""
    from tune.comparison.progress import Shown

    home = make_home(tmp_path_factory.mktemp("compared") / "home", migrated_store)
    request = CompareRequest(**options_of(pictures), confirm_seeds=3, on_end=f"cat > {home.path}/told.json")
    found = tune.api.run_compare(request, home, Shown())
    assert found.code == 0 and not any(map(any, found.undelivered.values())), found
    return home


def test_every_method_is_searched_on_the_same_split_and_confirmed_on_the_same_seeds(compared: Home) -> None:
    status = tune.status("which", home=compared.path)
    assert status["state"] == "finished" and [row["method"] for row in status["methods"]] == list(METHODS)
    studies = [load_study(row["study"], home=compared.path) for row in status["methods"]]
    assert len({study.spec.split_hash for study in studies}) == 1
    for study in studies:
        assert study.status()["state"] == "finished" and len(study.records()) == 2
        assert not study.folder.is_locked()
    rows = status["confirmation"]["rows"]
    assert [row["who"] for row in rows] == list(METHODS)
    assert all(row["seeds"] == [1001, 1002, 1003] and len(row["test_error"]) == 3 for row in rows)
    assert len(status["confirmation"]["comparisons"]) == 3  # every pair, corrected together
    best = min(rows, key=lambda row: sum(row["val_error"]))
    assert status["confirmation"]["winner"] == best["who"]
    document = json.loads((compared.path / "told.json").read_text())  # by --on-end
    assert (document["kind"], document["state"], document["exit_code"]) == ("comparison", "finished", 0)
    assert document["confirmation"]["winner"] == best["who"] and document["carry_on"] is None


def test_a_study_of_a_comparison_is_confirmed_like_any_other(compared: Home, home: Home) -> None:
    home = copy_home(compared, home.path)
    lines = home.test_readings.read_text().splitlines()
    assert len(lines) == 3 * 3  # once for each final model
    study = load_study("which-pseudo_label", home=home.path)
    document = confirmed(study.folder)
    assert document is not None and [row["who"] for row in document["rows"]][1] == "supervised-tuned"
    together = tune.status("which", home=home.path)["confirmation"]["rows"]
    assert document["rows"][0]["test_error"] == together[1]["test_error"]
    assert document["rows"][1]["test_error"] == together[0]["test_error"]
    again = tune.confirm("which-pseudo_label", seeds=3, quiet=True, home=home.path)
    assert again["rows"][0]["test_error"] == document["rows"][0]["test_error"]
    new = home.test_readings.read_text().splitlines()[len(lines) :]
    assert len(new) == 3 and all(
        '"supervised"' in line for line in new
    )  # nothing of the method is trained again


def runs_of_all(home: Home) -> list[dict[str, Any]]:
    """The runs in MLflow that the comparison's tag names, and those of each of its studies."""
    return [mlflow_runs(home, name) for name in ("which", *(f"which-{method}" for method in METHODS))]


def test_its_runs_in_mlflow_lie_below_one(compared: Home) -> None:
    names = ("which", *(f"which-{method}" for method in METHODS))
    runs = {name: found[name] for name, found in zip(names, runs_of_all(compared), strict=True)}
    above = runs.pop("which")
    assert above.data.tags["ssl.kind"] == "comparison" and above.info.status == "FINISHED"
    assert {f"test/error/{method}" for method in METHODS} <= above.data.metrics.keys()
    assert "| supervised" in above.data.tags["mlflow.note.content"]
    for run in runs.values():
        assert run.data.tags["mlflow.parentRunId"] == above.info.run_id
        assert run.info.status == "FINISHED" and run.data.tags["ssl.kind"] == "study"


def test_commands_understand_a_comparison(
    compared: Home, home: Home, ssl_tune: Command, tmp_path: Path
) -> None:
    home = copy_home(compared, home.path)
    shown = ssl_tune("status", "which")
    assert "which-entropy_minimisation" in shown.out and "against supervised" in shown.out
    assert ssl_tune("status", "which", "--json").document["comparison"] == "which"
    done = ssl_tune("resume", "which")
    assert done.code == 0 and "finished already" in done.out
    winner = tune.status("which")["confirmation"]["winner"]
    assert f"ssl-tune export which-{winner} --model my-model" in done.out
    assert ssl_tune("stop", "which").out.startswith("nobody runs the study 'which'")
    page = ssl_tune("report", "which", "-o", tmp_path / "page.html", "--json").document
    text = Path(page["path"]).read_text()
    assert (
        "How the best of each method learned" in text
        and "which-pseudo_label" in text
        and page["pending"] == 0
    )
    assert ssl_tune("sync", "which").code == 0
    assert "comparison which: ssl-tune status which" in ssl_tune("studies").out
    refused = ssl_tune("resume", "which", "--with-baseline")
    assert refused.code == 2 and "is a comparison" in refused.err
    taken = ssl_tune("search", "--name", "which", "--set", "steps_per_epoch=2")
    assert taken.code == 2 and "there is a comparison 'which' already" in taken.err
    twice = ssl_tune("compare", "--methods", "vat", "--name", "which")
    assert twice.code == 2 and "exists already. It is finished" in twice.err


def test_it_is_deleted_with_its_studies_but_not_while_one_of_them_is_driven(
    ssl_tune: Command, compared: Home, home: Home
) -> None:
    copy_home(compared, home.path)
    words = ("delete", "which", "--home", home.path)
    assert "needs --yes" in ssl_tune(*words).err
    driven = StudyFolder(home.study_folder("which-pseudo_label"))
    driven.lock()
    refused = ssl_tune(*words, "--yes")
    driven.unlock()
    assert refused.code == 8 and len(tune.studies(home=home.path)) == 3
    before = sum(map(len, runs_of_all(home)))
    # As a deletion leaves it that was killed after the first study.
    first = tune.delete("which-supervised", tracking=True, home=home.path).runs
    (home.study_folder("which-entropy_minimisation") / "study.yaml").write_text("no: study")
    done = ssl_tune(*words, "--yes", "--tracking")
    assert done.code == 0 and "deleted: which with 2 studies of" in done.out, done
    assert f"and {before - (first or 0)} runs in MLflow" in done.out
    assert not any(runs_of_all(home))
    assert not is_comparison("which", home) and list(home.studies.iterdir()) == []
    assert ssl_tune(*words, "--yes").code == 2
    assert (home.path / "test-readings.jsonl").exists()


@pytest.mark.long
def test_more_seeds_train_only_what_is_new(local_ray: None, compared: Home, home: Home) -> None:
    home = copy_home(compared, home.path)
    before = len(home.test_readings.read_text().splitlines())
    status = tune.resume_comparison("which", home=home.path, quiet=True, confirm_seeds=4)
    assert status["confirmation"]["seeds"] == [1001, 1002, 1003, 1004]
    assert len(home.test_readings.read_text().splitlines()) == before + 3


@pytest.mark.long
def test_one_that_is_killed_and_stopped_goes_on_to_the_same_trials(
    local_ray: None, compared: Home, tmp_path: Path, migrated_store: Path, pictures: Path, ssl_tune: Command
) -> None:
    home = make_home(tmp_path / "killed", migrated_store)
    typed = [*words_of(options_of(pictures)), "--confirm-seeds", "0", "--home", str(home.path)]
    folders = [home.studies / f"which-{method}" for method in METHODS]
    with driver("compare", *typed) as process:
        wait_until(lambda: sum(map(reports, folders)) >= 4, process, seconds=900)
        with pytest.raises(ServiceError, match="in use by another driver"):
            tune.resume_comparison("which", home=home.path, quiet=True)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert tune.status("which", home=home.path)["state"] == "interrupted"
    asked = load_comparison("which", home).folder
    with when(lambda: asked.is_locked() and sum(map(reports, folders)) >= 8, asked.request_stop):
        done = ssl_tune("resume", "which", "--home", home.path)
    assert done.code == 130 and "Carry on with: ssl-tune resume which" in done.out, done
    assert sum(map(reports, folders)) < 3 * 2 * 3 and not asked.is_locked()
    assert ssl_tune("resume", "which", "--home", home.path).code == 0
    for method in METHODS:
        assert told(home, f"which-{method}") == told(compared, f"which-{method}")
    runs = mlflow_runs(home, "which-pseudo_label")
    assert runs["which-pseudo_label"].info.status == "FINISHED"


def test_nothing_is_left_of_one_that_cannot_be(ssl_tune: Command, home: Home, pictures: Path) -> None:
    done = ssl_tune("compare", "--methods", "vat", "--dataset", f"folder:{pictures}/none")
    assert done.code == 2 and not home.path.exists()
    store = ssl_tune("compare", "--methods", "vat", "--home", "s3://bucket/home")
    assert store.code == 2 and "keeps its files in a folder" in store.err


def test_one_that_was_being_made_is_made_again(local_ray: None, ready_home: Home, pictures: Path) -> None:
    from tune.comparison.record import Member, make_comparison, new_record

    made = make_comparison(new_record("which", (Member("supervised", "which-supervised"),), 5), ready_home)
    made.folder.unlock()  # killed here
    with pytest.raises(ConfigError, match="was being made when its driver ended"):
        tune.resume_comparison("which", home=ready_home.path)
    again = make_comparison(new_record("which", (Member("vat", "which-vat"),), 5), ready_home)
    assert [m.method for m in load_comparison("which", ready_home).record.members] == ["vat"]
    again.folder.unlock()
    file = again.folder.path / "comparison.json"
    file.write_text(json.dumps({"name": "which"}))
    with pytest.raises(ServiceError, match="is damaged"):
        tune.status("which", home=ready_home.path)
    assert not is_comparison("..", ready_home)


# What it says


def document(errors: Mapping[str, Mapping[int, float]]) -> dict[str, Any]:
    rows = [{"who": who, "problems": [], "test_error": list(row.values())} for who, row in errors.items()]
    winner = min(errors, key=lambda who: sum(errors[who].values()))
    return {
        "rows": rows,
        "seeds": list(next(iter(errors.values()))),
        "baseline": "supervised",
        "winner": winner,
        "objective": "val/error",
        "comparisons": [comparison_document(each) for each in compare_all(errors)],
    }


def test_the_answer_claims_no_more_than_the_seeds_carry() -> None:
    plain = {n: 14.0 + n for n in range(5)}
    errors = {
        "supervised": plain,
        "vat": {n: 7.0 + n + 0.1 * (n % 2) for n in range(5)},
        "fixmatch": {n: 7.0 + n + 0.1 * (n % 3) for n in range(5)},
        "uda": {n: 14.0 + n + (3.0 if n % 2 else -3.0) for n in range(5)},
    }
    first, *others = answer(document(errors))
    assert first.startswith("vat has the lowest val/error on the fresh seeds; on the test images it beats")
    assert "it cannot be told from" in first and "fixmatch" in first and "Holm" in first
    assert others[0].startswith(
        "vat beats supervised: -6.96 points of test error, 95 % interval [-7.03, -6.89]"
    )
    assert "for 6 comparisons" in others[0]
    assert others[2].startswith("uda cannot be told from supervised")
    few = {who: {n: row[n] for n in range(2)} for who, row in errors.items()}
    assert all(
        "cannot be told below 3 seeds" in line or "cannot tell below 3 seeds" in line
        for line in answer(document(few))
    )
