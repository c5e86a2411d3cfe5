"""Where things lie: a home that was moved or has an odd name, Ray's folder and ports, a used port, a relative path."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import tune
from ssl_core.system.errors import ConfigError
from tests.tune.helpers import (
    SMALL,
    Done,
    carry_on_words,
    copy_home,
    driver,
    make_home,
    mlflow_runs,
    signal_when,
    wait_until,
    words_of,
)
from tune.cluster import local_ray
from tune.cluster import ray_folder as ray_folder_module
from tune.cluster.ray_folder import ELSEWHERE, problem_of, ray_folder
from tune.store.home import Home
from tune.store.layout import sqlite_file, sqlite_url
from tune.tracking.uri import absolute_uri

Command = Callable[..., Done]
TINY = {"epochs": 2, "trials": 1, "concurrent": 1, "name": "s", "settings": SMALL | {"warmup_epochs": 1}}


@pytest.fixture(scope="module")
def tracked_once(
    local_ray: None, no_figures: None, migrated_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Home:
    """A home with one finished study of one trial, `s`, tracked in its own database."""
    home = make_home(tmp_path_factory.mktemp("tracked") / "home", migrated_store)
    tune.search(**TINY, home=home.path, quiet=True)
    return home


@pytest.fixture
def tracked_here(tracked_once: Home, home: Home) -> Home:
    """A copy of that home, to do anything with."""
    return copy_home(tracked_once, home.path)


def test_a_home_that_was_moved_is_all_there_and_the_old_place_stays_away(
    tracked_here: Home, ssl_tune: Command, tmp_path: Path
) -> None:
    old, new = tracked_here.path, tmp_path / "moved" / "home"
    new.parent.mkdir()
    runs_before = {name: run.info.run_id for name, run in mlflow_runs(tracked_here).items()}
    shutil.move(old, new)
    told = ssl_tune("status", "s", "--home", new, "--json").document
    assert told["tracking"]["uri"] == sqlite_url(new / "mlflow.db")
    assert ssl_tune("report", "s", "--home", new).code in (
        0,
        5,
    )  # on a busy machine MLflow gets it later
    assert ssl_tune("sync", "s", "--home", new).code == 0
    assert ssl_tune("resume", "s", "--home", new).code == 0
    assert not old.exists()
    runs = mlflow_runs(Home(new))
    assert {name: run.info.run_id for name, run in runs.items()} == runs_before
    for run in runs.values():
        assert run.info.artifact_uri.startswith(f"{(new / 'mlartifacts').as_uri()}/")
    kept = new / "mlartifacts" / runs["s"].info.run_id / "artifacts"
    assert (kept / "report.html").is_file()


def test_a_study_keeps_no_path_of_its_home(tracked_here: Home) -> None:
    text = (tracked_here.studies / "s" / "study.yaml").read_text()
    assert "tracking_uri: home:mlflow.db" in text and str(tracked_here.path) not in text


def test_a_study_of_an_earlier_version_kept_the_whole_path(tracked_here: Home, tmp_path: Path) -> None:
    file = tracked_here.studies / "s" / "study.yaml"
    old = sqlite_url(tmp_path / "gone" / "mlflow.db")
    file.write_text(file.read_text().replace("home:mlflow.db", old))
    assert tune.status("s", home=tracked_here.path)["tracking"]["uri"] == tracked_here.default_tracking_uri


@pytest.mark.parametrize("name", ["a%20b q?x=1 c#1"])
def test_a_home_may_have_any_name(local_ray: None, migrated_store: Path, tmp_path: Path, name: str) -> None:
    home = make_home(tmp_path / "homes" / name, migrated_store)
    study = tune.search(**TINY, home=home.path, quiet=True)
    assert [p.name for p in home.path.parent.iterdir()] == [name]
    assert {"optuna.db", "events.db"} <= {p.name for p in study.folder.path.iterdir()}
    assert (home.path / "mlartifacts").is_dir() and len(mlflow_runs(home)) == 2


@pytest.mark.parametrize("path", ["/x/a%20b/o.db", "/x/q?x=1/o.db", "/x/c#1/o.db", "/x/plain one/o.db"])
def test_a_path_goes_into_a_url_and_comes_back(path: str) -> None:
    from sqlalchemy.engine import make_url

    assert make_url(sqlite_url(Path(path))).database == path
    assert sqlite_file(sqlite_url(Path(path))) == Path(path)


def test_a_relative_database_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_uri("sqlite:///my.db") == f"sqlite:///{tmp_path}/my.db"


def test_the_ui_says_at_once_that_its_port_is_taken(ssl_tune: Command, ready_home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = ssl_tune("ui", "--port", port)
    assert done.code == 2 and len(done.err.splitlines()) == 1
    assert f"--port {port}" in done.err and "Address already in use" in done.err
    other = int(done.err.partition("such as --port ")[2].rstrip(".\n"))
    socket.create_server(("127.0.0.1", other)).close()
    assert "no address of this machine" in ssl_tune("ui", "--host", "no-such-host.invalid").err


def test_ray_takes_a_short_folder_where_the_one_that_is_named_does_not_fit(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    other = Path(ELSEWHERE[0])
    assert "too long" in str(problem_of(long))
    assert ray_folder({"RAY_TMPDIR": str(long)}) == other
    assert ray_folder({"TMPDIR": str(tmp_path / "nowhere")}) == other
    assert ray_folder({"TMPDIR": "/dev/null"}) == other
    assert ray_folder({"TMPDIR": "/var/tmp"}) == Path("/var/tmp")
    fits = "/" + "y" * (local_ray_limit() - 1)
    assert (
        "letters too long" in str(problem_of(Path(fits + "z"))) and problem_of(Path(fits)) == "is no folder"
    )


def local_ray_limit() -> int:
    """Letters of a folder below which Ray's longest socket has exactly the 107 letters that Linux takes."""
    name = "/ray/session_2026-11-28_07-12-15_123456_1234567/sockets/plasma_store"
    return 107 - len(name)


