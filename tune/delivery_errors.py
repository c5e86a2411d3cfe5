"""What a failed call of MLflow means for the event that it was to deliver: wait, or give it up."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

_AUTHENTICATION = {"PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED", "UNAUTHENTICATED"}
_NO_MLFLOW = {"ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED"}
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
    """

    def __init__(self, reason: str, *, slow: bool = False) -> None:
        super().__init__(reason)
        self.slow = slow


class RejectedError(Exception):
    """MLflow refuses this event, now and later."""

    def __init__(self, reason: str, *, code: str = "") -> None:
        super().__init__(reason)
        self.code = code


@contextmanager
def judged() -> Iterator[None]:
    """Turn whatever a call of MLflow raises into AwayError or RejectedError."""
    try:
        yield
    except (AwayError, RejectedError, sqlite3.Error):  # sqlite3: our own log, not MLflow's store
        raise
    except Exception as error:
        raise _judge(error) from error


def _judge(error: Exception) -> AwayError | RejectedError:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import OperationalError

    reason = f"{type(error).__name__}: {error}"[:2000]
    if isinstance(error, MlflowException):
        code = str(error.error_code)
        if code in _AUTHENTICATION:
            hint = "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            return AwayError(f"the tracking server refuses the login ({reason}); {hint}", slow=True)
        if code in _NO_MLFLOW:
            return AwayError(f"no MLflow server of a matching version answers there ({reason})", slow=True)
        return RejectedError(reason, code=code) if code in _PERMANENT else AwayError(reason)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return AwayError(f"the artifact store refuses the login ({reason})", slow=True)
    if isinstance(status, int) and 400 <= status < 500 and status not in (408, 429):
        return RejectedError(reason)
    lost = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
    if isinstance(error, (OSError, OperationalError)) and not isinstance(error, lost):
        return AwayError(reason)
    return RejectedError(reason)
