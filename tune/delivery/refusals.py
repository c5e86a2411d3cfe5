"""What a failed call of MLflow means for the event that it was to deliver: wait, or give it up."""

from __future__ import annotations

import re
import sqlite3
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from tune.tracking.uri import shown

_AUTHENTICATION = {"PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED", "UNAUTHENTICATED"}
_NO_MLFLOW = {"ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED"}
_OTHER_TABLES = "out-of-date database schema"  # what MLflow says of newer ones, too
_STATUS = re.compile(r"failed with error code (\d{3}) ")
_SHARED_ROW = re.compile(
    r"(IntegrityError|UniqueViolation).*INSERT INTO (datasets|experiment_tags)\b", re.DOTALL
)
"""Studies of one experiment share these rows. MLflow looks whether there is one and makes it: of two senders that look
at once the second is refused, and finds it the next time."""
_PERMANENT = {
    "ALREADY_EXISTS",
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "NOT_FOUND",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}


class AwayError(Exception):
    """MLflow cannot be reached or is in trouble: try again later.

    Args:
        reason: what happened.
        slow: nothing but a person will mend it (a wrong password): no need to ask often.
        stranger: something answers, but not as this version of MLflow would.
    """

    def __init__(self, reason: str, *, slow: bool = False, stranger: bool = False) -> None:
        super().__init__(reason)
        self.slow = slow
        self.stranger = stranger


class RejectedError(Exception):
    """MLflow refuses this event, now and later."""

    def __init__(self, reason: str, *, code: str = "") -> None:
        super().__init__(reason)
        self.code = code


class OwedAgainError(Exception):
    """The store has lost what was delivered: the log owes it again and is to be read from its beginning."""


@contextmanager
def judged() -> Iterator[None]:
    """Turn whatever a call of MLflow raises into AwayError or RejectedError."""
    try:
        yield
    except (AwayError, RejectedError, OwedAgainError, sqlite3.Error):  # sqlite3: our own log, not MLflow's
        raise
    except Exception as error:
        raise _judge(error) from error


def _judge(error: Exception) -> AwayError | RejectedError:
    from mlflow.exceptions import MlflowException  # loads MLflow
    from sqlalchemy.exc import OperationalError

    reason = shown(f"{type(error).__name__}: {error}")[:2000]
    if isinstance(error, MlflowException):
        code = str(error.error_code)
        if code in _AUTHENTICATION:
            hint = "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            return AwayError(f"the tracking server refuses the login ({reason}); {hint}", slow=True)
        if code in _NO_MLFLOW:
            text = f"no MLflow server of a matching version answers there ({reason})"
            return AwayError(text, slow=True, stranger=True)
        if _OTHER_TABLES in reason:
            return AwayError(_other_tables(reason), slow=True)
        if _SHARED_ROW.search(reason):
            return AwayError(reason)
        if code in _PERMANENT or _refused_for_good(_status_in(reason)):
            return RejectedError(reason, code=code)
        return AwayError(reason)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return AwayError(f"the artifact store refuses the login ({reason})", slow=True)
    if isinstance(status, int) and _refused_for_good(status):
        return RejectedError(reason)
    lost = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
    if isinstance(error, (OSError, OperationalError)) and not isinstance(error, lost):
        return AwayError(reason)
    return RejectedError(reason)


def _status_in(reason: str) -> int:
    """The HTTP status that MLflow's client names in its message, where it knows no code for it; otherwise 0."""
    found = _STATUS.search(reason)
    return int(found.group(1)) if found else 0


def _refused_for_good(status: int) -> bool:
    return 400 <= status < 500 and status not in (408, 425, 429, 499)


def _other_tables(reason: str) -> str:
    import mlflow  # takes seconds to load

    return (
        f"the database is of another version of MLflow than {mlflow.__version__}, which is installed here: if it is "
        f"older, `mlflow db upgrade` on it; if it is newer, install that version here ({reason})"
    )


def introduction(uri: str) -> str:
    """What a server says of its version, beside the one that is installed here."""
    import mlflow  # loads MLflow

    says = "it does not say which version of MLflow it is"
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/version", timeout=5) as answer:
            version = answer.read(100).decode(errors="replace").strip()
    except (OSError, ValueError):
        version = ""
    if re.fullmatch(r"\d+(\.\w+)+", version):
        says = f"it says that it is MLflow {version}"
    return f"{says}, here MLflow {mlflow.__version__} is installed"
