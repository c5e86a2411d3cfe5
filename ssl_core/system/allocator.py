"""Keep freed memory in the process: what the last step freed, the next one needs again.

A step frees all its activations, hundreds of megabytes. The GNU C library hands them back to the system, and
the next step asks for them again, page by page, each zeroed by the kernel: a third of a small network's step.
With this, memory stays with the process at its peak, which the next step reaches again anyway.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

# Numbers of malloc.h, the values this process wants, and the variables that set the same from outside.
_SETTINGS = (
    (-1, -1, "MALLOC_TRIM_THRESHOLD_"),  # M_TRIM_THRESHOLD: never shrink the heap
    (-2, 64 * 1024**2, "MALLOC_TOP_PAD_"),  # M_TOP_PAD: grow it by so many bytes beyond what is asked
    (-4, 0, "MALLOC_MMAP_MAX_"),  # M_MMAP_MAX: no mapping of its own for a large block, unmapped when freed
)


@cache  # once a process
def keep_freed_memory() -> bool:
    """Tell the C library to keep freed memory, from here on and for the whole process.

    Only the GNU C library knows how; with another one nothing is done. A value that the environment sets
    (`MALLOC_TRIM_THRESHOLD_` and its like) is left as it is.

    Returns:
        Whether the library was told.
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
