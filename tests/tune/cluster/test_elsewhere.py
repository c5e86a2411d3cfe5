"""Trainings on a cluster whose machines come when they are wanted: search, confirm, reproduce and train with --address.

Ray's own autoscaler starts the machines, which are processes here. What it runs computes with AVX2 alone, so a result
says whether it was made on the cluster (its processor's name) or by the command itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.places import ray_cluster
from tests.tune.helpers import SSL_TUNE, make_home
from tune.errors import Exit

pytestmark = pytest.mark.long  # each on a cluster with drivers of their own

TINY = [
    *("--labels", "100", "--network", "wrn-10-1", "--epochs", "2", "--set", "batch_size=4"),
    *("--set", "mu=1", "--set", "steps_per_epoch=2", "--set", "precision=float32"),
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A head without a place for trainings, and an autoscaler that may start two machines of one processor."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ssl-") as folder:
        patch.setenv("ATEN_CPU_CAPABILITY", "avx2")
        with ray_cluster(0, Path(folder) / "ray", machines=2) as found:
            yield found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, migrated_store: Path) -> Path:
    return make_home(tmp_path_factory.mktemp("elsewhere") / "home", migrated_store).path


def ssl_tune(home: Path, *words: object) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")}
    return subprocess.run(
        [SSL_TUNE, *map(str, words), "--home", str(home)],
        env=environment | {"SSL_TUNE_FIGURES": "0", "XDG_CONFIG_HOME": str(home / "config")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def made_there(result: dict[str, Any]) -> bool:
    return str(result["versions"]["processor"]).endswith("AVX2")


def test_5_an_empty_cluster_that_autoscales_is_waited_for(address: str, home: Path) -> None:
    at = ("--address", address, "--trials", "2", *TINY)
    done = ssl_tune(home, "search", "--name", "s", *at)
    assert done.returncode == Exit.USAGE and "with --concurrent N" in done.stderr, done
    assert not (home / "studies" / "s").exists()
    done = ssl_tune(home, "search", "--name", "s", "--concurrent", "2", *at)
    assert done.returncode == 0, done
    assert (
        "waiting for the cluster's autoscaler to start a machine with 1 processor and 0 GPUs free for a trial"
        in done.stderr
    )
    assert "2 places are asked for, the cluster has 1 now" in done.stderr
    spec = json.loads(ssl_tune(home, "status", "s", "--json").stdout)
    assert (spec["state"], spec["trials"]["completed"]) == ("finished", 2), spec


def test_2_a_confirmation_trains_on_the_cluster(address: str, home: Path) -> None:
    words = ("confirm", "s", "--seeds", "1", "--baseline", "plain", "--address", address, "--json")
    done = ssl_tune(home, *words)
    assert done.returncode == 0, done
    results = [json.loads(p.read_text()) for p in (home / "studies/s/confirm").rglob("result.json")]
    assert len(results) == 2 and all(map(made_there, results))
    assert len((home / "test-readings.jsonl").read_text().splitlines()) == 2


def test_2_one_training_runs_on_the_cluster_and_is_seen_here(
    address: str, home: Path, tmp_path: Path
) -> None:
    words = ("train", *TINY, "--set", "threads=1", "--final", "--json", "--out")
    done = ssl_tune(home, *words, tmp_path / "there", "--address", address, "--model", tmp_path / "model")
    assert done.returncode == 0, done
    assert [line.partition(" (")[0] for line in done.stderr.splitlines() if "epoch" in line] == [
        "epoch 1",
        "epoch 2",
    ]
    there = json.loads(done.stdout)
    assert made_there(there) and (tmp_path / "model" / "model.json").is_file()
    again = ssl_tune(home, *words, tmp_path / "there", "--resume", "--address", address)
    assert json.loads(again.stdout) == there
    refused = ssl_tune(home, *words, tmp_path / "there", "--address", address)
    assert refused.returncode == Exit.USAGE and "is not empty" in refused.stderr, refused


def test_2_a_table_is_made_on_the_cluster(address: str, home: Path) -> None:
    words = [
        "reproduce",
        "table1",
        "--cell",
        "cifar10@250,tau=0.6",
        "--data",
        "cifar10=digits",
        "--seeds",
        "1",
    ]
    words += ["--network", "wrn-10-1", "--epochs", "1", "--set", "steps_per_epoch=2", "--set", "batch_size=4"]
    done = ssl_tune(home, *words, "--set", "mu=1", "--address", address, "--json")
    assert done.returncode == 0, done
    table = json.loads(done.stdout)["table1"]
    assert table["fingerprint"]["processor"].endswith("AVX2") and len(table["rows"]) == 1
    results = [json.loads(p.read_text()) for p in (home / "reproduce").rglob("result.json")]
    assert len(results) == 2 and all(map(made_there, results))


def test_4_all_places_are_asked_for_at_once() -> None:
    """Two of sixteen trials have room: the others wait, and Ray knows of each. Not told, it would know of three."""
    command = [sys.executable, "-m", "benchmarks.places", "--places", "16", "--cpus", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done
    found = json.loads(done.stdout)
    assert found["most"] == 16 and found["seconds_to_all"] < 20  # 3 where nothing else runs
