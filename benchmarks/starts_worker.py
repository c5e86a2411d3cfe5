"""The worker's part of `benchmarks.starts`: the real trainable, which notes when it passes certain places."""

from __future__ import annotations

from typing import Any

import psutil

from benchmarks.noting import note, noting
from tune.worker import trainable
from tune.worker.trainable import TrialTrainable


class NotingTrainable(TrialTrainable):
    """The real trainable, with notes."""

    def setup(self, config: dict[str, Any]) -> None:
        """Prepare the trial."""
        note("worker: its process begins", psutil.Process().create_time())
        note("worker: gets its trial")
        noting(trainable, "prepare", "worker: data, mapped")
        super().setup(config)

    def step(self) -> dict[str, Any]:
        """An epoch."""
        note("worker: begins its first epoch")
        try:
            return super().step()
        finally:
            note("worker: has trained its first epoch")
