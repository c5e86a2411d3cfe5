"""A trial that trains nothing. Loads neither torch nor the service, so that thousands of workers could run it."""

from __future__ import annotations

import time
from typing import Any

from ray import tune as ray_tune

SECONDS = 0.2


class Idle(ray_tune.Trainable):
    """Ends after one report, as `tune.worker.trainable.TrialTrainable` ends a trial that is complete."""

    def setup(self, config: dict[str, Any]) -> None:
        """Nothing to prepare."""

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial without a new process."""
        return True

    def step(self) -> dict[str, Any]:
        """The end of the trial; the names are those of `tune.worker.report_keys`."""
        time.sleep(SECONDS)
        return {"done": True, "stop_reason": "nan", "message": "it trains nothing"}
