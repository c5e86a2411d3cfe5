"""MLflow's server, loaded once and forked for each start: `python mlflow_server.py DATABASE_URI ARTIFACTS`.

A port on standard input starts a server there, whose process id goes to standard output. Loading MLflow takes
seconds, which a test that kills its server again and again would otherwise pay each time; what runs is the
application that `mlflow server` runs, under the same uvicorn. At the end of standard input all servers end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys


def main() -> None:
    """Fork a server for each port that is asked for."""
    from mlflow import server

    os.environ[server.BACKEND_STORE_URI_ENV_VAR] = sys.argv[1]
    os.environ[server.ARTIFACT_ROOT_ENV_VAR] = "mlflow-artifacts:/"
    os.environ[server.SERVE_ARTIFACTS_ENV_VAR] = "true"
    os.environ[server.ARTIFACTS_DESTINATION_ENV_VAR] = sys.argv[2]
    import uvicorn
    from mlflow.server.fastapi_app import app

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that are killed
    children = []
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            uvicorn.run(app, host="127.0.0.1", port=int(line), log_level="error")
            os._exit(0)
        children.append(child)
        print(child, flush=True)
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    main()
