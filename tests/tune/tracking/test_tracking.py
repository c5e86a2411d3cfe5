"""Tracking end to end: a real event log, a real sender process, a real MLflow store, real HTTP failures."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ssl_core.system.errors import ConfigError
from tests.tune.tracked import EXPERIMENT, LARGEST, ROOT, TAGS, Home, Store, metrics, start, tracked_home
from tune.delivery import sender
from tune.delivery.calls import chunks
from tune.delivery.deliverer import Deliverer
from tune.delivery.sender import deliver
from tune.tracking.text import MAX_PARAM_LENGTH, SHORTENED
from tune.tracking.uri import check_tracking_uri


@pytest.mark.long
def test_the_sender_leaves_the_processors_to_the_training_until_the_study_is_over(
    tracked: Home, fresh_senders: None
) -> None:
    tracker = tracked.tracker()
    tracker.sender.start()
    assert tracker.sender.pid is not None
    weight = Path(f"/proc/{tracker.sender.pid}/autogroup")
    if not weight.exists():
        pytest.skip("this kernel does not schedule by session")

    def becomes(nice: int) -> bool:
        deadline = time.monotonic() + 240
        while not (heavy := weight.read_text().split()[-1] == str(nice)) and time.monotonic() < deadline:
            time.sleep(0.02)
        return heavy

    assert becomes(sender.NICE)
    tracked.log.set_meta("complete", "1")
    with contextlib.suppress(OSError):  # gone, when all was delivered
        assert becomes(0)
        if os.geteuid() == 0:  # others may not take back what they gave
            assert os.getpriority(os.PRIO_PROCESS, tracker.sender.pid) == os.getpriority(os.PRIO_PROCESS, 0)
    assert tracker.sender.close(240) == 0


def test_a_study_lands_in_mlflow_exactly_as_it_happened(tracked: Home) -> None:
    tracker = tracked.tracker()
    tracker.sender.start()
    start(tracker, "0", "1", "2")
    for epoch in range(1, 6):
        for trial in ("0", "1", "2"):
            assert tracker.report(trial, epoch, metrics(epoch))
    assert not tracker.report("0", 5, {"val/error": 0.0})
    picture = tracked.study / "picture.png"
    picture.write_bytes(b"a picture")
    tracker.artifact("0", picture, "pictures")
    tracker.trial_ended("0", "completed", summary={"best/val_error": 10.0})
    tracker.trial_ended("1", "asha")
    tracker.trial_ended("2", "oom", error="Traceback ...\n  File ...\nOutOfMemoryError: 2 GiB\n")
    tracker.trial_started("0/confirm-7", {"vat.eps": 2.5}, {"seed": 7}, "seed: 7\n", parent="0")
    tracker.report("0/confirm-7", 1, {"val/error": math.nan, "val/loss": math.inf})
    tracker.trial_ended("0/confirm-7", "completed")
    tracker.study_ended("finished", {"best/val_error": 10.0}, {"ssl.best_trial": "0"})
    assert tracker.sender.close(240) == 0
    assert tracked.log.dead() == []

    runs = tracked.runs()
    assert set(runs) == {"s", "trial 0", "trial 1", "trial 2", "trial 0 confirm-7"}
    assert {name: run.info.status for name, run in runs.items()} == {
        "s": "FINISHED",
        "trial 0": "FINISHED",
        "trial 1": "KILLED",
        "trial 2": "FAILED",
        "trial 0 confirm-7": "FINISHED",
    }
    for name, run in runs.items():
        tags = run.data.tags
        assert TAGS.items() <= tags.items() and tags["ssl.study"] == "s" and tags["ssl.run_key"]
        parent = {"s": None, "trial 0 confirm-7": "trial 0"}.get(name, "s")
        assert tags.get("mlflow.parentRunId") == (runs[parent].info.run_id if parent else None)
        assert tags.get("ssl.trial") == (None if name == "s" else name.split()[1])
    reasons = [runs[f"trial {i}"].data.tags["ssl.stop_reason"] for i in range(3)]
    assert reasons == ["completed", "asha", "oom"]
    assert runs["trial 2"].data.tags["ssl.error"] == "OutOfMemoryError: 2 GiB"
    assert runs["s"].data.tags["ssl.best_trial"] == "0"
    assert runs["s"].data.metrics == {"best/val_error": 10.0}
    params = {"vat.eps": "3.5", "warmup_epochs": "10", "lr": "0.03", "nesterov": "True"}
    assert runs["trial 1"].data.params == params
    for trial in ("1", "2"):
        assert tracked.points(runs[f"trial {trial}"]) == tracked.expected(f"s/{trial}")
    summary = tracked.points(runs["trial 0"]) - tracked.expected("s/0")
    assert [(name, step) for name, step, *_ in summary] == [("best/val_error", 5)]
    check_artifacts_and_oddities(tracked, runs)


def check_artifacts_and_oddities(tracked: Home, runs: dict[str, Any]) -> None:
    folder = tracked.path / "mlartifacts" / runs["trial 0"].info.run_id / "artifacts"
    assert (folder / "pictures" / "picture.png").read_bytes() == b"a picture"
    assert (folder / "config.yaml").read_text() == "trial: 0\n"
    error = tracked.path / "mlartifacts" / runs["trial 2"].info.run_id / "artifacts" / "error.txt"
    assert error.read_text().startswith("Traceback")
    odd = {name: value for name, _, _, value in tracked.points(runs["trial 0 confirm-7"])}
    assert odd == {"val/error": "nan", "val/loss": LARGEST.hex()}


def test_searched_parameters_go_first_and_long_ones_are_shortened_visibly(tracked: Home) -> None:
    tracker = tracked.tracker()
    fixed = {"note": "x" * 7000, "vat": {"eps": 9, "xi": 1e-6}, "widths": [1, 2], "none": None}
    tracker.trial_started("0", {"vat.eps": 2.5, "warmup_epochs": 10}, fixed, "config\n")
    event = tracked.log.find("s/0:params")
    assert event is not None
    pairs: Any = event.payload["params"]
    assert [name for name, _ in pairs] == ["vat.eps", "warmup_epochs", "note", "vat.xi", "widths", "none"]
    values = dict(pairs)
    assert values["vat.eps"] == "2.5"
    assert len(values["note"]) == MAX_PARAM_LENGTH and values["note"].endswith(SHORTENED)
    tracker.study_started({}, "study\n")
    assert deliver(tracked.study, 30) == 0
    assert tracked.runs()["trial 0"].data.params == values


def test_interrupted_and_resumed_is_one_run(tracked: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_TUNE_FIGURES", "1")
    tracker = tracked.tracker()
    start(tracker, "0", "1")
    tracker.report("0", 1, metrics(1))
    tracker.trial_ended("1", "nan", error="NonFiniteError: loss is nan")
    tracker.study_ended("interrupted", {})
    assert deliver(tracked.study, 30) == 0
    first = tracked.runs()
    assert {name: run.info.status for name, run in first.items()} == {
        "s": "KILLED",
        "trial 0": "KILLED",
        "trial 1": "FAILED",
    }
    assert "ssl.stop_reason" not in first["trial 0"].data.tags
    assert first["s"].data.tags["ssl.stop_reason"] == "user"

    tracker = tracked.tracker()  # a new driver
    for _ in range(2):  # telling it twice changes nothing
        start(tracker, "0")
    assert not tracker.report("0", 1, metrics(1))
    tracker.report("0", 2, metrics(2))
    owed = tracked.log.pending()
    assert deliver(tracked.study, 30) == 0
    resumed = tracked.runs()
    assert owed == 3  # two runs RUNNING again, one epoch
    assert resumed["trial 0"].info.status == "RUNNING" and resumed["s"].info.status == "RUNNING"
    assert "ssl.stop_reason" not in resumed["s"].data.tags

    for _ in range(2):
        tracker.trial_ended("0", "completed")
        tracker.study_ended("finished", {"best/val_error": 25.0})
    assert tracked.log.pending() == 4  # two ends, a summary and a figure
    assert deliver(tracked.study, 30) == 0
    final = tracked.runs()
    assert {name: run.info.run_id for name, run in final.items()} == {
        name: run.info.run_id for name, run in first.items()
    }
    assert final["trial 0"].info.status == "FINISHED" and final["s"].info.status == "FINISHED"
    assert final["trial 1"].info.status == "FAILED"
    assert tracked.points(final["trial 0"]) == tracked.expected("s/0")


def test_a_sender_killed_between_sending_and_noting_doubles_nothing(
    tracked: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_TUNE_FIGURES", "1")
    tracker = tracked.tracker()
    start(tracker, "0")
    for epoch in range(1, 5):
        tracker.report("0", epoch, metrics(epoch) | {"odd": math.nan})
    tracker.trial_ended("0", "completed")
    tracker.study_ended("finished", {"best/val_error": 12.5})
    tracked.log.set_meta("complete", "1")
    owed = []
    # Killed after making a run, killed after sending the points, then left alone.
    for fault in ("sender:after-send", "sender:after-send:7", ""):
        assert tracked.sender(fault) == (-9 if fault else 0)
        owed.append(tracked.log.pending())
        if fault == "sender:after-send":
            tracked.log.drop_meta("run_id:")  # as if killed before the run's id was noted, too
    assert owed == [14, 8, 0]
    runs = tracked.runs()
    assert set(runs) == {"s", "trial 0"}
    assert tracked.points(runs["trial 0"]) == tracked.expected("s/0")
    assert sum(tracked.points(runs["s"]).values()) == 1
    assert runs["trial 0"].info.status == "FINISHED"


def test_a_rejected_event_becomes_a_dead_letter_and_the_rest_goes_on(tracked: Home) -> None:
    tracker = tracked.tracker()
    start(tracker, "0")
    tracker.report("0", 1, metrics(1))
    tracker.report("0", 2, {"val/error": 1.0, "no such name: *?": 2.0})
    tracker.report("0", 3, metrics(3))
    tracker.artifact("0", tracked.study / "events.db")
    tracked.log.append("artifact", "s/0", {"path": "gone.png", "artifact_path": None})
    tracked.log.append("carrier pigeon", "s/0", {})
    tracked.log.append("text", "s/9", {"file": "a", "text": "a run that never started"})
    tracker.trial_ended("0", "completed")
    assert deliver(tracked.study, 30) == 0
    dead = tracked.log.dead()
    assert [letter.event.kind for letter in dead] == ["metrics", "artifact", "carrier pigeon", "text"]
    assert "no such name" in dead[0].reason and "gone.png" in dead[1].reason
    run = tracked.runs()["trial 0"]
    assert run.info.status == "FINISHED"
    assert {step for _, step, *_ in tracked.points(run)} == {1, 3}


def test_a_data_set_that_another_study_makes_at_the_same_moment_is_sent_again(
    tracked: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow looks whether an experiment has the data set, and makes it: of two senders one may be refused."""
    from mlflow.exceptions import BAD_REQUEST, MlflowException
    from mlflow.tracking import MlflowClient

    send, refused = MlflowClient.log_inputs, []

    def second_of_two(self: Any, *words: Any, **options: Any) -> Any:
        if not refused:
            refused.append(words)
            raise MlflowException(
                "(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.experiment_id, datasets.name, "
                "datasets.digest\n[SQL: INSERT INTO datasets (dataset_uuid) VALUES (?)]",
                error_code=BAD_REQUEST,
            )
        return send(self, *words, **options)

    monkeypatch.setattr(MlflowClient, "log_inputs", second_of_two)
    start(tracked.tracker(), "0")
    fields = {"name": "shapes", "digest": "abc", "source_type": "local", "source": "{}"}
    tracked.log.append("dataset", "s/0", fields)
    assert deliver(tracked.study, 60) == 0 and refused and tracked.log.dead() == []
    (made,) = tracked.runs()["trial 0"].inputs.dataset_inputs
    assert (made.dataset.name, made.dataset.digest) == ("shapes", "abc")


