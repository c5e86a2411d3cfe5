"""Told when it ends: a command and a web address are given the outcome, and neither can change it."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ssl_core.system.errors import ConfigError
from tests.tune.helpers import Done, shapes_options, words_of
from tune.definition.request import SearchRequest
from tune.errors import Exit, ServiceError
from tune.launch.telling import ending
from tune.launch.telling.ending import run_command, send, telling
from tune.store.home import Home

Command = Callable[..., Done]


@contextmanager
def server(*codes: int) -> Iterator[tuple[str, list[Any]]]:
    """An HTTP server on loopback that gives these answers in turn, the last one again and again."""
    answers, taken = list(codes), list[Any]()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(answers.pop(0) if len(answers) > 1 else answers[0])
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{served.server_port}/hook/secret", taken
    finally:
        served.shutdown()
        thread.join()
        served.server_close()


@contextmanager
def silent() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/hook/secret"


def test_an_address_is_tried_again_until_it_takes_the_outcome() -> None:
    with server(503, 429, 200) as (address, taken):
        assert send(address, '{"state": "finished"}', pauses=(0.0, 0.0, 0.0)) is None
    assert taken == [{"state": "finished"}] * 3


@pytest.mark.parametrize(("code", "tries"), [(404, 1), (302, 1), (500, 3)])
def test_a_refusal_is_said_and_only_what_may_pass_is_tried_again(code: int, tries: int) -> None:
    with server(code) as (address, taken):
        problem = send(address, "{}", pauses=(0.0, 0.0))
    assert problem is not None and f"answers {code}" in problem and "secret" not in problem
    assert len(taken) == tries


def test_an_address_that_hangs_is_given_up() -> None:
    with silent() as address:
        began = time.monotonic()
        problem = send(address, "{}", pauses=(0.0,), silence=0.2)
        assert problem is not None and "timed out" in problem
        assert "had not answered after 0.3 s" in (send(address, "{}", silence=60.0, seconds=0.3) or "")
        assert time.monotonic() - began < 30
    assert "cannot be reached" in (send(address, "{}", pauses=()) or "")


def test_a_command_reads_the_outcome_and_is_ended_where_it_hangs(tmp_path: Path) -> None:
    assert run_command(f"cat > {tmp_path}/a.json", '{"n": 1}') is None
    assert json.loads((tmp_path / "a.json").read_text()) == {"n": 1}
    assert run_command("exit 3", "x" * 10**6) == "the command ended with exit code 3"  # and reads nothing
    mark = tmp_path / "late"
    began = time.monotonic()
    problem = run_command(f"(sleep 3; touch {mark}) & sleep 60", "{}", seconds=0.3)
    assert problem == "the command had not ended after 0.3 s and was ended"
    time.sleep(max(0.0, 3.5 - (time.monotonic() - began)))
    assert not mark.exists()  # nor does what it had started go on


def test_what_has_begun_is_told_however_it_ends(tmp_path: Path) -> None:
    file, said = tmp_path / "told.json", list[str]()
    with pytest.raises(ServiceError), telling(f"cat > {file}", None, said.append) as told:
        raise ServiceError("nothing was there yet", Exit.UNREACHABLE)
    assert not file.exists()
    with pytest.raises(ServiceError), telling(f"cat > {file}", None, said.append) as told:
        told.outcome = lambda: {"study": "a", "best": float("nan")}
        raise ServiceError("postgresql://me:secret@host/db does not answer", Exit.STORAGE)
    document = json.loads(file.read_text())
    assert document.pop("time") and document == {
        "study": "a",
        "best": None,
        "exit_code": 6,
        "error": "postgresql://me:***@host/db does not answer",
    }
    with telling("exit 1", None, said.append) as told:
        told.outcome = dict
    assert said == ["--on-end: the command ended with exit code 1; the outcome stays what it is"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"webhook": "file:///etc/passwd"}, "begins with http"),
        ({"webhook": "hooks.example.org/secret"}, "begins with http"),
        ({"on_end": "  "}, "--on-end is empty"),
    ],
)
def test_what_cannot_be_told_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        SearchRequest(**options)
    assert "secret" not in str(error.value)


def test_a_search_tells_of_its_end_and_its_outcome_stays(
    local_ray: None,
    ready_home: Home,
    pictures: Path,
    ssl_tune: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(ending, "WEBHOOK_SECONDS", 0.3)
    options = shapes_options(ready_home, pictures) | {"epochs": 2, "trials": 1}
    with silent() as address:
        done = ssl_tune(
            "search",
            *words_of(options),
            "--webhook",
            address,
            "--on-end",
            f"cat > {tmp_path}/told.json; false",
        )
    assert done.code == 0
    assert "--webhook: 127.0.0.1 had not answered" in done.err and "secret" not in done.err + done.out
    assert "--on-end: the command ended with exit code 1" in done.err
    told = json.loads((tmp_path / "told.json").read_text())
    assert (told["kind"], told["study"], told["state"], told["exit_code"]) == (
        "study",
        "shapes",
        "finished",
        0,
    )
    assert told["best"]["trial"] == "0" and told["confirmation"] is None and told["carry_on"] is None
    monkeypatch.setenv("SSL_TUNE_ON_END", f"cat > {tmp_path}/again.json")
    assert ssl_tune("resume", "shapes").code == 0
    assert not (tmp_path / "again.json").exists()  # it had ended before
