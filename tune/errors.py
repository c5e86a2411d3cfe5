"""Exit codes, and errors that carry one."""

from __future__ import annotations

import errno
from enum import IntEnum


class Exit(IntEnum):
    """What a command's exit code says."""

    DONE = 0
    USAGE = 2
    NO_TRIAL_SUCCEEDED = 3
    SOME_TRIALS_FAILED = 4
    TRACKING_PENDING = 5
    STORAGE = 6
    UNREACHABLE = 7
    IN_USE = 8
    INTERRUPTED = 130
    TERMINATED = 143


class ServiceError(RuntimeError):
    """A problem that a user can act on, with the exit code of the command that meets it."""

    def __init__(self, message: str, code: Exit) -> None:
        super().__init__(message)
        self.code = code


class DamagedError(ServiceError):
    """A file of a study is not as it was written: what is damaged, what is still there, what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(message, Exit.STORAGE)


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
