"""What a trial's process may take of a GPU it shares."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tune.worker.trainable import CUDA_CONTEXT, cap_gpu_memory


@pytest.mark.parametrize(
    ("gpus", "has_gpu", "capped"),
    [
        (0.25, True, 0.25 - 1 / 16),
        (0.05, True, 0.01),
        (1.0, True, None),
        (0.0, True, None),
        (0.25, False, None),
    ],
)
def test_a_shared_gpu_is_shared_in_memory_too(
    gpus: float, has_gpu: bool, capped: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    caps: list[float] = []
    card = SimpleNamespace(total_memory=16 * CUDA_CONTEXT)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", caps.append)
    cap_gpu_memory(gpus)
    assert caps == ([] if capped is None else [pytest.approx(capped)])


def test_a_worker_has_loaded_the_trainable_before_it_gets_a_trial(local_ray: None) -> None:
    """A wrong name of the module to preload would cost every worker seconds, and nobody would be told."""
    from tune.cluster.local_ray import ray

    @ray.remote(runtime_env={"env_vars": {"SSL_TUNE_TEST": "1"}})  # a worker that no trial has used before
    def loaded() -> bool:
        import sys

        return "tune.worker.trainable" in sys.modules

    assert ray.get(loaded.remote())