def test_one_bad_parameter_spares_the_others(tracked: Home) -> None:
    tracker = tracked.tracker()
    tracker.study_started({"good": 1, "bad *": 2, "better": 3}, "study\n")
    assert deliver(tracked.study, 30) == 0
    assert [letter.event.kind for letter in tracked.log.dead()] == ["params"]
    assert tracked.runs()["s"].data.params == {"good": "1", "better": "3"}


@pytest.mark.parametrize("same_sender", [True, False])
def test_a_deleted_experiment_is_restored(tracked: Home, same_sender: bool) -> None:
    tracker = tracked.tracker()
    start(tracker, "0")
    tracker.report("0", 1, metrics(1))
    sender = Deliverer(tracked.log)
    sender.deliver_pending()
    client = tracked.store.client()
    client.delete_experiment(client.get_experiment_by_name(EXPERIMENT).experiment_id)
    tracker.report("0", 2, metrics(2))
    (sender if same_sender else Deliverer(tracked.log)).deliver_pending()
    assert tracked.log.pending() == 0 and tracked.log.dead() == []
    assert tracked.points(tracked.runs()["trial 0"]) == tracked.expected("s/0")


def test_a_study_may_begin_in_an_experiment_that_was_deleted(tracked: Home) -> None:
    client = tracked.store.client()
    place = str(tracked.path / "artifacts")  # MLflow's own default is the working folder
    client.delete_experiment(client.create_experiment(EXPERIMENT, artifact_location=place))
    start(tracked.tracker(), "0")
    assert deliver(tracked.study, 30) == 0
    assert client.get_experiment_by_name(EXPERIMENT).lifecycle_stage == "active"
    assert set(tracked.runs()) == {"s", "trial 0"}


