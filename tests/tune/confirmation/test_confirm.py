"""Confirmation: fresh seeds, the baseline beside it, the test set read once, and words that claim no more."""

from __future__ import annotations

import itertools
import json
import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tune
from ssl_core.config import from_document
from ssl_core.data.datasets import describe
from ssl_core.system.errors import ConfigError
from tests.tune.helpers import (
    Done,
    carry_on_words,
    copy_home,
    driver,
    mlflow_runs,
    mlflow_steps,
    mlflow_times,
    shapes_options,
    signal_when,
    wait_until,
    words_of,
)
from tune.cli.show import print_confirmation
from tune.confirmation.confirm import confirm
from tune.confirmation.document import Candidate, trainings_of
from tune.confirmation.trainings import fresh
from tune.definition.coherence import check_fresh_sets
from tune.findings.confirmation import confirmed
from tune.findings.study import Study, load_study
from tune.launch.baseline import baseline_request, differences
from tune.launch.request import resolve_request
from tune.store.events import now_ms
from tune.store.home import Home
from tune.store.study_folder import StudyFolder

Command = Callable[..., Done]


@pytest.fixture(scope="module")
def confirmation(
    finished: Home, readable: None, no_figures: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Home, dict[str, Any]]:
    """The finished study in a home of its own, confirmed once."""
    home = copy_home(finished, tmp_path_factory.mktemp("confirmed") / "home")
    return home, confirm("shapes", top=1, seeds=2, baseline="plain", home=home.path)


def readings(home: Home) -> list[dict[str, Any]]:
    return [json.loads(line) for line in home.test_readings.read_text().splitlines()]


def test_each_model_is_trained_on_fresh_seeds_beside_the_baseline(
    confirmation: tuple[Home, dict[str, Any]],
) -> None:
    home, document = confirmation
    study = load_study("shapes", home=home.path)
    best = study.best()
    assert best is not None
    assert document["study"] == "shapes" and document["steps"] == 6 * 4
    assert document["seeds"] == [1001, 1002]
    winner, baseline = document["rows"]
    assert winner["who"] == best["trial"] and winner["params"] == best["params"]
    assert winner["val_error_at_selection"] == best["val_error"]
    assert baseline["who"] == baseline["method"] == "supervised" and baseline["params"] == {}
    for row in (winner, baseline):
        assert len(row["val_error"]) == len(row["test_error"]) == 2
        assert row["test_mean"] == pytest.approx(sum(row["test_error"]) / 2)
        assert all(0 <= error <= 100 for error in row["test_error"])
        assert row["test_error_balanced"] == pytest.approx(row["test_error"])  # 4 test images of each class
        assert row["test_error_by_class"].keys() == {"a", "b", "c"}
        assert sum(row["test_error_by_class"].values()) / 3 == pytest.approx(row["test_mean"])
    assert "cannot tell below 3 seeds" in document["verdict"][0] and "n = 2" in document["verdict"][0]
    assert confirmed(study.folder) == document


def test_a_search_confirms_in_the_same_sitting_and_delivers_everything_once(
    local_ray: None, readable: None, ready_home: Home, pictures: Path, ssl_tune: Command
) -> None:
    options = shapes_options(ready_home, pictures) | {"epochs": 3, "trials": 2}
    done = ssl_tune("search", *words_of(options), "--confirm-seeds", 2)
    assert done.code == 0, done
    assert "4/4 " in done.err and "cannot tell below 3 seeds" in done.out
    assert "ssl-tune export shapes" in done.out and "ssl-tune confirm" not in done.out
    study = load_study("shapes", home=ready_home.path)
    assert confirmed(study.folder) is not None and study.status()["tracking"]["pending"] == 0
    runs = mlflow_runs(ready_home)
    best = study.best()
    assert best is not None
    trained = {f"{who} confirm-{n}" for who in (f"trial {best['trial']}", "supervised") for n in (1, 2)}
    assert set(runs) == {"shapes", "trial 0", "trial 1"} | trained
    assert runs["shapes"].info.status == "FINISHED"
    for name in trained:
        assert mlflow_steps(ready_home, runs[name]) == [1, 2, 3]
        assert {"test/error", "test/error_balanced"} <= runs[name].data.metrics.keys()
    for record in study.records():
        assert mlflow_steps(ready_home, runs[f"trial {record.trial}"]) == list(range(1, record.epoch + 1))


