"""The command: streams and exit codes in real processes, training one configuration, and what explains itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from ssl_core.training import checkpoint
from tests.tune.helpers import SSL_TUNE, Done, carry_on_words, driver, signal_when
from tune.store.home import Home

Command = Callable[..., Done]
TINY = ["--set", "steps_per_epoch=2", "--set", "batch_size=4", "--set", "mu=1", "--set", "threads=1"]
RESULT = {
    *("val_error", "val_error_balanced", "val_error_by_class", "val_confusion", "val_loss"),
    *("val_ece", "val_overconfidence"),
    "classes",
    "epochs",
    "seconds",
    "images_per_second",
    "config",
    "split_hash",
    "protocol",
    "seed",
    "versions",
}


def real(*words: object) -> subprocess.CompletedProcess[str]:
    """The installed command, in a process of its own."""
    return subprocess.run(
        [SSL_TUNE, *map(str, words)], capture_output=True, text=True, check=False, timeout=120
    )


def test_a_refusal_is_exit_2_and_one_line_on_standard_error(home: Home) -> None:
    done = real("search", "--method", "psuedo_label")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ssl-tune: unknown method 'psuedo_label'. Did you mean 'pseudo_label'?")
    assert done.stderr.count("\n") == 1 and not home.path.exists()


def test_a_document_is_all_that_is_on_standard_output(finished: Home) -> None:
    done = real("status", "shapes", "--home", finished.path, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["study"] == "shapes"


def test_without_a_command_the_help_names_them_all(ssl_tune: Command) -> None:
    verbs = [
        "train",
        "plan",
        "search",
        "compare",
        "resume",
        "confirm",
        "studies",
        "status",
        "trials",
        "export",
        "ui",
        "sync",
        "methods",
        "spaces",
        "doctor",
        "submit",
        "logs",
        "repair",
        "stop",
        "enqueue",
        "pin",
        "reproduce",
        "report",
        "figures",
        "predict",
        "schema",
    ]
    done = ssl_tune("--help")
    assert done.code == 0
    for verb in verbs:
        assert f"  {verb} " in done.out
        assert ssl_tune(verb, "--help").code == 0
    assert "SSL_TUNE_HOME" in done.out
    assert ssl_tune().code == 2


def test_search_and_plan_take_the_same_options(ssl_tune: Command) -> None:
    def options(verb: str) -> set[str]:
        return {word for word in ssl_tune(verb, "--help").out.split() if word.startswith("--")}

    # A second study beside the planned one, and what comes after it, are no part of the plan.
    afterwards = {"--with-baseline", "--confirm-seeds", "--on-end", "--webhook"}
    assert options("plan") - {"--json", "--within"} == options("search") - afterwards
    own, left_out = (
        {"--methods", "--json", "--race"},
        {"--method", "--preset", "--points", "--warm-start", "--with-baseline"},
    )
    assert options("compare") - own == options("search") - left_out
    assert {"--trials", "--time-budget", "--max-failures", "--study", "--space"} <= options("search")


def test_train_writes_its_result_and_reads_no_test_image(ssl_tune: Command, home: Home) -> None:
    done = ssl_tune("train", "--epochs", 3, *TINY, "--set", "warmup_epochs=1", "--seed", 5, "--json")
    assert done.code == 0
    result = done.document
    assert set(result) == RESULT and result["epochs"] == 3 and result["seed"] == 5
    assert [line.partition(":")[0] for line in done.err.splitlines()] == [
        "epoch 1 (warm-up)",
        "epoch 2 (ssl epoch 1)",
        "epoch 3 (ssl epoch 2)",
    ]
    (folder,) = (home.path / "runs").iterdir()
    assert json.loads((folder / "result.json").read_text()) == result
    assert not home.test_readings.exists()


def test_train_final_reads_the_test_set_once_and_records_it(
    ssl_tune: Command, home: Home, tmp_path: Path
) -> None:
    words = ["train", "--method", "supervised", "--epochs", 1, *TINY, "--out", tmp_path / "run", "--final"]
    first = ssl_tune(*words, "--json").document
    assert set(first) == RESULT | {
        *("test_error", "test_error_balanced", "test_error_by_class", "test_confusion")
    }
    again = ssl_tune(*words, "--resume", "--json")
    assert again.document == first
    (line,) = home.test_readings.read_text().splitlines()
    assert json.loads(line)["test_error"] == first["test_error"]
    refused = ssl_tune(*words)
    assert refused.code == 2 and "not empty" in refused.err and "--resume" in refused.err
    shown = ssl_tune(*words, "--resume")
    assert f"test/error {first['test_error']:.2f} %" in shown.out


def test_two_runs_without_a_folder_get_one_each(ssl_tune: Command, home: Home) -> None:
    words = ["train", "--method", "supervised", "--epochs", 1, *TINY, "--json"]
    results = [ssl_tune(*words).document for _ in range(2)]
    assert len(list((home.path / "runs").iterdir())) == 2
    assert results[0]["val_error"] == results[1]["val_error"]


def test_a_loss_that_is_not_finite_is_exit_3(ssl_tune: Command, home: Home) -> None:
    diverging = ["--set", "lr=10", "--set", "weight_decay=1", "--set", "steps_per_epoch=60"]
    done = ssl_tune("train", "--method", "supervised", "--epochs", 2, *TINY, *diverging)
    assert done.code == 3 and done.out == ""
    assert "not finite at step" in done.err and "lr=10" in done.err and "Traceback" not in done.err


def test_an_interrupted_run_is_carried_on_with_the_line_it_prints(
    ssl_tune: Command, home: Home, tmp_path: Path
) -> None:
    out = tmp_path / "a run"
    words = ["train", "--method", "supervised", "--epochs", 4000, *TINY, "--out", out]
    with driver(*words) as process:
        assert process.stdout is not None and process.stderr is not None
        while not process.stderr.readline().startswith("epoch 2 "):
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        errors, output = process.stderr.read(), process.stdout.read()
        assert process.wait(60) == 130 and output == "" and "Traceback" not in errors

    def finished_epochs() -> int:
        return max(checkpoint.epochs_in(out / "checkpoints"))

    first = finished_epochs()
    with signal_when(lambda: finished_epochs() >= first + 3, signal.SIGTERM):
        done = ssl_tune(*carry_on_words(errors))
    assert done.code == 143 and done.out == ""
    # 4000 epochs are enough to be caught at, and too many to wait for.
    last = finished_epochs()
    shorter = json.loads((out / "config.json").read_text()) | {"stop_after_epoch": last + 2}
    (out / "config.json").write_text(json.dumps(shorter))
    done = ssl_tune(*carry_on_words(done.err), "--json")
    assert done.code == 0 and done.document["epochs"] == last + 2
    assert done.err.startswith(f"epoch {last + 1} ")


def test_methods_names_each_with_its_parameters_and_sources(ssl_tune: Command) -> None:
    document = ssl_tune("methods", "--json").document
    found = {entry["method"]: entry for entry in document}
    assert {"supervised", "pseudo_label"} <= set(found)
    threshold = next(p for p in found["pseudo_label"]["parameters"] if p["name"] == "pseudo_label.threshold")
    assert threshold["default"] == 0.95 and "report" in threshold["description"]
    assert "pseudo_label.threshold [0.95]" in ssl_tune("methods").out


def test_spaces_shows_ranges_the_point_tried_first_and_why(ssl_tune: Command) -> None:
    document = ssl_tune("spaces", "--json").document
    assert {"supervised", "pseudo_label"} <= {entry["method"] for entry in document}
    wide = ssl_tune("spaces", "pseudo_label", "--wide", "--json").document[0]
    assert wide["source"] == "pseudo_label (wide)"
    assert {p["name"] for p in wide["parameters"]} >= {"pseudo_label.threshold", "warmup_share", "lr"}
    assert set(wide["baseline"]) == {p["name"] for p in wide["parameters"]}
    shown = ssl_tune("spaces", "pseudo_label").out
    assert "0.5 to 0.995" in shown and "scientific" in shown and "tried first" in shown
    refused = ssl_tune("spaces", "psuedo_label")
    assert refused.code == 2 and "Did you mean 'pseudo_label'?" in refused.err


def findings(done: Done) -> dict[str, Any]:
    return {finding["what"]: finding for finding in done.document}


def test_doctor_looks_at_all_that_a_search_needs(ssl_tune: Command, home: Home) -> None:
    done = ssl_tune("doctor", "--json")
    found = findings(done)
    assert done.code == 0, found
    wanted = {
        "Python",
        "torch",
        "ray",
        "optuna",
        "mlflow",
        "processor",
        "GPU",
        "memory",
        "home",
        "disk",
        "MLflow",
    }
    assert wanted <= set(found)
    assert found["MLflow"]["found"] == f"sqlite:///{home.path}/mlflow.db"
    assert all(f["verdict"] == "good" or f["remedy"] for f in found.values())
    shown = ssl_tune("doctor")
    assert shown.code == 0 and "processor" in shown.out and not home.path.exists()


def test_doctor_is_exit_2_where_a_search_would_fail_and_says_what_to_do(
    ssl_tune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:./mlruns")
    monkeypatch.setattr("tune.cluster.ray_folder.ELSEWHERE", ())
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("long" * 20)))
    monkeypatch.delenv("TMPDIR", raising=False)
    done = ssl_tune("doctor", "--home", tmp_path / "file", "--json")
    assert done.code == 2
    found = findings(done)
    for what in ("home", "MLflow", "Ray's folder"):
        assert found[what]["verdict"] == "bad" and found[what]["remedy"], found[what]


def test_the_ui_is_mlflows_server_on_the_homes_database(
    ssl_tune: Command, finished: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(
        program: str, words: list[str]
    ) -> NoReturn:  # instead of the server, which takes seconds to start
        assert program == sys.executable
        print(*words)
        raise SystemExit(0)

    monkeypatch.setattr(os, "execv", execute)
    done = ssl_tune("ui", "shapes", "--home", finished.path, "--port", 5123)
    assert done.code == 0 and "http://127.0.0.1:5123/" in done.out
    assert f"-m mlflow server --backend-store-uri sqlite:///{finished.path}/mlflow.db" in done.out
    assert f"--artifacts-destination {finished.artifacts.as_uri()} --host 127.0.0.1 --port 5123" in done.out
