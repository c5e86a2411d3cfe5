"""The GPUs of this machine, counted without loading torch."""

from __future__ import annotations

import os
from pathlib import Path

from ssl_core.system.errors import ConfigError


def gpu_count() -> int:
    """GPUs of this machine that this process may use, known without loading torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([part for part in visible.split(",") if part.strip() not in ("", "-1")])
    dev = Path("/dev")
    return len(list(dev.glob("nvidia[0-9]*"))) or int((dev / "dxg").exists())  # the latter on Windows' Linux


def check_gpus(gpus: float, remedy: str) -> None:
    """Refuse trials for which this machine has too few GPUs: they would wait for ever.

    Raises:
        ConfigError: says how many it has, and then the remedy.
    """
    there = gpu_count()
    if gpus > there:
        has = "1 GPU" if there == 1 else f"{there or 'no'} GPUs"
        raise ConfigError(f"gpus_per_trial = {gpus:g}: this machine has {has} that may be used. {remedy}")
