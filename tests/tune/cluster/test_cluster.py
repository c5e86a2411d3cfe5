"""Clusters: addresses, doors that are shut, requests that travel as words, and machines that differ."""

from __future__ import annotations

import dataclasses
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import typer

from ssl_core.system.errors import ConfigError
from tests.tune.helpers import Done, make_spec, make_study
from tune.cli.options import takes_request
from tune.cluster.connection import check_address, connected
from tune.cluster.identity import identity
from tune.cluster.jobs import job_server
from tune.cluster.probe import Probe, check_probes
from tune.definition.request import SearchRequest
from tune.errors import Exit, ServiceError
from tune.launch.request import check_request
from tune.launch.sending import request_words, take_files
from tune.revision import code_digest
from tune.store.home import Home
from tune.store.specification import read_spec
from tune.tracking.uri import take_login

Command = Callable[..., Done]

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"


@contextmanager
def silent_server() -> Iterator[int]:
    """Something that takes connections, says nothing, and is no cluster."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        over = threading.Event()

        def serve() -> None:
            kept = []
            server.settimeout(0.1)
            while not over.is_set():
                try:
                    kept.append(server.accept()[0])
                except TimeoutError:
                    continue
            for connection in kept:
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        over.set()
        thread.join()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


# Addresses and shut doors


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("ray://head:10001", ["address of a job server or a client", "ssl-tune submit"]),
        ("http://head:8265", ["address of a job server or a client", "HOST:PORT"]),
        ("head", ["--address 'head'", "HOST:PORT or auto"]),
        ("head:port", ["HOST:PORT or auto"]),
        ("head:70000", ["HOST:PORT or auto"]),
        (":6379", ["HOST:PORT or auto"]),
    ],
)
def test_what_is_no_address_of_a_cluster_is_refused(
    ssl_tune: Command, home: Home, address: str, says: list[str]
) -> None:
    done = ssl_tune("search", "--address", address)
    assert done.code == Exit.USAGE, done
    assert all(words in done.err for words in says), done.err
    assert not home.path.exists()


def test_addresses_that_can_be() -> None:
    for address in ("auto", "head:6379", "10.0.0.1:6379", "[::1]:6379"):
        check_address(address)


@pytest.mark.parametrize("verb", ["search", "resume", "submit", "logs", "doctor"])
def test_a_cluster_that_does_not_answer_is_exit_code_7_within_seconds(
    ssl_tune: Command, home: Home, verb: str
) -> None:
    if verb == "resume":
        make_study(home)
    port = free_port()
    words = {
        "search": ("search",),
        "resume": ("resume", "s"),
        "submit": ("submit", "--name", "s"),
        "logs": ("logs", "s"),
        "doctor": ("doctor",),
    }[verb]
    began = time.monotonic()
    done = ssl_tune(*words, "--address", f"127.0.0.1:{port}")
    assert time.monotonic() - began < 30  # a second or two, and what a busy machine adds
    assert done.code == Exit.UNREACHABLE, done
    assert f"127.0.0.1:{port} does not answer" in done.err and "refused" in done.err
    assert home.study_names() == (["s"] if verb == "resume" else [])


def test_what_answers_but_is_no_cluster_is_exit_code_7(ssl_tune: Command, home: Home) -> None:
    with silent_server() as port:
        done = ssl_tune("search", "--address", f"127.0.0.1:{port}")
    assert done.code == Exit.UNREACHABLE, done
    assert "not a Ray cluster" in done.err
    assert not home.path.exists()


def test_a_driver_of_one_cluster_is_not_taken_for_anothers(local_ray: None) -> None:
    import ray

    mine = str(ray.get_runtime_context().gcs_address)
    with connected(mine):
        assert ray.is_initialized()
    assert ray.is_initialized()  # it was there before, and stays
    host, _, port = mine.rpartition(":")
    other = "127.0.0.2" if host != "127.0.0.2" else "127.0.0.3"
    with pytest.raises((ConfigError, ServiceError)), connected(f"{other}:{port}"):
        pytest.fail("let in")


# Requests that travel as words


REQUESTS = [
    SearchRequest(name="a"),
    SearchRequest(
        name="b",
        method="vat",
        dataset="folder:/images/my pictures",
        labels=40,
        network="wrn-16-2",
        epochs=7,
        trials=3,
        space="wide",
        settings={"lr": 0.01, "data.image_size": 16, "precision": "float32", "vat.use_entmin": False},
        concurrent=4,
        gpus_per_trial=0.25,
        seed=5,
        time_budget="1h30m",
        sampler="random",
        max_failures=0,
        tracking_uri="http://mlflow:5000",
        tracking_timeout="10s",
        data_root="/data",
    ),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=["a", "b"])
def test_a_request_is_the_same_after_it_was_typed(request_: SearchRequest) -> None:
    got: list[SearchRequest] = []

    def command(request: SearchRequest) -> None:
        got.append(request)

    app = typer.Typer()
    app.command()(takes_request(command))
    words = request_words(request_)
    app(words, standalone_mode=False)
    assert got == [request_]


def test_a_space_of_ones_own_travels_as_a_file() -> None:
    assert request_words(SearchRequest(space="mine/odd name.yaml")) == ["--space", "space.yaml"]


def test_a_method_of_ones_own_is_sent_along_with_its_space(tmp_path: Path) -> None:
    mine, job = tmp_path / "mine", tmp_path / "job"
    mine.mkdir()
    job.mkdir()
    for name in ("my_uda.py", "my_uda.yaml"):
        shutil.copy(EXAMPLES / name, mine / name)
    request = SearchRequest(method=f"file:{mine / 'my_uda.py'}", space="wide")
    check_request(request)
    assert take_files(request, job) and sorted(p.name for p in job.iterdir()) == ["my_uda.py", "my_uda.yaml"]
    assert (job / "my_uda.py").read_bytes() == (EXAMPLES / "my_uda.py").read_bytes()
    assert request_words(request) == ["--method", "file:my_uda.py", "--space", "wide"]
    assert not take_files(SearchRequest(), job)
    with pytest.raises(ConfigError, match=r"vat.xi is searched, but has no effect with vat.alpha = 0"):
        check_request(SearchRequest(method="vat", settings={"vat.alpha": 0}))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "--name is missing"),
        (("--name", "../x"), "cannot be a study's name"),
        (("--name", "s", "--method", "psuedo_label"), "Did you mean 'pseudo_label'?"),
        (("--name", "s", "--sampler", "tpee"), "Did you mean 'tpe'?"),
        (("--name", "s", "--trials", "0"), "trials = 0"),
        (("--name", "s", "--space", "nowhere.yaml"), "no such file"),
        (("--name", "s", "--set", "lr=0"), "lr = 0"),
        (("--name", "s", "--tracking-uri", "mlruns"), "tracking URI 'mlruns'"),
        (("--name", "s"), "--address is missing"),
        (("--name", "s", "--address", "ftp://x"), "http(s)://HOST:PORT"),
        (("--name", "s", "--address", "http://me:secret@head:8265"), "http(s)://HOST:PORT"),
    ],
)
def test_a_bad_submission_is_refused_before_it_is_sent(
    ssl_tune: Command, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], says: str
) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    done = ssl_tune("submit", *words)
    assert done.code == Exit.USAGE and says in done.err, done


def test_the_job_server_comes_from_the_option_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://there:8265")
    assert job_server(None) == "http://there:8265"
    assert job_server("here:1") == "http://here:1"
    assert job_server("https://here") == "https://here"


def test_a_request_is_checked_without_its_data() -> None:
    check_request(SearchRequest(dataset="folder:/nowhere/at/all", labels=40))


# Machines that differ


MINE = {"python": "3.11", "ray": "2.60.0", "torch": "2.14.1", "ssl-tune": "code 01234567"}


def test_machines_that_are_alike_pass() -> None:
    check_probes([Probe("a", versions=MINE), Probe("b", versions=MINE)], MINE)


def test_a_difference_is_named_with_both_sides() -> None:
    other = MINE | {"torch": "2.11.0"}
    with pytest.raises(ConfigError, match=r"b has torch 2\.11\.0, the driver 2\.14\.1.*pip install"):
        check_probes([Probe("a", versions=MINE), Probe("b", versions=other)], MINE)
    with pytest.raises(ConfigError, match=r"b has torch not at all"):
        check_probes([Probe("b", versions={k: v for k, v in MINE.items() if k != "torch"})], MINE)
    with pytest.raises(ConfigError, match=r"c: ssl-tune cannot be loaded"):
        check_probes([Probe("c", note="ssl-tune cannot be loaded there")], MINE)
    with pytest.raises(ConfigError, match="no machine"):
        check_probes([], MINE)


def test_storage_apart_is_told_first() -> None:
    probes = [Probe("a", versions=MINE), Probe("b", missing=["/state (No such file or directory)"])]
    with pytest.raises(ServiceError, match=r"not shared: b does not see /state .*--home") as refused:
        check_probes(probes, MINE)
    assert refused.value.code == Exit.STORAGE


def test_the_code_of_a_changed_copy_is_told_from_the_original(tmp_path: Path) -> None:
    for package in ("search_spaces", "ssl_core", "tune"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "a.py").write_text("x = 1\n")
    before = code_digest(tmp_path)
    (tmp_path / "tune" / "__pycache__").mkdir()
    (tmp_path / "tune" / "__pycache__" / "a.pyc").write_bytes(b"0")
    assert code_digest(tmp_path) == before
    (tmp_path / "tune" / "a.py").write_text("x = 2\n")
    changed = code_digest(tmp_path)
    (tmp_path / "tune" / "a.py").rename(tmp_path / "tune" / "b.py")
    assert len({before, changed, code_digest(tmp_path)}) == 3
    assert identity()["python"] == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert identity()["ssl-tune"] == identity()["ssl-tune"]


@pytest.mark.long
def test_a_late_machine_that_differs_runs_no_trial(home: Home) -> None:
    from tune.trials.study_trials import StudyTrials
    from tune.worker.task import trial_task
    from tune.worker.trainable import _check_machine

    folder, spec = make_study(home)
    task = dataclasses.replace(
        trial_task(spec, StudyTrials(folder, spec).ask(), folder, home), identity=identity()
    )
    _check_machine(task)
    with pytest.raises(RuntimeError, match=r"differs from the driver: it has torch .* the driver 0\.1"):
        _check_machine(dataclasses.replace(task, identity=identity() | {"torch": "0.1"}))
    with pytest.raises(RuntimeError, match="storage is not shared"):
        _check_machine(dataclasses.replace(task, folder=str(home.path / "elsewhere" / "trials" / "0")))


# What is kept


def test_the_study_keeps_its_address_and_older_ones_have_none(home: Home) -> None:
    folder, spec = make_study(home)
    assert spec.address is None
    moved = spec.model_copy(update={"address": "head:6379", "elastic": True})
    folder.write_spec(moved)
    assert read_spec(folder.path) == moved
    text = (folder.path / "study.yaml").read_text()
    kept = [line for line in text.splitlines() if not line.startswith(("address", "elastic"))]
    (folder.path / "study.yaml").write_text("\n".join(kept))
    assert read_spec(folder.path) == make_spec(home).model_copy(
        update={"created": spec.created, "uid": spec.uid}
    )


def test_mlflows_password_is_read_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    secret = tmp_path / "password"
    secret.write_text("word\n")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD_FILE"):
        take_login()
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD_FILE", str(secret))
    take_login()
    assert os.environ.pop("MLFLOW_TRACKING_PASSWORD") == "word"
