"""What `export` writes, and that training it again gives the same bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ssl_core
import tune
from search_spaces import dump_yaml, load_yaml
from ssl_core.system.errors import ConfigError
from tests.tune.helpers import Done, make_pictures
from tune.findings.exports import expected_error
from tune.findings.study import load_study
from tune.store.home import Home

Command = Callable[..., Done]


def of_state(home: Home, state: str) -> str:
    """The last trial of a state."""
    return [r.trial for r in load_study("shapes", home=home.path).records() if r.state == state][-1]


def read(path: Path) -> dict[str, Any]:
    document = load_yaml(path.read_text(), str(path))
    assert isinstance(document, dict)
    return document


def test_an_export_says_what_came_out_and_where_it_came_from(
    ssl_tune: Command, finished: Home, tmp_path: Path
) -> None:
    path = tmp_path / "best.yaml"
    done = ssl_tune("export", "shapes", "--home", finished.path, "-o", path)
    assert done.code == 0 and done.err == "" and f"ssl-tune train --config {path}" in done.out
    assert "not confirmed" in done.out
    document = read(path)
    study = load_study("shapes", home=finished.path)
    best = study.best()
    assert best is not None and set(document) == {"format", "config", "expect", "origin"}
    assert document["expect"] == {
        "val_error": best["val_error"],
        "val_error_balanced": best["val_error_balanced"],
        "val_loss": best["val_loss"],
        "epochs": best["epoch"],
    }
    origin = document["origin"]
    assert origin["study"] == "shapes" and origin["trial"] == best["trial"] and origin["confirmed"] is False
    assert origin["full_budget"] and origin["stop_reason"] == "completed"
    assert origin["split_hash"] == study.spec.split_hash and len(origin["split_hash"]) == 16
    assert origin["git_revision"] and {"processor", "torch", "python"} <= set(origin["fingerprint"])
    assert document["config"]["lr"] == best["params"]["lr"]
    assert document["config"]["threads"] == 1 and document["config"]["precision"] == "float32"
    assert document["config"]["stop_after_epoch"] is None
    assert document == json.loads(json.dumps(tune.export("shapes", home=finished.path)))
    assert path.read_text().startswith("# Written by `ssl-tune export shapes`")


def test_without_a_file_the_yaml_goes_to_standard_output(ssl_tune: Command, finished: Home) -> None:
    done = ssl_tune("export", "shapes", "--home", finished.path)
    assert done.code == 0 and done.err == ""
    assert load_yaml(done.out, "stdout") == tune.export("shapes", home=finished.path)


@pytest.mark.parametrize("state", ["completed", "stopped_early"])
def test_an_exported_trial_gives_the_same_error_and_loss_bit_for_bit(
    ssl_tune: Command, finished: Home, home: Home, tmp_path: Path, state: str
) -> None:
    trial, path, out = of_state(finished, state), tmp_path / "it.yaml", tmp_path / "run"
    document = tune.export("shapes", path, trial=trial, home=finished.path)
    assert (document["config"]["stop_after_epoch"] is None) == (state == "completed")
    assert document["config"]["epochs"] == 6  # the budget stays: a shorter one changes the schedule
    done = ssl_tune("train", "--config", path, "--out", out, "--json")
    assert done.code == 0 and "may differ" not in done.err
    result = done.document
    assert result["val_error"] == document["expect"]["val_error"]
    assert result["epochs"] == document["expect"]["epochs"]
    assert "test_error" not in result and result["split_hash"] == document["origin"]["split_hash"]
    assert result == json.loads((out / "result.json").read_text())
    losses: list[float] = []
    ssl_core.train(document["config"], on_report=lambda r: losses.append(r.metrics["val/loss"]))
    assert losses[-1] == document["expect"]["val_loss"]
    assert not home.test_readings.exists()


def test_a_stopped_trial_says_where_it_stops_and_promises_nothing_once_it_trains_to_the_end(
    ssl_tune: Command, finished: Home, tmp_path: Path
) -> None:
    trial, path = of_state(finished, "stopped_early"), tmp_path / "it.yaml"
    done = ssl_tune("export", "shapes", "--trial", trial, "--home", finished.path, "-o", path)
    document = read(path)
    stops = document["config"]["stop_after_epoch"]
    assert f"after {stops} of 6 epochs" in " ".join(done.out.split())
    assert expected_error(document) == document["expect"]["val_error"]
    document["config"]["stop_after_epoch"] = None  # as of a trial that fresh seeds have trained to the end
    assert expected_error(document) is None


def test_train_says_that_the_error_is_the_exported_one(
    ssl_tune: Command, finished: Home, tmp_path: Path
) -> None:
    path = tmp_path / "it.yaml"
    tune.export("shapes", path, trial=of_state(finished, "stopped_early"), home=finished.path)
    done = ssl_tune("train", "--config", path)
    assert done.code == 0 and "val/error is the same as exported." in done.out
    changed = read(path)
    changed["expect"]["val_error"] += 1.0
    path.write_text(dump_yaml(changed))
    assert "exported was" in ssl_tune("train", "--config", path).out


def test_an_export_of_another_machine_says_that_bits_may_differ(
    ssl_tune: Command, finished: Home, tmp_path: Path
) -> None:
    path = tmp_path / "it.yaml"
    tune.export("shapes", path, trial=of_state(finished, "stopped_early"), home=finished.path)
    document = read(path)
    document["origin"]["fingerprint"]["torch"] = "1.0"
    path.write_text(dump_yaml(document))
    done = ssl_tune("train", "--config", path, "--json")
    assert done.code == 0 and done.document["val_error"] == document["expect"]["val_error"]
    assert "bits may differ" in done.err and "torch: 1.0 there" in done.err


def test_options_on_top_of_an_export_change_the_run_and_expect_nothing(
    ssl_tune: Command, finished: Home, tmp_path: Path
) -> None:
    path = tmp_path / "it.yaml"
    tune.export("shapes", path, trial=of_state(finished, "stopped_early"), home=finished.path)
    done = ssl_tune("train", "--config", path, "--seed", 9, "--set", "lr=0.01", "--json")
    assert done.document["config"]["lr"] == 0.01 and done.document["seed"] == 9
    done = ssl_tune("train", "--config", path, "--seed", 9)
    assert "exported" not in done.out


def test_an_export_for_other_images_is_refused(
    ssl_tune: Command, finished: Home, home: Home, tmp_path: Path
) -> None:
    path = tmp_path / "it.yaml"
    document = tune.export("shapes", path, home=finished.path)
    other = make_pictures(tmp_path / "other", train=21)
    done = ssl_tune("train", "--config", path, "--dataset", f"folder:{other}")
    assert done.code == 2 and done.out == ""
    assert document["origin"]["split_hash"] in done.err and "--dataset" in done.err
    assert not (home.path / "runs").exists()
    moved = make_pictures(tmp_path / "moved")  # the same images elsewhere are the same images
    assert ssl_tune("train", "--config", path, "--dataset", f"folder:{moved}").code == 0


def test_a_trial_that_does_not_exist_is_refused_with_those_that_do(finished: Home) -> None:
    with pytest.raises(ConfigError, match=r"no trial '17' with a result.*0, 1, 2, 3, 4, 5"):
        tune.export("shapes", trial="17", home=finished.path)


def test_an_output_that_cannot_be_written_is_refused(
    ssl_tune: Command, finished: Home, tmp_path: Path
) -> None:
    for place, says in ((tmp_path, "Is a directory"), (tmp_path / "no" / "best.yaml", "does not exist")):
        done = ssl_tune("export", "shapes", "--home", finished.path, "-o", place)
        assert done.code == 2 and says in done.err and str(place) in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_plain_configuration_is_trained_as_it_is(ssl_tune: Command, home: Home, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "method: supervised\nepochs: 1\nsteps_per_epoch: 1\nbatch_size: 4\nthreads: 1\nlr: 1e-2\n"
    )
    done = ssl_tune("train", "--config", path, "--json")
    assert done.code == 0 and done.document["config"]["lr"] == 0.01
    (run,) = (home.path / "runs").iterdir()
    assert json.loads((run / "result.json").read_text()) == done.document
