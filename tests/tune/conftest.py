"""What tests of the service share: a home folder, the command in this process, one local Ray, studies to look at.

Ray is started once for all tests that run a study in this process (`tune.engine.sitting` takes a Ray that is there),
and MLflow's database is migrated once and copied: both take seconds.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tune.at_once import started_at_once
from tests.tune.helpers import (
    Done,
    copy_home,
    made_once,
    make_home,
    make_pictures,
    rewrite_paths,
    shapes_options,
)
from tests.tune.servers import Gate, MlflowServer, ServerStore, needed, postgres
from tests.tune.tracked import Home as TrackedHome
from tests.tune.tracked import Store, tracked_home
from tune.definition.request import SearchRequest
from tune.delivery import drawing, sender
from tune.delivery.database import prepared_database
from tune.engine.progress import Progress
from tune.store.home import Home
from tune.tracking import sender_process

os.environ.setdefault("RAY_worker_niceness", "0")  # or they would wait for whatever test runs beside them


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of a test run (-n) have in common."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def migrated_store(shared_folder: Path) -> Path:
    """An MLflow database with its tables, made once; to be copied and left as it is."""
    folder = shared_folder / "migrated"
    with made_once(folder) as is_mine:
        if is_mine:
            database = folder / "mlflow.db"
            with prepared_database(f"sqlite:///{database}"):
                assert not database.with_name("mlflow.db.new").exists()
    return folder / "mlflow.db"


@pytest.fixture(autouse=True)
def _own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the home, the store or the data of the person who runs it."""
    names = ("URI", "USERNAME", "PASSWORD", "TOKEN")
    for name in (*(f"MLFLOW_TRACKING_{n}" for n in names), "SSL_TUNE_DATA", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_TUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(
        "tune.cli.show.MOMENT", 600.0
    )  # what is said does not depend on how busy the machine is
    monkeypatch.setenv("SSL_TUNE_FIGURES", "0")  # seconds a study; the study `finished` has them


@pytest.fixture(scope="session", autouse=True)
def _at_once() -> Iterator[None]:
    """Senders and figures do not wait for all tests that run beside them (tests.tune.at_once)."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (sender_process, drawing):
            patch.setattr(module, "Popen", started_at_once)
        yield


@pytest.fixture
def fresh_senders(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's senders are started as users' are: for a test that looks at the process."""
    monkeypatch.setattr(sender_process, "Popen", subprocess.Popen)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home folder that does not exist yet."""
    return Home(tmp_path / "home")


@pytest.fixture
def ready_home(home: Home, migrated_store: Path) -> Home:
    """A home folder with an MLflow database that needs no migration."""
    return make_home(home.path, migrated_store)


@pytest.fixture
def tracked(tmp_path: Path, migrated_store: Path) -> Iterator[TrackedHome]:
    """A home with one study that only reports, and a SQLite store of its own."""
    home = tracked_home(tmp_path / "tracked", migrated_store)
    yield home
    home.log.close()


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A real MLflow server on a real PostgreSQL, for all tests that want one."""
    needed("postgres", importlib.util.find_spec("psycopg"), "pip install 'psycopg[binary]'")
    with postgres() as database:
        server = MlflowServer(database, tmp_path_factory.mktemp("served") / "artifacts")
        try:
            with prepared_database(database):  # the tables, while the server is being loaded
                Store(Path("/nowhere"), database).client()
            server.start()
            yield server
        finally:
            server.close()


@pytest.fixture(scope="session")
def _s3_server() -> Iterator[str]:
    """A server on loopback that speaks S3; yields its address."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(_s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket; the environment has the login, as it has for any S3 client."""
    import boto3

    login = {"ACCESS_KEY_ID": "one", "SECRET_ACCESS_KEY": "two", "DEFAULT_REGION": "us-east-1"}
    for name, value in {**login, "ENDPOINT_URL": _s3_server}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    bucket = f"bucket-{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return f"s3://{bucket}"


@pytest.fixture
def short_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delivery tries again within tenths of a second, and gives a request up after one."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    for name, seconds in (("FIRST_PAUSE", 0.05), ("LONGEST_PAUSE", 0.5), ("LAST_PAUSE", 0.5)):
        monkeypatch.setattr(sender, name, seconds)
    monkeypatch.setattr(sender, "IDLE_SECONDS", 0.02)


@pytest.fixture
def gate(mlflow_server: MlflowServer) -> Iterator[Gate]:
    """The server's gate, open; the server itself is there before and after, whatever a test does to it."""
    mlflow_server.start()
    gate = Gate(mlflow_server.port)
    gate.open()
    yield gate
    gate.close()
    mlflow_server.start()


@pytest.fixture
def served(mlflow_server: MlflowServer, gate: Gate, tmp_path: Path) -> Iterator[TrackedHome]:
    """A home with one study that only reports, to the real server through its gate."""
    store = ServerStore(mlflow_server)
    store.ignore_what_is_there()
    home = TrackedHome(tmp_path / "served", store)
    home.tracking_uri = gate.uri
    yield home
    home.log.close()


@pytest.fixture
def ssl_tune(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command in this process: `ssl_tune("status", "a", "--json")`."""
    import tune.cli

    def run(*words: object) -> Done:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["ssl-tune", *map(str, words)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # the command sets its own
        with pytest.raises(SystemExit) as ended:
            tune.cli.main()
        out, err = capsys.readouterr()
        return Done(int(ended.value.code or 0), out, err)

    return run


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """Ray with two processors, for every study that runs in this process."""
    from tune.cluster import local_ray
    from tune.worker.task import PRELOAD

    with local_ray.running(2, PRELOAD):
        yield


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of three classes."""
    return make_pictures(tmp_path_factory.mktemp("pictures") / "shapes")


@pytest.fixture(scope="module")
def readable(pictures: Path) -> None:
    """No earlier test has left the test images unreadable."""
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (pictures / "test").glob("*/*.png"))


@contextmanager
def sealed(pictures: Path) -> Iterator[int]:
    """The test images are no images meanwhile: whoever opens one fails. Yields how many there are."""
    files = {path: path.read_bytes() for path in (pictures / "test").glob("*/*.png")}
    for path in files:
        path.write_bytes(b"sealed: not an image")
    try:
        yield len(files)
    finally:
        for path, content in files.items():
            path.write_bytes(content)


@pytest.fixture(scope="session")
def finished(
    local_ray: None,
    pictures: Path,
    migrated_store: Path,
    shared_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Home:
    """A home with one finished study, `shapes`, to be looked at and left as it is.

    No test image could be opened from the moment that the study was ready for its first trial.

    One process of a test run searches; the others copy what it found, and give it the paths of their own.
    """
    from tune.launch.start import new_sitting

    folder = shared_folder / "finished"
    with made_once(folder) as is_mine:
        if is_mine:
            home = make_home(folder / "home", migrated_store)
            request = SearchRequest(**shapes_options(home, pictures))
            with new_sitting(request, home, Progress()) as sitting, sealed(pictures) as images:
                sitting.search()
            (folder / "sealed").write_text(str(images))
            (folder / "pictures").write_text(str(pictures))
    home = copy_home(Home(folder / "home"), tmp_path_factory.mktemp("finished") / "home")
    rewrite_paths(home.path, {(folder / "pictures").read_text(): str(pictures)})
    return home


@pytest.fixture(scope="module")
def no_figures() -> Iterator[None]:
    """Fixtures of a module draw no figures for MLflow, no more than tests do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_TUNE_FIGURES", "0")
        yield


@pytest.fixture
def copied(finished: Home, home: Home) -> Home:
    """A copy of that home, to do anything with."""
    return copy_home(finished, home.path)