def test_where_no_folder_fits_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_folder_module, "ELSEWHERE", ())
    with pytest.raises(ConfigError, match=r"no folder for its sockets: .*is no folder.*RAY_TMPDIR"):
        ray_folder({"TMPDIR": "/nowhere"})


@pytest.mark.parametrize("value", ["/nowhere/at/all", "/dev/null", "/tmp/" + "long" * 20])
def test_doctor_says_what_is_wrong_with_tmpdir(
    ssl_tune: Command, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("TMPDIR", value)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", None)
    found = {f["what"]: f for f in ssl_tune("doctor", "--json").document}
    assert (
        found["Ray's folder"]["verdict"] == "note" and f"TMPDIR = {value}" in found["Ray's folder"]["remedy"]
    )
    assert found["temporary files"]["verdict"] == "note" and found["temporary files"]["found"].startswith(
        "/tmp"
    )


@pytest.mark.long
def test_a_local_ray_with_a_long_tmpdir_listens_on_loopback_alone(ready_home: Home, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    words = words_of(TINY | {"epochs": 40, "trials": 2})
    with driver(
        "search", *words, "--home", ready_home.path, TMPDIR=str(long), RAY_TMPDIR=str(long)
    ) as process:
        wait_until(lambda: list(ready_home.path.glob("studies/s/trials/*/*.ckpt")), process)
        listening = {
            (each.name(), at.laddr.ip)
            for each in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            for at in each.net_connections(kind="inet")
            if at.status == psutil.CONN_LISTEN
        }
        process.terminate()
        _, err = process.communicate(timeout=240)
    assert process.returncode == 143, err
    assert "raylet" in {name for name, _ in listening}
    assert {ip for _, ip in listening} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}, listening
    assert not list(long.glob("ray*"))


def test_ray_is_told_the_gpus_that_were_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {}
    monkeypatch.setattr(local_ray.ray, "init", lambda **options: told.update(options))
    for name in ("_started_with", "_awaited"):  # as they are afterwards: no Ray is started here
        monkeypatch.setattr(local_ray, name, getattr(local_ray, name))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,3")
    local_ray.start_ray(1, "json")
    assert told["num_gpus"] == 3 and told["_node_ip_address"] == "127.0.0.1"


def test_a_training_is_resumed_from_another_folder_and_asked_only_for_what_is_given(
    ssl_tune: Command, pictures: Path, readable: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pictures.parent)
    settings = [word for k, v in SMALL.items() for word in ("--set", f"{k}={v}")]
    start = ["--dataset", f"folder:{pictures.name}", "--labels", 12, "--network", "wrn-10-1", *settings]
    out = ["--out", tmp_path / "run", "--home", tmp_path / "home"]
    assert ssl_tune("train", *start, "--epochs", 2, "--set", "warmup_epochs=1", *out).code == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["dataset"] == f"folder:{pictures}"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert ssl_tune("train", "--resume", *out).code == 0
    assert ssl_tune("train", "--resume", "--epochs", 2, *out).code == 0
    other = ssl_tune("train", "--resume", "--epochs", 3, *out)
    assert other.code == 2 and "configuration: epochs differ" in other.err, other.err
    other = ssl_tune("train", "--resume", "--method", "vat", *out)
    assert other.code == 2 and "--method vat: the run in" in other.err and "pseudo_label" in other.err


def test_an_interrupted_training_prints_a_command_that_works(
    ssl_tune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [word for k, v in SMALL.items() for word in ("--set", f"{k}={v}")]
    words = ["train", "--epochs", 40, *settings, "--out", "run", "--home", tmp_path / "mine"]
    monkeypatch.chdir(tmp_path)
    with signal_when(lambda: bool(list((tmp_path / "run").glob("checkpoints/*2.ckpt"))), 2):
        done = ssl_tune(*words)
    assert done.code == 130
    again = carry_on_words(done.err)
    assert str(tmp_path / "mine") in again
    monkeypatch.chdir("/")
    assert ssl_tune(*again).code == 0


def test_a_name_that_is_taken_by_a_finished_study_names_the_way_on(
    tracked_here: Home, ssl_tune: Command
) -> None:
    done = ssl_tune("search", "--name", "s", "--trials", 9, "--home", tracked_here.path)
    assert done.code == 2 and "exists already" in done.err and "--warm-start s" in done.err
    again = ssl_tune("resume", "s", "--home", tracked_here.path)
    assert again.code == 0 and "finished already" in again.out and "--warm-start s --name NAME" in again.out
