"""MLflow's server, loaded once and forked for each start: `python mlflow_server.py DATABASE_URI ARTIFACTS`.

A port on standard input starts a server there, whose process id goes to standard output; with a folder behind it, one
that wants a login (`mlflow server --app-name basic-auth`) and keeps its users in that folder. Loading MLflow takes
seconds, which a test that kills its server again and again would otherwise pay each time; what runs is the
application that `mlflow server` runs, under the same uvicorn. At the end of standard input all servers end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import Any


def with_login(folder: str) -> Any:
    """MLflow's basic-auth application; the one user there is comes from MLFLOW_AUTH_ADMIN_PASSWORD: admin."""
    from pathlib import Path

    config = Path(folder) / "auth.ini"
    config.write_text(
        "[mlflow]\ndefault_permission = READ\nadmin_username = admin\n"
        f"database_uri = sqlite:///{folder}/auth.db\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    os.environ["MLFLOW_AUTH_CONFIG_PATH"] = str(config)
    os.environ["MLFLOW_FLASK_SERVER_SECRET_KEY"] = "a secret of this test"
    from mlflow.server import auth

    auth.bootstrap_admin_user()
    return auth.create_app()


def main() -> None:
    """Fork a server for each port that is asked for."""
    from mlflow import server

    os.environ[server.BACKEND_STORE_URI_ENV_VAR] = sys.argv[1]
    os.environ[server.ARTIFACT_ROOT_ENV_VAR] = "mlflow-artifacts:/"
    os.environ[server.SERVE_ARTIFACTS_ENV_VAR] = "true"
    os.environ[server.ARTIFACTS_DESTINATION_ENV_VAR] = sys.argv[2]
    os.environ["_MLFLOW_SGI_NAME"] = "uvicorn"  # as `mlflow server` tells its workers
    import uvicorn
    from mlflow.server.fastapi_app import app

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that are killed
    children = []
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            port, _, folder = line.strip().partition(" ")
            served = with_login(folder) if folder else app
            uvicorn.run(served, host="127.0.0.1", port=int(port), log_level="error")
            os._exit(0)
        children.append(child)
        print(child, flush=True)
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    main()
