"""Confirmation: fresh seeds, the baseline beside it, the test set read once, and words that claim no more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ssl_core.errors import ConfigError
from tests.tune.helpers import Done, copy_home, make_pictures, mlflow_runs, mlflow_steps
from tune.cli.show import print_confirmation
from tune.confirm import Spread, confirm, confirmed, tasks_of, verdict
from tune.home import Home
from tune.study import Study, load_study

Command = Callable[..., Done]


@pytest.fixture(scope="module")
def confirmation(
    finished: Home, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Home, dict[str, Any]]]:
    """The finished study in a home of its own, confirmed once; its test images can be read meanwhile."""
    home = copy_home(finished, tmp_path_factory.mktemp("confirmed") / "home")
    sealed = {path: path.read_bytes() for path in (pictures / "test").glob("*/*.png")}
    shutil.copytree(make_pictures(home.path / "again") / "test", pictures / "test", dirs_exist_ok=True)
    yield home, confirm("shapes", top=1, seeds=2, home=home.path)
    for path, content in sealed.items():
        path.write_bytes(content)


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
    assert "cannot tell below 3 seeds" in document["verdict"][0] and "n = 2" in document["verdict"][0]
    assert confirmed(study.folder) == document


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
    tasks = tasks_of(study, [record], 2)
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
    done = ssl_tune("confirm", "shapes", "--home", home.path, "--seeds", 2, "--json")
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
    assert not Study(finished.study_folder("shapes")).folder.is_locked()


@pytest.mark.parametrize(
    ("method", "baseline", "says"),
    [
        ((10.0,), (20.0,), "-10.00 points, n = 1; cannot tell below 3 seeds"),
        ((10.0, 10.0), (20.0, 20.0), "-10.00 points, n = 2; cannot tell below 3 seeds"),
        # t(0.975, 2) = 4.3027; differences -3, -2, -1: 2 +- 4.3027 / sqrt(3) = 2.4841
        ((17.0, 18.0, 19.0), (20.0, 20.0, 20.0), "cannot be told .*-2.00 .*[-4.48, +0.48], n = 3"),
        # differences -12, -11, -10: the same spread, farther off
        ((8.0, 9.0, 10.0), (20.0, 20.0, 20.0), "beats .*-11.00 .*[-13.48, -8.52], n = 3"),
        ((32.0, 31.0, 30.0), (20.0, 20.0, 20.0), "is worse than .*+11.00 .*[+8.52, +13.48], n = 3"),
        # paired: seeds differ by far more than the methods do
        ((9.0, 49.1, 28.9), (20.0, 60.0, 40.0), "beats .*-11.00"),
        # no spread at all
        ((20.0, 20.0, 20.0), (20.0, 20.0, 20.0), "cannot be told .*+0.00 .*[+0.00, +0.00]"),
        ((15.0, 15.0, 15.0), (20.0, 20.0, 20.0), "beats .*-5.00 .*[-5.00, -5.00]"),
    ],
)
def test_a_verdict_claims_no_more_than_the_spread_carries(
    method: tuple[float, ...], baseline: tuple[float, ...], says: str
) -> None:
    words = verdict(Spread(method), Spread(baseline), "trial 3")
    assert words.startswith("trial 3 ") and words.endswith(".")
    place = 0
    for part in says.split(".*"):
        place = words.find(part.strip(), place)
        assert place >= 0, (part, words)


def test_a_spread_is_mean_and_sample_deviation() -> None:
    assert str(Spread((10.0, 12.0, 14.0))) == "12.00 ± 2.00"
    assert Spread((10.0, 12.0)).std == pytest.approx(2**0.5)
    assert Spread((7.0,)).std is None and str(Spread((7.0,))) == "7.00"
