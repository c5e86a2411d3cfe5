"""Logins of the trials' database: where they come from; none is written, printed, logged or shown by ps."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tune.helpers import SMALL, SSL_TUNE, Done, make_study
from tests.tune.servers import needed, postgres
from tune.errors import has_password, without_passwords
from tune.store.home import Home
from tune.trials.optuna_storage import _engine_options

Command = Callable[..., Done]
WORD = "canary-of-the-database"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{WORD}@host/db",
        f"mysql+pymysql://me:{WORD}@host/db",
        f"postgresql://host/db?user=me&password={WORD}",
    ],
)
def test_19_a_password_in_the_storage_is_refused_and_not_shown(
    ssl_tune: Command, home: Home, url: str, tmp_path: Path
) -> None:
    (tmp_path / "study.yaml").write_text(f"storage: {url}\n")
    for words in (("search", "--storage", url), ("search", "--study", tmp_path / "study.yaml")):
        done = ssl_tune(*words)
        assert done.code == 2 and "SSL_TUNE_STORAGE_PASSWORD" in done.err and "~/.pgpass" in done.err, done
        assert WORD not in done.out + done.err and not home.path.exists()
    assert has_password(url) and WORD not in without_passwords(f"asked {url}, in vain")


def test_19_a_job_server_s_address_holds_no_login(ssl_tune: Command) -> None:
    done = ssl_tune("logs", "s", "--address", f"http://me:{WORD}@host:8265")
    assert done.code == 2 and WORD not in done.err, done


def test_19_a_study_of_before_that_keeps_a_password_shows_it_nowhere(ssl_tune: Command, home: Home) -> None:
    folder, spec = make_study(home)
    url = f"postgresql+psycopg://me:{WORD}@127.0.0.1:1/db"
    folder.write_spec(spec.model_copy(update={"storage": url}))
    for verb in ("status", "trials", "resume", "studies"):
        done = ssl_tune(verb) if verb == "studies" else ssl_tune(verb, "s")
        assert WORD not in done.out + done.err and "Traceback" not in done.err, done


def test_19_a_password_comes_from_the_environment_or_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = "postgresql+psycopg://me@host/db"
    assert "password" not in _engine_options(url, None)["connect_args"]
    (tmp_path / "word").write_text(f"{WORD}\n")
    monkeypatch.setenv("SSL_TUNE_STORAGE_PASSWORD_FILE", str(tmp_path / "word"))
    assert _engine_options(url, None)["connect_args"]["password"] == WORD
    monkeypatch.setenv("SSL_TUNE_STORAGE_PASSWORD", "other")
    assert _engine_options(url, None)["connect_args"]["password"] == "other"
    assert "password" not in _engine_options("sqlite:////a.db", None)["connect_args"]


def command_lines() -> list[bytes]:
    """What `ps` shows of every process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:  # it has ended
            continue
    return found


@pytest.mark.long
@pytest.mark.parametrize("how", ["variable", "file", "pgpass"])
def test_19_a_study_on_a_database_with_a_login_leaves_it_nowhere(
    ready_home: Home, tmp_path: Path, how: str
) -> None:
    pytest.importorskip("psycopg")
    needed("postgres", True, "")
    import psycopg

    with postgres() as server:
        with psycopg.connect(server, autocommit=True) as admin:
            admin.execute(f"CREATE ROLE tuner LOGIN PASSWORD '{WORD}'")
            admin.execute("CREATE DATABASE trials OWNER tuner")
            (hba,) = admin.execute("SHOW hba_file").fetchone() or ("",)
            text = Path(hba).read_text()
            Path(hba).write_text("host trials tuner 127.0.0.1/32 scram-sha-256\n" + text)
            admin.execute("SELECT pg_reload_conf()")
        port = server.rpartition(":")[2].partition("/")[0]
        login = {}
        secret = tmp_path / "secret"
        if how == "variable":
            login = {"SSL_TUNE_STORAGE_PASSWORD": WORD}
        elif how == "file":
            secret.write_text(f"{WORD}\n")
            login = {"SSL_TUNE_STORAGE_PASSWORD_FILE": str(secret)}
        else:
            secret.write_text(f"127.0.0.1:{port}:trials:tuner:{WORD}\n")
            secret.chmod(0o600)
            login = {"PGPASSFILE": str(secret)}
        words = ["search", "--name", "s", "--trials", "1", "--epochs", "2", "--concurrent", "1"]
        words += ["--storage", f"postgresql+psycopg://tuner@127.0.0.1:{port}/trials"]
        for name, value in (SMALL | {"warmup_epochs": 1}).items():
            words += ["--set", f"{name}={value}"]
        seen: list[bytes] = []
        over = threading.Event()

        def watch() -> None:
            while not over.is_set():
                seen.extend(line for line in command_lines() if WORD.encode() in line)
                time.sleep(0.05)

        thread = threading.Thread(target=watch)
        thread.start()
        environment = os.environ | {"SSL_TUNE_HOME": str(ready_home.path)}
        try:
            without = subprocess.run(
                [SSL_TUNE, *words], env=environment, capture_output=True, text=True, check=False
            )
            assert without.returncode == 6 and "Traceback" not in without.stderr, without
            done = subprocess.run(
                [SSL_TUNE, *words], env=environment | login, capture_output=True, text=True, check=False
            )
        finally:
            over.set()
            thread.join()
        assert done.returncode == 0, done.stderr
        assert WORD not in done.stdout + done.stderr and seen == []
    kept = [path for path in ready_home.path.rglob("*") if path.is_file()]
    assert any(path.name == "study.yaml" for path in kept) and any(path.name == "mlflow.db" for path in kept)
    assert [str(path) for path in kept if WORD.encode() in path.read_bytes()] == []