def test_a_store_that_was_thrown_away_gets_everything_again(tracked: Home, migrated_store: Path) -> None:
    tracker = tracked.tracker()
    start(tracker, "0")
    tracker.report("0", 1, metrics(1))
    tracker.trial_ended("0", "completed")
    owed = tracked.log.pending()
    assert deliver(tracked.study, 30) == 0
    tracked.store = Store(tracked.path / "other.db")
    tracked.tracking_uri = tracked.store.uri
    shutil.copy(migrated_store, tracked.store.database)
    tracker = tracked.tracker()
    assert tracker.pending() == owed
    assert deliver(tracked.study, 30) == 0
    run = tracked.runs()["trial 0"]
    assert run.info.status == "FINISHED" and tracked.points(run) == tracked.expected("s/0")


def test_two_studies_of_one_name_do_not_share_runs(tmp_path: Path, migrated_store: Path) -> None:
    first, second = tracked_home(tmp_path / "a", migrated_store), tracked_home(tmp_path / "b", migrated_store)
    for tracked in (first, second):
        start(tracked.tracker(first.store.uri))
        assert deliver(tracked.study, 30) == 0
    client = first.store.client()
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert len({run.data.tags["ssl.run_key"] for run in runs}) == 2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_an_unreachable_server_costs_nothing_and_is_delivered_to_later(tracked: Home) -> None:
    tracker = tracked.tracker(f"http://127.0.0.1:{free_port()}")
    tracker.sender.start()
    start(tracker, "0")
    tracker.report("0", 1, metrics(1))
    owed = tracker.pending()
    began = time.monotonic()
    assert tracker.sender.close(0.5) == owed == 7
    assert time.monotonic() - began < 9  # a busy machine adds seconds; a wait for the server would be longer
    assert deliver(tracked.study, 0) == owed
    assert "127.0.0.1" in (tracked.log.get_meta("problem") or "")

    tracker = tracked.tracker()
    assert deliver(tracked.study, 30) == 0
    assert tracked.log.get_meta("problem") is None
    assert tracked.points(tracked.runs()["trial 0"]) == tracked.expected("s/0")


