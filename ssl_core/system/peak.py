"""How much memory a block takes at its highest, on the host and on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_LIMIT, _USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")


@dataclass
class Peak:
    """What a block took beyond what was there before.

    Attributes:
        host: bytes of the process at its highest, less those before the block; None where the system does not tell.
        device: bytes that torch had on the GPU at its highest; 0 without one.
    """

    host: int | None = None
    device: int = 0


@contextmanager
def peak_of(device: str) -> Iterator[Peak]:
    """Measure a block; the result is filled in when it ends.

    Args:
        device: cpu or cuda.
    """
    found, before = Peak(), None
    try:
        _CLEAR.write_text("5")  # the kernel counts the peak anew: proc(5)
        before = _read("VmRSS")
    except OSError:  # not Linux, or not allowed here
        pass
    if device == "cuda":
        import torch  # loads for seconds

        torch.cuda.reset_peak_memory_stats()
    yield found
    after = _read("VmHWM")
    if before is not None and after is not None:
        found.host = max(0, after - before)
    if device == "cuda":
        found.device = int(torch.cuda.max_memory_allocated())


def _read(name: str) -> int | None:
    """A line of the process's status, in bytes."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return None


def total_memory() -> int:
    """Bytes that there are for all processes: of the machine, or of the control group where that allows fewer."""
    import psutil

    total = int(psutil.virtual_memory().total)
    try:
        limit = _LIMIT.read_text().strip()
        return total if limit == "max" else min(total, int(limit))
    except (OSError, ValueError):
        return total


def available_memory() -> int:
    """Bytes that processes may still take here: of the machine, or of the control group where that allows fewer."""
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        limit = _LIMIT.read_text().strip()
        return free if limit == "max" else min(free, max(0, int(limit) - int(_USED.read_text())))
    except (OSError, ValueError):
        return free
