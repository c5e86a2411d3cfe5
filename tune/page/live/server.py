"""The live page's server: on loopback, for reading alone."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tune.errors import ServiceError, without_passwords
from tune.findings.study import Study
from tune.page.live.content import LiveStudy
from tune.page.template import page

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
KEEP_SECONDS = 0.5
"""So long a page that was drawn is given to others that ask: several browsers cost as much as one."""


class LivePage:
    """A study's page as HTML, drawn at most every half second.

    Args:
        study: the study.
    """

    def __init__(self, study: Study, clock: Callable[[], float]) -> None:
        self._live, self._clock = LiveStudy(study), clock
        self._lock = threading.Lock()
        self._drawn: tuple[float, str, str] | None = None

    def get(self) -> tuple[str, str]:
        """The page, and the nonce of its script.

        Raises:
            ServiceError: the study cannot be read.
        """
        with self._lock:
            if self._drawn is None or self._clock() - self._drawn[0] >= KEEP_SECONDS:
                nonce = secrets.token_urlsafe(16)
                text = page(self._live.content(), nonce)
                self._drawn = (self._clock(), text, nonce)
            return self._drawn[1], self._drawn[2]


def main_of(text: str) -> str:
    """What is inside of the page's ``main``."""
    return text.partition("<main>")[2].rpartition("</main>")[0]


class _Handler(BaseHTTPRequestHandler):
    """Answers GET of the page and of its inside; nothing else."""

    live: LivePage

    def do_GET(self) -> None:
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if self.server.only_loopback and host not in LOOPBACK:  # type: ignore[attr-defined]
            self._answer(403, f"this page is served to this machine alone, not as {host}", "text/plain")
            return
        path = self.path.partition("?")[0]
        if path not in ("/", "/main"):
            self._answer(404, "there is nothing here", "text/plain")
            return
        try:
            text, nonce = self.live.get()
        except ServiceError as error:
            self._answer(503, without_passwords(str(error)), "text/plain")
            return
        self._answer(200, text if path == "/" else main_of(text), "text/html", nonce)

    def _answer(self, code: int, text: str, kind: str, nonce: str = "") -> None:
        body = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'nonce-{nonce}'; "
        self.send_header("Content-Security-Policy", policy + "connect-src 'self'; frame-ancestors 'none'")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not printed: there is one every two seconds."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    only_loopback = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no news."""


@contextmanager
def serving(study: Study, host: str, port: int, clock: Callable[[], float]) -> Iterator[str]:
    """Serve a study's page for the length of a block; gives its address.

    Args:
        study: the study.
        host: the address to listen on; one of loopback is asked for by a name of loopback alone.
        port: 0: any that is free.
        clock: seconds, for how long a page is kept.
    """
    handler = type("Handler", (_Handler,), {"live": LivePage(study, clock)})
    server = _Server((host, port), handler)
    server.only_loopback = host in LOOPBACK
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