class Broken(BaseHTTPRequestHandler):
    """A tracking server that answers every request with one status."""

    status = 500
    seen = 0

    def do_GET(self) -> None:
        type(self).seen += 1
        self.send_response(self.status)
        self.end_headers()

    do_POST = do_GET  # noqa: N815 - named by the base class

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize("status", [500, 503, 401, 404])
def test_a_broken_server_makes_no_dead_letters(tracked: Home, status: int) -> None:
    handler = type("Handler", (Broken,), {"status": status})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        tracker = tracked.tracker(f"http://127.0.0.1:{server.server_port}")
        tracker.study_started({}, "study\n")
        assert deliver(tracked.study, 1.5 if status == 500 else 0) == 3
    finally:
        server.shutdown()
        server.server_close()
    problem = tracked.log.get_meta("problem") or ""
    assert tracked.log.dead() == []
    assert ("login" in problem) == (status == 401)
    assert ("no MLflow server" in problem) == (status == 404)
    # Something that is no MLflow is also asked for its version.
    assert 2 <= handler.seen <= 4 if status == 500 else handler.seen == (2 if status == 404 else 1)


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("1.30.0", "it says that it is MLflow 1.30.0"),
        ("<html>a proxy</html>", "it does not say which version of MLflow it is"),
    ],
)
def test_a_server_of_an_incompatible_version_is_told_with_both_versions(
    tracked: Home, version: str, says: str
) -> None:
    import mlflow

    class Old(Broken):
        status = 404

        def do_GET(self) -> None:
            if self.path != "/version":
                return super().do_GET()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(version.encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Old)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        tracked.tracker(f"http://127.0.0.1:{server.server_port}").study_started({}, "study\n")
        assert deliver(tracked.study, 0) == 3
    finally:
        server.shutdown()
        server.server_close()
    problem = tracked.log.get_meta("problem") or ""
    assert "no MLflow server of a matching version answers there" in problem
    assert problem.endswith(f"{says}, here MLflow {mlflow.__version__} is installed")
    assert tracked.log.dead() == []


