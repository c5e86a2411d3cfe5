"""What strangers and accidents may not do: run code through a study's files, or find a secret in what is kept."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import tune
from ssl_core.training import checkpoint
from tests.tune.helpers import SMALL, SSL_TUNE, Done, make_study
from tune.errors import Exit
from tune.findings.study import load_study
from tune.store.home import Home
from tune.tracking.uri import check_tracking_uri

Command = Callable[..., Done]


class Malicious:
    """Makes a file where it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.canary}",)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that must not come to be; it does where the pickle is loaded."""
    proof = tmp_path / "proof"
    pickle.loads(pickle.dumps(Malicious(proof)))
    assert proof.exists()
    return tmp_path / "canary"


def yaml_with_code(canary: Path) -> str:
    return f"method: !!python/object/apply:os.system ['touch {canary}']\n"


def test_no_yaml_file_runs_code(ssl_tune: Command, home: Home, tmp_path: Path, canary: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(yaml_with_code(canary))
    folder, _ = make_study(home)
    (folder.path / "study.yaml").write_text(yaml_with_code(canary))
    for words in (
        ("search", "--study", bad, "--name", "x"),
        ("search", "--space", bad, "--name", "x"),
        ("train", "--config", bad),
        ("status", "s"),
        ("resume", "s"),
        ("search", "--name", "x", "--set", f"lr={yaml_with_code(canary).removeprefix('method: ').strip()}"),
    ):
        done = ssl_tune(*words)
        damaged = words[0] in ("status", "resume")  # the study's own file is damaged then
        assert done.code == (Exit.STORAGE if damaged else Exit.USAGE), (words, done)
    assert not canary.exists()


def test_pickles_in_a_study_are_never_loaded(local_ray: None, ready_home: Home, canary: Path) -> None:
    folder, spec = make_study(ready_home, trials=1, epochs=3, settings=SMALL | {"warmup_epochs": 1})
    evil = pickle.dumps(Malicious(canary))
    ray = folder.path / "ray"
    ray.mkdir()
    names = ("tuner.pkl", "trainable.pkl", "error.pkl", "searcher-state.pkl", "experiment_state-x.json")
    for name in (*names, "search_gen_state-x.json", ".validate_storage_marker"):
        (ray / name).write_bytes(evil)
    trial = folder.trials / "0"
    trial.mkdir(parents=True)
    # A stranger who can write here can compute a checksum, too.
    torch.save(Malicious(canary), trial / "raw")
    payload = (trial / "raw").read_bytes()
    (trial / "raw").unlink()
    checkpoint.path_of(trial, 2).write_bytes(checkpoint.MAGIC + hashlib.sha256(payload).digest() + payload)
    tune.resume(spec.name, home=ready_home.path, quiet=True)
    [record] = load_study(spec.name, home=ready_home.path).records()
    assert record.state in ("completed", "failed")
    assert not canary.exists()


def test_a_cache_of_images_holds_no_pickles(
    ssl_tune: Command, home: Home, canary: Path, tmp_path: Path
) -> None:
    from ssl_core.data.datasets import load_train

    load_train("digits", cache=home.cache)
    entries = list(home.cache.glob("*/*.npy"))
    assert entries
    for path in entries:
        array = np.empty(1, dtype=object)
        array[0] = Malicious(canary)
        path.chmod(0o644)
        np.save(path, array, allow_pickle=True)
    load_train("digits", cache=home.cache)  # decoded again, or refused; never unpickled
    assert not canary.exists()


@pytest.mark.parametrize(
    "uri",
    [
        "http://me:word@mlflow:5000",
        "https://me:word@mlflow/path",
        "postgresql://me:word@host/db",
        "postgresql://host/db?user=me&password=word",
    ],
)
def test_a_password_in_a_tracking_uri_is_refused(ssl_tune: Command, home: Home, uri: str) -> None:
    done = ssl_tune("search", "--tracking-uri", uri)
    assert done.code == Exit.USAGE and "MLFLOW_TRACKING_PASSWORD_FILE" in done.err
    assert "word@" not in done.err and "=word" not in done.err
    assert not home.path.exists()
    check_tracking_uri(uri.replace("me:word@", "me@").replace("&password=word", ""))


@pytest.mark.long
def test_no_secret_of_the_environment_is_kept_anywhere(ready_home: Home, tmp_path: Path) -> None:
    """A whole study with secrets in the environment; every file it leaves is searched for them, Ray's logs too."""
    secrets = {
        "MLFLOW_TRACKING_PASSWORD": "canary-word-of-mlflow",
        "RAY_AUTH_TOKEN": "canary-token-of-ray-0123456789abcdef",
        "RAY_AUTH_MODE": "token",
        "AWS_SECRET_ACCESS_KEY": "canary-key-of-aws",
    }
    words = ["search", "--name", "s", "--trials", "1", "--epochs", "2", "--concurrent", "1"]
    for name, value in (SMALL | {"warmup_epochs": 1}).items():
        words += ["--set", f"{name}={value}"]
    ray = Path("/tmp") / f"r{os.getpid()}"
    done = subprocess.run(
        [SSL_TUNE, *words, "--tracking-timeout", "400s"],
        env=os.environ | secrets | {"SSL_TUNE_HOME": str(ready_home.path), "RAY_TMPDIR": str(ray)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "canary-" not in done.stdout + done.stderr
    kept = [p for folder in (ready_home.path, ray) for p in folder.rglob("*") if p.is_file()]
    assert any(p.name == "mlflow.db" for p in kept) and any(p.suffix == ".log" for p in kept)
    assert any("session_" in str(p) for p in kept)
    with_secret = [str(p) for p in kept if b"canary-" in p.read_bytes()]
    shutil.rmtree(ray)
    assert not with_secret
