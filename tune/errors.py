"""Exit codes, errors that carry one, and what no message shows: passwords in URLs."""

from __future__ import annotations

import errno
import re
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
    OUTPUT_CLOSED = 141
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


HIDDEN = "***"
# Up to the last @ of a server's name; a database's password holds no @, but may hold a slash.
_PASSWORDS = [
    re.compile(r"(?P<before>https?://[^:/?#@\s]*:)[^/?#\s]*(?P<after>@)"),
    re.compile(r"(?P<before>(?!https?:)\b[\w+.-]+://[^:/@\s]*:)[^@\s]*(?P<after>@)"),
    re.compile(r"(?P<before>[?&](?:password|passwd|pwd)=)[^&#\s]*(?P<after>)", re.IGNORECASE),
]


def has_password(url: str) -> bool:
    """Whether a URL carries a password: what is kept with a study, printed or passed on to a process must not."""
    return any(pattern.search(url) for pattern in _PASSWORDS)


def without_passwords(text: str) -> str:
    """A text that may hold URLs, as it may be shown."""
    for pattern in _PASSWORDS:
        text = pattern.sub(rf"\g<before>{HIDDEN}\g<after>", text)
    return text