def test_a_hanging_server_does_not_hold_up_the_end(tracked: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        tracker = tracked.tracker(f"http://127.0.0.1:{silent.getsockname()[1]}")
        tracker.sender.start()
        tracker.study_started({}, "study\n")
        began = time.monotonic()
        assert tracker.sender.close(4) == 3
        assert time.monotonic() - began < 9  # one request alone may take ten
    tracked.tracker()
    assert deliver(tracked.study, 30) == 0


def test_the_sender_delivers_and_ends_when_its_driver_is_killed(tracked: Home) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from tune.store.event_log import EventLog; from tune.tracking.tracker import Tracker\n"
        "log = EventLog(Path(sys.argv[1]))\n"
        "tracker = Tracker(log, study='s', tracking_uri=sys.argv[2], experiment='e', common_tags={})\n"
        "tracker.sender.start(); tracker.study_started({}, 'study')\n"
        "print(tracker.sender.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", script, str(tracked.log.path), tracked.store.uri]
    driver = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert driver.returncode == -9
    sender = int(driver.stdout)
    deadline = time.monotonic() + 240  # it imports MLflow at the lowest priority, beside other tests
    while time.monotonic() < deadline and Path(f"/proc/{sender}").exists():
        time.sleep(0.1)
    assert not Path(f"/proc/{sender}").exists()
    assert tracked.log.pending() == 0
    assert tracked.runs()["s"].info.status == "RUNNING"  # nobody said that it ended: `resume` goes on


def test_a_second_sender_ends_quietly(tracked: Home) -> None:
    import fcntl

    tracked.tracker().study_started({}, "study\n")
    with (tracked.study / "sender.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert tracked.sender() == 0
        assert deliver(tracked.study, 0) == 3
    assert deliver(tracked.study, 30) == 0


def test_the_driver_side_loads_no_mlflow() -> None:
    script = (
        "import sys, tune.tracking.tracker, tune.delivery.sender, tune.store.event_log\n"
        "print([m for m in ('mlflow', 'torch', 'ray', 'optuna', 'pandas') if m in sys.modules])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"


def test_parameters_go_in_calls_that_mlflow_takes() -> None:
    pairs = [[f"p{i}", "x" * 6000] for i in range(150)] + [[f"q{i}", "1"] for i in range(150)]
    calls = list(chunks(pairs))
    assert [pair for call in calls for pair in call] == pairs
    assert all(len(call) <= 100 and sum(len(value) for _, value in call) <= 400_000 for call in calls)


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:///mlflow.db",
        "sqlite:////absolute/mlflow.db",
        "postgresql://user@host/db",
        "postgresql+psycopg2://user@host/db",
        "mysql+pymysql://host/db",
        "http://127.0.0.1:5000",
        "https://mlflow.example.org/path",
        "databricks",
        "databricks://profile",
    ],
)
def test_tracking_uris_that_can_be_one(uri: str) -> None:
    check_tracking_uri(uri)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("", "sqlite:///mlflow.db"),
        ("mlruns", "sqlite:///mlflow.db"),
        ("/var/mlruns", "sqlite:///mlflow.db"),
        ("file:///var/mlruns", "sqlite:///mlflow.db"),
        ("file:mlruns", "sqlite:///mlflow.db"),
        ("sqlite://", "sqlite:////absolute"),
        ("sqlite:///:memory:", "only in memory"),
        ("http://", "no host"),
        ("http://host:123456", "no port|or no port"),
        ("postgresql://", "names no database"),
        ("ftp://host", "does not know"),
    ],
)
def test_tracking_uris_that_cannot_be_one(uri: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_tracking_uri(uri)


def test_wrong_use_is_refused(tracked: Home, tmp_path: Path) -> None:
    tracker = tracked.tracker()
    with pytest.raises(ValueError, match="completed, asha"):
        tracker.trial_ended("0", "boredom")
    with pytest.raises(ValueError, match="finished, interrupted, failed"):
        tracker.study_ended("done", {})
    with pytest.raises(ConfigError, match=r"no events\.db"):
        deliver(tmp_path, 0)
