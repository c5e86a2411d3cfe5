"""Writing files completely or not at all. Loads no torch, because the service writes before it has loaded it."""

from __future__ import annotations

import os
from pathlib import Path

from ssl_core.system.faults import fault


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it holds either its old content or the new one, even after a power failure."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        aside.unlink(missing_ok=True)  # the disk is full: free what half a file takes
        raise
    fault("rename:before")
    aside.replace(path)
    fault("rename:after")
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
