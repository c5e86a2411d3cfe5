"""Points at which a test can make a process kill itself: the moments at which a crash would do the most harm.

`SSL_TUNE_FAULT=tell:before` kills the process with SIGKILL the first time that it reaches that point,
`SSL_TUNE_FAULT=tell:before:3` the third time. Every process that inherits the variable counts for itself.
`SSL_TUNE_FAULT_ALSO=PID` kills another process first, for example a worker its driver.

The points: ask:before, ask:after, tell:before, tell:after (`tune.trials.study_trials`), report:inside
(`tune.trials.tables.writing`), rung:before, rung:after (`tune.engine.scheduler`), rename:before, rename:after (of a
checkpoint: `ssl_core.system.files`), sender:before-commit, sender:after-send (`tune.delivery.deliverer`), race:before
(`tune.comparison.race`), race:kept (`tune.comparison.run`), and those of `tune.launch.keeping`: delete:run,
delete:before, delete:renamed, clean:item, clean:renamed, pack:file, unpack:file, unpack:before and unpack:renamed.
Without the variable a point costs one comparison.
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
    """Kill this process here if `SSL_TUNE_FAULT` names this point and its count is reached."""
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