def test_the_test_set_is_read_once_for_each_final_model_and_recorded(
    confirmation: tuple[Home, dict[str, Any]],
) -> None:
    home, document = confirmation
    lines = readings(home)
    assert len(lines) == 4
    models = {(r["config"]["method"], r["config"]["seed"]): r["test_error"] for r in lines}
    for row in document["rows"]:
        for seed, error in zip(document["seeds"], row["test_error"], strict=True):
            assert models[row["method"], seed] == error
    assert all(r["epochs"] == 6 for r in lines)


def test_configuration_and_baseline_differ_in_the_method_alone(
    confirmation: tuple[Home, dict[str, Any]],
) -> None:
    home, document = confirmation
    study = load_study("shapes", home=home.path)
    record = next(r for r in study.records() if r.trial == document["rows"][0]["who"])
    plain = {**study.spec.config, "method": "supervised"}
    plain.pop("pseudo_label", None)
    candidates = [
        Candidate(record.trial, study.spec.trial_config(record.values), record, "shapes", record.trial),
        Candidate("supervised", from_document(plain), None, "shapes", "supervised"),
    ]
    tasks = trainings_of(study, candidates, 2)
    assert [(t.who, t.number) for t in tasks] == [
        (who, number) for number in (1, 2) for who in (record.trial, "supervised")
    ]
    for one, other in (tasks[:2], tasks[2:]):
        assert one.config.data == other.config.data and one.config.seed == other.config.seed
        assert one.config.data.label_seed == one.config.seed
        mine, theirs = one.config.document(), other.config.document()
        own = {"method", "pseudo_label", *record.params}
        assert {k: v for k, v in mine.items() if k not in own} == {
            k: v for k, v in theirs.items() if k not in own
        }
        # The validation images stay where the study had them; its labelled ones do not.
        assert one.config.data.split_seed == 0 and one.config.data.label_seed != 0
    splits = {r["config"]["seed"]: set() for r in readings(home)}  # type: ignore[var-annotated]
    for reading in readings(home):
        splits[reading["config"]["seed"]].add(reading["split_hash"])
    assert all(len(hashes) == 1 for hashes in splits.values())
    assert study.spec.split_hash not in set().union(*splits.values())


def test_confirming_again_trains_and_reads_nothing_anew(
    confirmation: tuple[Home, dict[str, Any]], ssl_tune: Command
) -> None:
    home, document = confirmation
    before = home.test_readings.read_bytes()
    done = ssl_tune("confirm", "shapes", "--home", home.path, "--seeds", 2, "--baseline", "plain", "--json")
    assert done.code == 0 and done.document == json.loads(json.dumps(document))
    assert home.test_readings.read_bytes() == before


def test_every_confirmation_is_a_run_below_its_trial(confirmation: tuple[Home, dict[str, Any]]) -> None:
    home, document = confirmation
    runs = mlflow_runs(home)
    best = document["rows"][0]["who"]
    for number in (0, 1):
        run = runs[f"trial {best} confirm-{number + 1}"]
        assert run.data.tags["mlflow.parentRunId"] == runs[f"trial {best}"].info.run_id
        assert run.data.metrics["test/error"] == document["rows"][0]["test_error"][number]
        assert run.info.status == "FINISHED"
        assert mlflow_steps(home, run) == list(range(1, 7))
        baseline = runs[f"supervised confirm-{number + 1}"]
        assert baseline.data.tags["ssl.method"] == "supervised"
        assert baseline.data.tags["mlflow.parentRunId"] == runs["shapes"].info.run_id
        assert baseline.data.metrics["test/error"] == document["rows"][1]["test_error"][number]
        assert baseline.data.tags["ssl.split_hash"] == run.data.tags["ssl.split_hash"]
    assert not [r for n, r in runs.items() if "confirm" not in n and "test/error" in r.data.metrics]


