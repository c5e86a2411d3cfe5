"""What a trial's machine and its worker were busy with, under the names that MLflow gives system metrics.

MLflow's own sampler is a thread in the driver of a run and knows nothing of the machine that a trial trains on. Here
the worker reads a few counters after each epoch (a millisecond), and they go the way of all metrics.
"""

from __future__ import annotations

import contextlib

import psutil
import torch


class SystemMetrics:
    """Samples between two epochs; the first sample covers the time since this was made.

    Args:
        device: what the trial trains on, such as "cpu" or "cuda".
    """

    def __init__(self, device: str) -> None:
        self._process = psutil.Process()
        self._gpu = device.startswith("cuda")
        psutil.cpu_percent()  # utilisation is counted from one call to the next
        self._process.cpu_percent()

    def sample(self) -> dict[str, float]:
        """Utilisation since the last sample and memory at this moment; of the GPU, only what can be read."""
        memory = psutil.virtual_memory()
        found = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": 100 * memory.used / memory.total,
            "process_cpu_utilization_percentage": self._process.cpu_percent(),
            "process_memory_usage_megabytes": self._process.memory_info().rss / 1e6,
        }
        if self._gpu:
            found |= _gpu()
        return {f"system/{name}": round(value, 1) for name, value in found.items()}


def _gpu() -> dict[str, float]:
    free, total = torch.cuda.mem_get_info()
    found = {
        "gpu_0_memory_usage_megabytes": (total - free) / 1e6,
        "gpu_0_memory_usage_percentage": 100 * (total - free) / total,
        "process_gpu_memory_usage_megabytes": torch.cuda.memory_reserved() / 1e6,
    }
    # Whatever is missing (nvidia-ml-py, the driver's consent, a part of a GPU that has no counter of its own) costs
    # this figure, and no trial.
    with contextlib.suppress(Exception):
        found["gpu_0_utilization_percentage"] = float(torch.cuda.utilization())
    with contextlib.suppress(Exception):
        found["gpu_0_power_usage_watts"] = torch.cuda.power_draw() / 1000
    return found
