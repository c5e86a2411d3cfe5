"""A real MLflow server on a real PostgreSQL, both on loopback, and a gate in front of it that lets things go wrong."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.tune.tracked import POINTS, Store

PASSWORD = "a-pass/word of 1 test"
POSTGRES_BINARIES = "/usr/lib/postgresql"  # where Debian puts them, a folder for each version


def needed(what: str, found: object, remedy: str) -> None:
    """Skip with the reason what this machine lacks; where SSL_TUNE_REQUIRE names it, fail."""
    if found:
        return
    message = f"{what} is not here: {remedy}"
    if what in os.environ.get("SSL_TUNE_REQUIRE", "").split(","):
        pytest.fail(message)
    pytest.skip(message)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def postgres_binaries() -> Path | None:
    """The folder of the newest PostgreSQL's programs."""
    found = sorted(Path(POSTGRES_BINARIES).glob("*/bin/initdb"), key=lambda p: int(p.parent.parent.name))
    program = found[-1] if found else shutil.which("initdb")
    return Path(program).parent if program else None


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL server on loopback with data of its own; yields its database's URI."""
    binaries = postgres_binaries()
    needed("postgres", binaries, "apt-get install postgresql")
    assert binaries is not None
    folder = Path(tempfile.mkdtemp(prefix="ssl-tune-postgres-"))
    # PostgreSQL refuses to run as root; the package brings a user for it.
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    if user:
        shutil.chown(folder, "postgres", "postgres")
    data, port = folder / "data", free_port()
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": "",
        "fsync": "off",  # it dies with the test
        "max_connections": 50,
    }

    def run(program: str, *words: object) -> None:
        command = [*user, str(binaries / program), *map(str, words)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")

    try:
        run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        run("pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start")
        try:
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)


class MlflowServer:
    """An MLflow server that can be killed, frozen and started again.

    Args:
        database: the URI of its database.
        artifacts: the folder of its artifacts.
    """

    def __init__(self, database: str, artifacts: Path) -> None:
        self.database = database
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._pids: dict[int, int] = {}  # by port
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
        environment["MLFLOW_AUTH_ADMIN_PASSWORD"] = PASSWORD
        environment.pop("MLFLOW_TRACKING_URI", None)
        script = str(Path(__file__).with_name("mlflow_server.py"))
        self.words = artifacts.with_name("server.log")
        with self.words.open("w") as words:
            self._loaded = subprocess.Popen(
                [sys.executable, "-W", "ignore", script, database, str(artifacts)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                text=True,
                env=environment,
                start_new_session=True,
            )

    def start(self) -> None:
        """Start it, if it is not there, and wait until it answers."""
        self._start(self.port, "")

    def start_with_login(self, folder: Path) -> str:
        """Start another one, whose only user is admin with PASSWORD; returns its URI."""
        port = free_port()
        self._start(port, f" {folder}")
        return f"http://127.0.0.1:{port}"

    def _start(self, port: int, words: str) -> None:
        if port not in self._pids:
            assert self._loaded.stdin is not None and self._loaded.stdout is not None
            print(f"{port}{words}", file=self._loaded.stdin, flush=True)
            self._pids[port] = int(self._loaded.stdout.readline())
        deadline = time.monotonic() + 240
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                return
            except (urllib.error.URLError, OSError):
                assert time.monotonic() < deadline, self.words.read_text()
                time.sleep(0.02)

    def kill(self) -> None:
        """End it where it stands."""
        self._signal(signal.SIGKILL)
        del self._pids[self.port]

    def freeze(self) -> None:
        """Let it hang: connections are taken, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on, with all requests that it got meanwhile."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """End it and all that belongs to it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._loaded.pid, signal.SIGKILL)
        self._loaded.communicate()

    def _signal(self, number: int) -> None:
        os.kill(self._pids[self.port], number)


class ServerStore(Store):
    """The store behind a server, looked at in its PostgreSQL database."""

    def __init__(self, server: MlflowServer) -> None:
        super().__init__(Path("/nowhere"), server.uri)
        self._dsn = server.database

    def client(self) -> Any:
        """MLflow's client on the database itself: a test that looks must not fail because the server is slow."""
        from mlflow.tracking import MlflowClient

        return MlflowClient(tracking_uri=self._dsn)

    def rows(self, run_id: str) -> list[tuple[Any, ...]]:
        """A run's points as the database has them."""
        import psycopg

        with psycopg.connect(self._dsn) as db:
            return db.execute(f"{POINTS} %s", [run_id]).fetchall()


class Gate:
    """A door on loopback in front of a server, through which calls go well, badly or not at all.

    `answer` is asked for each call, numbered from 0:

        pass    hand it on, and back what comes
        500     say so, and hand nothing on
        lose    hand it on, and close the connection without an answer
        hang    answer nothing until `release`, then hand it on all the same

    With `credentials`, calls whose Authorization header is another one are answered 401.
    """

    def __init__(self, upstream: int) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.answer: Callable[[int], str] = lambda number: "pass"
        self.credentials: str | None = None
        self.calls: list[str] = []
        self.refused = 0
        self.released = threading.Event()
        self._upstream = upstream
        self._server: ThreadingHTTPServer | None = None

    def open(self) -> None:
        """Listen."""
        gate = self
        methods = {f"do_{verb}": _handle for verb in ("GET", "POST", "PUT", "PATCH", "DELETE")}
        handler = type("Handler", (_Handler,), {"gate": gate, **methods})
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def shut(self) -> None:
        """Refuse connections."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        self._server = None

    def release(self) -> None:
        """Let the calls that hang go on."""
        self.released.set()

    def close(self) -> None:
        """Be gone."""
        self.release()
        if self._server is not None:
            self.shut()

    def hand_on(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, str, bytes]:
        """A call of the server behind: status, content type and body of its answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._upstream, timeout=60)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.headers.get("Content-Type", "text/plain"), response.read()
        finally:
            connection.close()


class _Handler(BaseHTTPRequestHandler):
    gate: Gate

    def log_message(self, format: str, *args: object) -> None:
        pass


def _handle(self: _Handler) -> None:
    gate = self.gate
    body = _body(self)
    number = len(gate.calls)
    gate.calls.append(f"{self.command} {self.path}")
    if gate.credentials is not None and self.headers.get("Authorization") != gate.credentials:
        gate.refused += 1
        _reply(self, 401, "text/plain", b"You are not authenticated.")
        return
    what = gate.answer(number)
    if what == "500":
        _reply(self, 500, "text/plain", b"out of order")
        return
    if what == "hang":
        gate.released.wait()
    try:
        headers = {name: value for name, value in self.headers.items() if name != "Transfer-Encoding"}
        answer = gate.hand_on(self.command, self.path, headers, body)
    except (OSError, http.client.HTTPException):
        answer = 502, "text/plain", b"nobody behind the gate"
    if what == "pass":
        _reply(self, *answer)


def _body(handler: _Handler) -> bytes:
    """What was sent, whole; MLflow's client sends artifacts in chunks."""
    if handler.headers.get("Transfer-Encoding") != "chunked":
        return handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
    chunks = []
    while size := int(handler.rfile.readline().partition(b";")[0], 16):
        chunks.append(handler.rfile.read(size))
        handler.rfile.readline()
    handler.rfile.readline()
    return b"".join(chunks)


def _reply(handler: _Handler, status: int, kind: str, body: bytes) -> None:
    with contextlib.suppress(OSError):  # whoever asked may have gone
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
