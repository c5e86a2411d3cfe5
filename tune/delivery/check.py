"""Whether MLflow can be reached, before a study begins that is not to run without: `--require-tracking`.

Asked in a process of its own (`python -m tune.delivery.check URI`), so that the driver neither loads MLflow nor has
its settings changed.
"""

from __future__ import annotations

import subprocess
import sys

from tune.delivery.database import prepared_database
from tune.delivery.refusals import AwayError, RejectedError, introduction, judged
from tune.delivery.sender import configure_mlflow
from tune.errors import Exit, ServiceError
from tune.revision import child_environment
from tune.tracking.uri import take_login

_MARK = "MLflow cannot be used: "


def require_tracking(uri: str) -> None:
    """Return where MLflow answers and takes the login.

    Args:
        uri: where MLflow is.

    Raises:
        ServiceError: if it does not; the command then exits 7.
    """
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tune.delivery.check", uri],
        env=child_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return
    words = done.stderr.rpartition(_MARK)[2].strip() or "asking it failed"
    raise ServiceError(
        f"the tracking server {uri} is required and cannot be used: {words} Nothing was started. Bring it "
        "back, or leave --require-tracking out: the study then runs, and delivers later.",
        Exit.UNREACHABLE,
    )


def main() -> int:
    """The process: see the head of this file."""
    from mlflow.tracking import MlflowClient  # loads MLflow

    uri = sys.argv[1]
    take_login()
    configure_mlflow()
    try:
        with judged(), prepared_database(uri):
            MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    except (AwayError, RejectedError) as error:
        strange = f"; {introduction(uri)}" if isinstance(error, AwayError) and error.stranger else ""
        print(f"{_MARK}{error}{strange}.", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
