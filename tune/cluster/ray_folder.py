"""The folder of a local Ray: it holds Unix sockets, whose paths may not be long. Loads nothing heavy."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ssl_core.system.errors import ConfigError

SOCKET_LIMIT = 107
"""Bytes that the path of a Unix socket may have on Linux (unix(7))."""
BELOW = len("/session_2026-01-31_23-59-59_123456_1234567/sockets/plasma_store")
"""Bytes that Ray puts below its folder."""
ELSEWHERE = ("/tmp", "/var/tmp", "/dev/shm")


def ray_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder to start Ray in: that of RAY_TMPDIR or TMPDIR if it can be used, else a usual one.

    Raises:
        ConfigError: none can be used; says why not.
    """
    wanted = [environment[name] for name in ("RAY_TMPDIR", "TMPDIR") if environment.get(name)]
    problems = {}
    for place in (*wanted, *ELSEWHERE):
        folder = Path(place).absolute()
        if place == environment.get("RAY_TMPDIR"):  # Ray makes its own
            with suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
        problem = problem_of(folder)
        if problem is None:
            return folder
        problems[str(folder)] = problem
    listed = "; ".join(f"{folder} {problem}" for folder, problem in problems.items())
    raise ConfigError(
        f"Ray has no folder for its sockets: {listed}. Name a short one that can be written with RAY_TMPDIR."
    )


def problem_of(folder: Path) -> str | None:
    """Why Ray cannot be started in a folder; None where it can. Leaves nothing behind."""
    length = len(os.fsencode(folder / "ray")) + BELOW
    if length > SOCKET_LIMIT:
        return f"is {length - SOCKET_LIMIT} letters too long for a socket's path"
    return unwritable(folder)


def unwritable(folder: Path) -> str | None:
    """Why no file can be made in a folder; None where one can. Leaves nothing behind."""
    if not folder.is_dir():
        return "is no folder"
    try:  # permissions alone do not tell, least of all root
        tempfile.TemporaryDirectory(prefix=".ssl-tune-", dir=folder).cleanup()
    except OSError as error:
        return f"cannot be written ({error.strerror})"
    return None
