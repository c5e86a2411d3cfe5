"""Logins: what MLflow's own environment variables and a URI's password do, and that none is ever written down."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from ssl_core.system.errors import ConfigError
from tests.tune.helpers import Done
from tests.tune.servers import PASSWORD, Gate, MlflowServer
from tests.tune.tracked import Home, check_exact, metrics, start
from tune.delivery.sender import deliver
from tune.findings.study import load_study
from tune.store.event_log import EventLog
from tune.store.home import Home as StudyHome
from tune.tracking.uri import check_tracking_uri, shown

Command = Callable[..., Done]


WITH_PASSWORD = [
    "http://u:secret@h:1/x",
    "https://u:se%2Fc@ret@h/a@b",
    "https://:secret@h",
    "postgresql://u:se/cret@h/db",
    "mysql+pymysql://h/db?user=u&password=secret&a=1",
    "postgresql://h/db?Password=secret",
]


@pytest.mark.parametrize("uri", WITH_PASSWORD)
def test_a_uri_with_a_password_is_refused_and_hidden(uri: str) -> None:
    with pytest.raises(ConfigError, match="holds a password") as refusal:
        check_tracking_uri(uri)
    for text in (shown(f"asked {uri}, in vain"), str(refusal.value)):
        assert not [part for part in ("secret", "se/c", "se%2F", "ret@") if part in text]


@pytest.mark.parametrize(
    "uri", ["http://u@h", "http://h/a@b:c", "postgresql://u@h/db", "sqlite:////a/b@c:d.db"]
)
def test_a_uri_without_a_password_is_shown_as_it_is(uri: str) -> None:
    check_tracking_uri(uri)
    assert shown(uri) == uri


def test_passwords_and_tokens_of_the_environment_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abcdefgh")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "us")
    assert shown("Bearer abcdefgh is used") == "Bearer *** is used"


def files_with(word: str, *folders: Path) -> list[Path]:
    """Files in which a word stands, whatever they are."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if word.encode() in path.read_bytes()]


def test_a_login_serves_and_is_written_nowhere(
    served: Home,
    gate: Gate,
    mlflow_server: MlflowServer,
    monkeypatch: pytest.MonkeyPatch,
    fresh_senders: None,
) -> None:
    """The sender, a process of its own, has it; files, logs, arguments and MLflow have not."""
    gate.credentials = "Basic " + base64.b64encode(b"alice:open sesame").decode()
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "alice")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "open sesame")
    tracker = served.tracker()
    tracker.sender.start()
    assert tracker.sender.pid is not None
    arguments = Path(f"/proc/{tracker.sender.pid}/cmdline").read_bytes()
    start(tracker, "0")
    gate.answer = lambda number: "500" if number == 3 else "pass"  # a failure is logged
    assert tracker.sender.close(240) == 0
    assert gate.refused == 0
    check_exact(served)
    log = (served.study / "sender.log").read_text()
    assert "500 error" in log
    for word in ("sesame", gate.credentials.split()[1]):
        assert word.encode() not in arguments
        assert files_with(word, served.path, mlflow_server.words.parent) == []


@pytest.mark.parametrize("kind", ["password", "token"])
def test_a_wrong_login_is_told_once_and_costs_nothing(
    served: Home, gate: Gate, monkeypatch: pytest.MonkeyPatch, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "alice")
    monkeypatch.setenv(f"MLFLOW_TRACKING_{kind.upper()}", "wrong-word")
    basic = base64.b64encode(b"alice:right-word").decode()
    gate.credentials = f"Basic {basic}" if kind == "password" else "Bearer right-word"
    tracker = served.tracker()
    start(tracker, "0")
    tracker.report("0", 1, metrics(1))
    tracker.trial_ended("0", "completed")
    owed = served.log.pending()
    for _ in range(2):
        assert deliver(served.study, 0) == owed
    assert gate.refused == 2 and served.log.dead() == []
    problem = served.log.get_meta("problem") or ""
    assert "refuses the login" in problem and "MLFLOW_TRACKING_PASSWORD" in problem
    assert "wrong-word" not in problem
    assert len([r for r in caplog.records if "refuses the login" in r.getMessage()]) == 1

    monkeypatch.setenv(f"MLFLOW_TRACKING_{kind.upper()}", "right-word")
    assert deliver(served.study, 30) == 0
    check_exact(served)


def test_mlflows_own_basic_authentication(
    served: Home, mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = mlflow_server.start_with_login(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong-word")
    tracker = served.tracker(uri)
    start(tracker, "0")
    assert deliver(served.study, 0) == served.log.pending() > 0
    assert "refuses the login" in (served.log.get_meta("problem") or "")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    assert deliver(served.study, 30) == 0
    check_exact(served)


def test_tracking_that_is_required_and_not_there_exits_7_and_leaves_nothing(
    ssl_tune: Command, home: StudyHome, gate: Gate
) -> None:
    gate.credentials = "Bearer right-word"
    done = ssl_tune("search", "--name", "s", "--require-tracking", "--tracking-uri", gate.uri)
    assert done.code == 7 and not home.path.exists()
    for words in ("refuses the login", gate.uri, "--require-tracking", "Nothing was started"):
        assert words in done.err


def test_what_is_owed_at_the_end_exits_5_and_sync_delivers_it(
    served: Home,
    gate: Gate,
    home: StudyHome,
    ssl_tune: Command,
    short_clocks: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tests.tune.helpers import make_study, note_trials, rewrite_payloads
    from tune.trials.study_trials import StudyTrials

    gate.shut()
    options = {"tracking_uri": served.tracking_uri, "tracking_timeout": "1s", "trials": 1, "epochs": 6}
    folder, spec = make_study(home, **options)
    records = StudyTrials(folder, spec)
    number = records.ask().number
    note_trials(folder, spec, home, [number])
    last = {
        "epoch": 6,
        "ssl_epoch": 4,
        "val_error": 9.0,
        "val_loss": 0.3,
        "seconds": 1.0,
        "stop_reason": None,
    }
    records.report(number, last)
    records.end(number, "completed")
    done = ssl_tune("resume", "s", "--home", home.path)
    assert done.code == 5, done
    # `ssl-tune ui` would show another store.
    assert f"compare the trials in MLflow:   {served.tracking_uri}" in done.out
    command = next(line for line in done.out.splitlines() if "deliver them with" in line)
    words = shlex.split(command.partition("with: ")[2])
    assert ssl_tune(*words[1:], "--timeout", "0").code == 5
    status = ssl_tune("status", "s").out
    assert "events to deliver" in status and "Connection refused" in status
    assert ssl_tune("resume", "s").code == 5  # it is finished, and its tracking is not

    gate.open()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")  # it answers now, on a busy machine after seconds
    with EventLog(folder.events_db) as log:
        log.append("metrics", "s", {"step": 0, "metrics": {"no such name: *?": 1.0}})
    done = ssl_tune(*words[1:])
    assert done.code == 5 and "refused for good: metrics of s: " in done.out, done
    assert "--retry-refused" in done.out and load_study("s").status()["tracking"]["pending"] == 0
    assert "MLflow refused 1 event for good" in ssl_tune("status", "s").out
    with EventLog(folder.events_db) as log:
        rewrite_payloads(log._db, {"no such name: *?": "a name"})
    done = ssl_tune(*words[1:], "--retry-refused")
    assert done.code == 0 and "everything of s is delivered" in done.out, done
    with EventLog(folder.events_db) as log:
        served.log.close()
        served.log = log
        assert served.runs()["s"].data.metrics.keys() == {"a name", "best/val_error"}
