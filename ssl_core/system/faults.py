"""Points where a test can have a process kill itself: the moments at which dying would hurt most.

`SSL_TUNE_FAULT=tell:before` kills the process with SIGKILL the first time that it comes to that point,
`SSL_TUNE_FAULT=tell:before:3` the third time. Every process that inherits the variable counts for itself.
`SSL_TUNE_FAULT_ALSO=PID` takes another process along, first: a worker at its point its driver, for example.

The points: ask:before, ask:after, tell:before, tell:after (`tune.trials.study_trials`), report:inside
(`tune.trials.optuna_storage`), rung:before, rung:after (`tune.engine.scheduler`), rename:before, rename:after (of a
checkpoint: `ssl_core.system.files`), sender:after-send (`tune.delivery.deliverer`). Without the variable a point costs
a comparison.
"""

from __future__ import annotations

import contextlib
import os
import signal


def _parsed(text: str) -> tuple[str, int]:
    point, _, count = text.rpartition(":")
    return (point, int(count)) if count.isdigit() else (text, 1)


_point, _left = _parsed(os.environ.get("SSL_TUNE_FAULT", ""))


def fault(point: str) -> None:
    """Come to a point; does not return where the environment says so."""
    global _left
    if point != _point:
        return
    _left -= 1
    if _left == 0:
        also = os.environ.get("SSL_TUNE_FAULT_ALSO")
        if also is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(also), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
