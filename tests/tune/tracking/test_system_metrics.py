"""`--system-metrics`: what a worker measures, and how it gets into MLflow."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest
import torch

import tune
from ssl_core.training import checkpoint
from tests.tune.helpers import make_spec, mlflow_runs, mlflow_steps, shapes_options
from tune.cli.options import request_of
from tune.launch.baseline import baseline_request
from tune.store.home import Home
from tune.worker.system_metrics import SystemMetrics

OF_THE_MACHINE = {
    "system/cpu_utilization_percentage",
    "system/system_memory_usage_megabytes",
    "system/system_memory_usage_percentage",
}
OF_THE_WORKER = {"system/process_cpu_utilization_percentage", "system/process_memory_usage_megabytes"}
OF_THE_GPU = {
    "system/gpu_0_memory_usage_megabytes": 3000.0,
    "system/gpu_0_memory_usage_percentage": 75.0,
    "system/process_gpu_memory_usage_megabytes": 2000.0,
}


def test_the_names_of_the_machine_are_those_of_mlflow() -> None:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor

    theirs = CPUMonitor()
    theirs.collect_metrics()
    assert {f"system/{name}" for name in theirs.aggregate_metrics()} == OF_THE_MACHINE


def test_a_sample_is_of_the_time_since_the_last_one() -> None:
    monitor = SystemMetrics("cpu")
    end = time.monotonic() + 0.5  # the machine counts in hundredths of a second
    while time.monotonic() < end:
        sum(range(10_000))
    sample = monitor.sample()
    assert sample.keys() == OF_THE_MACHINE | OF_THE_WORKER
    assert 0 < sample["system/process_cpu_utilization_percentage"] <= 100 * psutil.cpu_count()
    assert 0 <= sample["system/cpu_utilization_percentage"] <= 100
    assert (
        10 < sample["system/process_memory_usage_megabytes"] < sample["system/system_memory_usage_megabytes"]
    )


@pytest.mark.parametrize("counters", [True, False])
def test_a_gpu_is_read_as_far_as_it_can_be(counters: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> int:
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10**9, 4 * 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 2 * 10**9)
    monkeypatch.setattr(torch.cuda, "utilization", (lambda: 87) if counters else missing)
    monkeypatch.setattr(torch.cuda, "power_draw", (lambda: 250_000) if counters else missing)
    sample = SystemMetrics("cuda").sample()
    more = {"system/gpu_0_utilization_percentage": 87.0, "system/gpu_0_power_usage_watts": 250.0}
    expected = OF_THE_GPU | (more if counters else {})
    assert {name: value for name, value in sample.items() if "gpu" in name} == expected


def test_the_switch_is_off_unless_it_is_asked_for_and_goes_for_the_baseline_too(home: Home) -> None:
    assert not make_spec(home).system_metrics
    asked = request_of({"study": None, "settings": None, "system_metrics": True})
    spec = make_spec(home, system_metrics=asked.system_metrics)
    assert spec.system_metrics and baseline_request(spec).system_metrics


def test_they_come_with_every_epoch_into_mlflow_and_not_into_the_run(
    local_ray: None, ready_home: Home, pictures: Path
) -> None:
    options = shapes_options(ready_home, pictures) | {"trials": 1, "epochs": 3}
    study = tune.search(**options, system_metrics=True, home=ready_home.path, quiet=True)
    run = mlflow_runs(ready_home)["trial 0"]
    for name in OF_THE_MACHINE | OF_THE_WORKER:
        assert mlflow_steps(ready_home, run, name) == [1, 2, 3]
    state = checkpoint.load_newest(study.folder.trials / "0")
    assert state is not None
    assert not [n for report in state["history"] for n in report["metrics"] if n.startswith("system/")]


def test_without_the_switch_there_are_none(finished: Home) -> None:
    metrics = [name for run in mlflow_runs(finished).values() for name in run.data.metrics]
    assert metrics and not [name for name in metrics if name.startswith("system/")]