def test_a_confirmation_has_the_times_of_its_training_however_late_it_is_told_of(
    confirmation: tuple[Home, dict[str, Any]], finished: Home, home: Home
) -> None:
    """The trainings are there, and neither the event log nor MLflow knows of them yet."""
    trained = confirmation[0].study_folder("shapes") / "confirm"
    copy_home(finished, home.path)
    shutil.copytree(trained, home.study_folder("shapes") / "confirm")
    now = now_ms()
    assert confirm("shapes", seeds=2, baseline="plain", home=home.path) == confirmation[1]
    runs = {name: run for name, run in mlflow_runs(home).items() if " confirm-" in name}
    assert len(runs) == 4
    spans = sorted((run.info.start_time, run.info.end_time) for run in runs.values())
    assert all(start < end <= now for start, end in spans)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))  # one after the other
    for run in runs.values():
        times = mlflow_times(home, run)
        assert (
            run.info.start_time < times[0] and times == sorted(set(times)) and times[-1] == run.info.end_time
        )


def test_a_confirmation_that_mlflow_lacks_exits_5_with_the_command_that_delivers_it(
    confirmation: tuple[Home, dict[str, Any]], finished: Home, home: Home, ssl_tune: Command
) -> None:
    copy_home(finished, home.path)
    folder = home.study_folder("shapes")
    shutil.copytree(confirmation[0].study_folder("shapes") / "confirm", folder / "confirm")
    spec = load_study("shapes", home=home.path).spec
    away = {"tracking_uri": "http://127.0.0.1:9", "tracking_timeout": 0.0}  # where nobody listens
    StudyFolder(folder).write_spec(spec.model_copy(update=away))
    done = ssl_tune("confirm", "shapes", "--seeds", 2, "--baseline", "plain", "--json")
    assert done.code == 5 and done.document["study"] == "shapes"
    (line,) = [line for line in done.err.splitlines() if "MLflow lacks" in line]
    assert ssl_tune(*shlex.split(line.partition("with: ")[2])[1:], "--timeout", "0").code == 5
    assert "Connection refused" in ssl_tune("status", "shapes").out


