"""Ray on this machine: the processes that it starts, and its workers, which are there before the first trial."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ray._private import node as ray_node
from ray._private import utils as ray_utils

from ssl_core.system.errors import ConfigError
from tune.cluster import few_processes, local_ray
from tune.delivery import sender
from tune.revision import ROOT
from tune.store.event_log import EventLog

SCRIPT = """
import json, os, sys, time
import psutil
from tune.cluster import local_ray
from tune.engine import ray_loop  # what trials ask for
from ray.tune.execution import class_cache

class Trial:
    def where(self):
        return os.getpid(), "json.tool" in sys.modules, os.environ["RAY_CHDIR_TO_TRIAL_DIR"]

with local_ray.starting(4, "json.tool", 2):
    assert local_ray.is_running() and local_ray.workers_inherit()
    local_ray.await_workers()
    names = [" ".join(p.cmdline()) for p in psutil.Process().children(recursive=True)]
    workers = [p.pid for p in psutil.Process().children(recursive=True) if p.name().startswith("ray::IDLE")]
    ray_loop._set_environment_of_workers()
    trials = [class_cache._ActorClassCache().get(Trial).options(num_cpus=2).remote() for _ in range(2)]
    found = local_ray.ray.get([trial.where.remote() for trial in trials])
assert not local_ray.workers_inherit()
ray_loop._set_environment_of_workers()
print(json.dumps({"names": names, "workers": workers, "found": found, "elsewhere": class_cache.DEFAULT_ENV_VARS}))
"""


@pytest.fixture(scope="module")
def started() -> dict[str, object]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
        "PYTHONPATH": str(ROOT)
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_ray_starts_what_a_study_needs_and_no_more(started: dict[str, list[str]]) -> None:
    names = started["names"]
    for name in ("gcs_server", "raylet"):
        assert [each for each in names if name in each], names
    for name in ("dashboard.py", "monitor.py"):  # the log monitor's file ends so, too
        assert not [each for each in names if name in each], names


def test_the_first_trials_take_the_workers_that_started_with_ray(
    started: dict[str, list[list[object]]],
) -> None:
    """Trials that asked for an environment of their own had other workers started for them."""
    assert len(started["workers"]) == 2
    assert sorted(pid for pid, _, _ in started["found"]) == sorted(started["workers"])  # type: ignore[type-var]
    # They have loaded what they were to load, and have this process's environment.
    assert [rest for _, *rest in started["found"]] == [[True, "0"]] * 2


def test_workers_of_another_ray_are_told_their_environment(started: dict[str, object]) -> None:
    assert started["elsewhere"]


def test_ray_is_itself_again_once_it_has_started() -> None:
    node, utils = ray_node.Node, ray_utils
    before = node.start_monitor, node.start_api_server, utils.get_dashboard_dependency_error
    with few_processes.few_processes(1):
        assert node.start_monitor is not before[0] and utils.get_dashboard_dependency_error() is not None
    assert (node.start_monitor, node.start_api_server, utils.get_dashboard_dependency_error) == before


def test_nobody_waits_for_workers_that_are_not_wanted_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_ray, "workers_inherit", lambda: True)
    monkeypatch.setattr(local_ray, "_awaited", False)
    monkeypatch.setattr(local_ray, "_started_with", 2)
    monkeypatch.setattr("ray._private.state.workers", dict)
    asked = iter([False, False, True])
    began = time.monotonic()
    local_ray.await_workers(lambda: next(asked))
    assert time.monotonic() - began < local_ray.WORKER_SECONDS / 2
    local_ray.await_workers(lambda: pytest.fail("waited twice"))


def test_the_sender_of_a_new_study_loads_mlflow_once_a_trial_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, long = os.getppid(), 60.0

    def seconds(log: EventLog, parent: int | None, most: float) -> float:
        monkeypatch.setattr(sender, "LOAD_SECONDS", most)
        began = time.monotonic()
        sender._await_trials(log, parent)
        return time.monotonic() - began

    with EventLog(tmp_path / "events.db") as log:
        log.append("tags", "study", {})
        assert seconds(log, None, long) < 30  # nobody drives it
        assert seconds(log, driver + 1, long) < 30  # the driver is gone
        assert seconds(log, driver, 0.3) >= 0.3
        log.append("tags", "study:0", {})
        assert seconds(log, driver, long) < 30
    with EventLog(tmp_path / "complete.db") as log:
        log.append("tags", "study", {})
        log.set_meta("complete", "1")
        assert seconds(log, driver, long) < 30


@pytest.mark.usefixtures("local_ray")
def test_trials_that_this_process_s_ray_has_no_room_for_are_refused() -> None:
    """They would wait for ever: a Ray that the user has started may be smaller than the machine."""
    with local_ray.running(8, "json.tool", 4, {"cpu": 2, "gpu": 0}):  # fewer side by side, but some
        assert local_ray.is_running()
    with pytest.raises(ConfigError, match=r"threads = 3.*has 2 processors"):
        local_ray.running(3, "json.tool", 1, {"cpu": 3, "gpu": 0}).__enter__()
    with pytest.raises(ConfigError, match=r"gpus_per_trial = 1.*0 GPUs"):
        local_ray.running(1, "json.tool", 1, {"cpu": 1, "gpu": 1}).__enter__()
    with local_ray.running(3, "json.tool", 1):  # a cluster, which may grow
        assert local_ray.is_running()


def test_a_driver_does_not_load_mlflow_for_ray_s_statistics() -> None:
    script = (
        "import sys, ray.tune.tune\n"
        "from tune.engine import ray_loop\n"
        "ray.tune.tune.air_usage.tag_callbacks([])\n"  # as ray.tune.run does
        "print('mlflow' in sys.modules)"
    )
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT, env=environment
    )
    assert done.stdout.split() == ["False"]
