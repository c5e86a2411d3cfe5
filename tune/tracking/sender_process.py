"""The process that delivers a study's event log to MLflow, as the driver starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tune.revision import child_environment
from tune.store.event_log import EventLog


def early_sender(log: EventLog) -> subprocess.Popen[bytes]:
    """A sender for a sitting of which nothing is known yet: MLflow takes seconds to load."""
    for note in ("complete", "problem"):  # an earlier driver's
        log.set_meta(note, None)
    return _spawn(log.path.absolute().parent)


def _spawn(study_folder: Path) -> subprocess.Popen[bytes]:
    # -P: the folder that the command was typed in must not provide modules. A session of its own:
    # Ctrl-C at the terminal must not reach the sender in the middle of a delivery.
    command = [
        sys.executable,
        "-P",
        "-m",
        "tune.delivery.sender",
        str(study_folder),
        "--parent",
        str(os.getpid()),
    ]
    with (study_folder / "sender.log").open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=child_environment(),
        )