def test_a_confirmation_is_shown_side_by_side(
    confirmation: tuple[Home, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    _, document = confirmation
    print_confirmation(document)
    shown = capsys.readouterr().out
    assert "supervised baseline" in shown and f"trial {document['rows'][0]['who']}" in shown
    assert "2 fresh seeds, 24 steps each" in shown and "±" in shown
    assert document["verdict"][0] in " ".join(shown.split())


def test_more_than_there_is_cannot_be_confirmed(finished: Home) -> None:
    with pytest.raises(ConfigError, match=r"--top 9: .* 6 trials with a result.*ssl-tune resume shapes"):
        confirm("shapes", top=9, home=finished.path)
    for wrong in ({"top": 0}, {"seeds": 0}):
        with pytest.raises(ConfigError, match="at least 1"):
            confirm("shapes", home=finished.path, **wrong)
    with pytest.raises(ConfigError, match=r"baseline = 'none': must be tuned or plain"):
        confirm("shapes", home=finished.path, baseline="none")
    assert not Study(finished.study_folder("shapes")).folder.is_locked()


@pytest.mark.long
def test_a_confirmation_that_was_killed_and_interrupted_trains_and_reads_nothing_twice(
    confirmation: tuple[Home, dict[str, Any]], finished: Home, home: Home, ssl_tune: Command
) -> None:
    copy_home(finished, home.path)
    command = ["confirm", "shapes", "--top", "2", "--seeds", "2", "--baseline", "plain", "--home", home.path]

    def read() -> int:
        return len(readings(home)) if home.test_readings.exists() else 0

    def results() -> dict[Path, bytes]:
        folder = home.study_folder("shapes") / "confirm"
        return {p: p.read_bytes() for p in folder.glob("*/*/result.json")}

    with driver(*command) as process:
        wait_until(lambda: read() >= 1, process)
        process.kill()
        process.wait()
    killed = results()
    with signal_when(lambda: read() >= 3, signal.SIGINT):
        done = ssl_tune(*command)
    assert done.code == 130 and done.out == "" and "Traceback" not in done.err
    interrupted = results()
    assert killed.items() <= interrupted.items() and len(interrupted) < 6
    done = ssl_tune(*carry_on_words(done.err), "--json")
    assert done.code == 0, done.err
    assert interrupted.items() <= results().items()
    assert read() == 6 and len(results()) == 6
    seeds = [(r["config"]["method"], r["config"]["lr"], r["config"]["seed"]) for r in readings(home)]
    whole = confirmation[1]
    best = whole["rows"][0]["who"]
    (same,) = [row for row in done.document["rows"] if row["who"] == best]
    assert same["test_error"] == whole["rows"][0]["test_error"]  # as if nothing had happened
    assert len({r.info.run_id for r in mlflow_runs(home).values()}) == 1 + 6 + 6
    assert len(seeds) == 6


def test_the_tuned_baseline_is_a_study_of_the_same_setting_and_is_used_again(
    finished: Home, readable: None, home: Home, ssl_tune: Command
) -> None:
    copy_home(finished, home.path)
    done = ssl_tune("confirm", "shapes", "--top", 2, "--seeds", 3, "--json")
    assert done.code == 0, done.err
    method, baseline = (load_study(n, home=home.path) for n in ("shapes", "shapes@12-supervised"))
    assert baseline.status()["state"] == "finished" and baseline.spec.trials == method.spec.trials == 6
    own = {"method", "pseudo_label", "warmup_epochs", "lr", "weight_decay"}
    assert {k: v for k, v in baseline.spec.config.items() if k not in own} == {
        k: v for k, v in method.spec.config.items() if k not in own
    }
    assert baseline.spec.split_hash == method.spec.split_hash
    document = done.document
    row = document["rows"][-1]
    best = baseline.best()
    assert best is not None and document["baseline"] == row["who"] == "supervised-tuned"
    assert (row["study"], row["trial"], row["params"]) == (baseline.name, best["trial"], best["params"])
    assert all(r["seeds"] == [1001, 1002, 1003] for r in document["rows"])
    assert len(document["comparisons"]) == 3  # every pair of two configurations and the baseline
    words = " ".join(document["verdict"])
    assert "the tuned supervised baseline" in words and "Holm's correction for 3 comparisons" in words
    assert "a training costs: trial " in words and "luck of the search: trial " in words
    for mine in document["rows"][:2]:
        flattered = sum(mine["val_error"]) / 3 - mine["val_error_at_selection"]
        assert mine["luck"] == pytest.approx(flattered) or not mine["full_budget"]
    assert "supervised-tuned confirm-3" in mlflow_runs(home, "shapes")
    assert len(mlflow_runs(home, baseline.name)) == 1 + 6
    before = home.test_readings.read_bytes()
    again = ssl_tune("confirm", "shapes", "--top", 2, "--seeds", 3, "--json")
    assert again.document == document and home.test_readings.read_bytes() == before
    assert home.study_names() == ["shapes", "shapes@12-supervised"]


def test_a_baseline_of_another_setting_is_not_taken(finished: Home) -> None:
    spec = load_study("shapes", home=finished.path).spec
    wanted = resolve_request(baseline_request(spec), finished)
    assert differences(wanted, wanted, spec.split_hash) == []
    of_before = {k: v for k, v in wanted.config["data"].items() if k != "balance_batches"}
    for change, words in (
        ({"trials": 5}, ["trials"]),
        ({"config": wanted.config | {"epochs": 7}}, ["epochs"]),
        ({"config": wanted.config | {"lr": 0.5}}, []),  # is searched anyway
        ({"config": wanted.config | {"threads": 7}}, []),
        ({"config": wanted.config | {"data": of_before}}, []),
        ({"split_hash": "another"}, ["split"]),
        ({"space": wanted.space.model_copy(update={"digest": "another"})}, ["space"]),
    ):
        assert differences(wanted.model_copy(update=change), wanted, spec.split_hash) == words


@pytest.mark.long
def test_a_refit_trains_the_winner_on_the_validation_images_too(
    confirmation: tuple[Home, dict[str, Any]], readable: None, tmp_path: Path, ssl_tune: Command
) -> None:
    home = copy_home(confirmation[0], tmp_path / "refitted")
    before = readings(home)
    done = ssl_tune(
        *("confirm", "shapes", "--seeds", 2, "--baseline", "plain", "--refit", "--home", home.path, "--json")
    )
    assert done.code == 0, done.err
    document, found = done.document, done.document["refit"]
    winner = next(row for row in document["rows"] if row["who"] == document["winner"])
    assert found["who"] == document["winner"] and found["seeds"] == winner["seeds"] == [1001, 1002]
    differences = [a - b for a, b in zip(found["test_error"], winner["test_error"], strict=True)]
    assert found["difference"] == pytest.approx(sum(differences) / 2)
    # One reading for each refit, and none again for what was confirmed before.
    fresh_readings = readings(home)[len(before) :]
    assert [r["config"]["refit"] for r in fresh_readings] == [True, True]
    assert [r["test_error"] for r in fresh_readings] == found["test_error"]
    assert not {r["split_hash"] for r in fresh_readings} & {r["split_hash"] for r in before}
    steps = {r["config"]["epochs"] * r["config"]["steps_per_epoch"] for r in readings(home)}
    assert steps == {document["steps"]}
    assert f"refit of trial {winner['who']} on training and validation images" in document["verdict"][-1]
    run = mlflow_runs(home, "shapes")[f"trial {winner['who']} confirm-2-refit"]
    assert run.data.params["refit"] == "True" and run.data.metrics["test/error"] == found["test_error"][1]
    assert not [name for name in run.data.metrics if name.startswith("val/")]
    text = Path(tune.report("shapes", home=home.path)["path"]).read_text()
    assert "on training and validation images" in text
    print_confirmation(document)
    assert (
        ssl_tune(
            "confirm", "shapes", "--seeds", 2, "--baseline", "plain", "--refit", "--home", home.path
        ).code
        == 0
    )
    assert len(readings(home)) == len(before) + 2


def test_resampling_draws_validation_images_anew(
    confirmation: tuple[Home, dict[str, Any]], readable: None, tmp_path: Path
) -> None:
    home = copy_home(confirmation[0], tmp_path / "resampled")
    before = readings(home)
    document = confirm("shapes", seeds=2, baseline="plain", resample=True, home=home.path)
    assert document["redrawn"] == "everything" and confirmation[1]["redrawn"] == "labels"
    fresh_readings = readings(home)[len(before) :]
    assert len(fresh_readings) == 4
    for reading in fresh_readings:
        data = reading["config"]["data"]
        assert data["split_seed"] == data["label_seed"] == reading["config"]["seed"] in (1001, 1002)
    assert any("each seed drew labelled and validation images of its own" in s for s in document["verdict"])
    assert any("on other validation images" in sentence for sentence in document["verdict"])


def test_seeds_change_what_is_said(finished: Home) -> None:
    config = load_study("shapes", home=finished.path).spec.base_config()
    drawn = {kind: fresh(config, 3, kind) for kind in ("training", "labels", "everything")}  # type: ignore[arg-type]
    assert {kind: one.seed for kind, one in drawn.items()} == dict.fromkeys(drawn, 1003)
    seeds = {kind: (one.data.label_seed, one.data.split_seed) for kind, one in drawn.items()}
    assert seeds == {"training": (0, 0), "labels": (1003, 0), "everything": (1003, 1003)}
    assert fresh(config, 3) == drawn["labels"]


def test_more_seeds_than_labelled_sets_are_refused(finished: Home, pictures: Path) -> None:
    study = load_study("shapes", home=finished.path)
    config = study.spec.base_config()
    info = describe(config.dataset)
    all_labelled = config.model_copy(update={"labels": 60 - 12})
    with pytest.raises(ConfigError, match=r"5 seeds .* only 1 of 48 images can be drawn.* at most 1 seed"):
        check_fresh_sets(info, all_labelled, 5)
    check_fresh_sets(info, all_labelled, 1)
    check_fresh_sets(info, config, 1000)
