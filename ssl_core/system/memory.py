"""Memory: kept between steps, and explained where it runs out.

Keeping: a step frees all its activations, hundreds of megabytes. The GNU C library returns them to the system, and the
next step asks for them again, page by page, each zeroed by the kernel: a third of the time of a small network's step.
`keep_freed_memory` leaves memory with the process at its peak, which the next step reaches again anyway.

Running out: every allocator has its own wording, and some raise only a RuntimeError. `explained` turns all of them into
one error that names the amount and what to lower, and that a study can tell from other errors.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from ssl_core.networks.names import SMALLEST
from ssl_core.schema import RunConfig
from ssl_core.system.errors import MemoryExhaustedError

# Parameters of mallopt(3) with their numbers in malloc.h, our values, and the environment variables that set the same.
_SETTINGS = (
    (-1, -1, "MALLOC_TRIM_THRESHOLD_"),  # M_TRIM_THRESHOLD: never shrink the heap
    (-2, 64 * 1024**2, "MALLOC_TOP_PAD_"),  # M_TOP_PAD: grow it by so many bytes beyond what is asked
    (-4, 0, "MALLOC_MMAP_MAX_"),  # M_MMAP_MAX: no mapping of its own for a large block, unmapped when freed
)


@cache  # once a process
def keep_freed_memory() -> bool:
    """Make the C library keep freed memory from now on, for the whole process.

    Only the GNU C library can; with another one nothing is done. A value that the environment sets
    (`MALLOC_TRIM_THRESHOLD_` and the like) is not changed.

    Returns:
        Whether it was done.
    """
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - the GNU C library's mark: others lack the name
        mallopt = library.mallopt
    except (AttributeError, OSError, TypeError):  # another C library; TypeError: Windows
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    told = [mallopt(number, value) for number, value, name in _SETTINGS if name not in os.environ]
    return all(told)


_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50}
# "Tried to allocate 2.00 GiB" (CUDA), "you tried to allocate 4096 bytes" (CPU), "Unable to allocate 1.2 GiB" (NumPy)
_AMOUNT = re.compile(rf"to allocate ([\d.]+) ({'|'.join(_UNITS)})")
_SIGNS = ("can't allocate memory", "bad_alloc", "STATUS_ALLOC_FAILED", "out of memory")


@contextmanager
def explained(device: str, doing: str, advice: str) -> Iterator[None]:
    """Turn every allocator's out-of-memory error into a MemoryExhaustedError.

    Args:
        device: where the memory is: "cpu" or "cuda".
        doing: what it was for.
        advice: what to lower.
    """
    try:
        yield
    except MemoryExhaustedError:
        raise
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and not any(sign in text for sign in _SIGNS):
            raise
        place = "GPU" if device == "cuda" else "machine"
        raise MemoryExhaustedError(
            f"out of memory: the {place} had no {_amount(text)} for {doing}. {advice}"
        ) from error


def of_images(count: int, side: int) -> tuple[str, str]:
    """For `explained`: what needs memory when the data set is loaded, and what to lower."""
    return f"{count} images of {side}x{side} pixels", "Lower data.image_size, or take device=cpu."


def in_step(config: RunConfig, views: int) -> tuple[str, str]:
    """For `explained`: what needs memory in a step, and what to lower.

    Args:
        config: resolved.
        views: number of views of each unlabelled image that the method uses.
    """
    assert config.batch_size and config.mu
    labelled, unlabelled = config.batch_size, config.batch_size * config.mu * views
    doing = f"a step on {labelled + unlabelled} images in {config.network}"
    batch_size = f"batch_size (now {config.batch_size})"
    if views and config.mu > 1:
        lower = f"mu (now {config.mu}: {unlabelled} of the images are unlabelled ones), then {batch_size}"
    else:
        lower = batch_size
    return doing, f"Lower {lower}{_or_network(config)}."


def in_evaluation(config: RunConfig) -> tuple[str, str]:
    """For `explained`: what needs memory in an evaluation, and what to lower."""
    size = config.eval_batch_size
    doing = f"the evaluation of {size} images at once in {config.network}"
    return doing, f"Lower eval_batch_size (now {size}){_or_network(config)}."


def _or_network(config: RunConfig) -> str:
    return "" if config.network == SMALLEST else f", or take a smaller network ({SMALLEST} is the smallest)"


def _amount(text: str) -> str:
    found = _AMOUNT.search(text)
    if found is None:
        return "memory left"
    amount = float(found[1]) * _UNITS[found[2]]
    return f"{amount / 2**30:.1f} GiB more" if amount >= 2**30 else f"{amount / 2**20:.1f} MiB more"
