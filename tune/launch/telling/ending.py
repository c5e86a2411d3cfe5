"""Tell somebody that a study or a comparison has ended: a command of the user's, and a web address.

Both are given the outcome as JSON. Neither can do harm: what fails, or hangs, is said in a line, and the study's
outcome and exit code are what they were. Nothing is held meanwhile, so the next driver need not wait.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tune.definition.request import ON_END, WEBHOOK
from tune.errors import Exit, ServiceError, without_passwords
from tune.findings.confirmation import confirmed
from tune.findings.study import Study

COMMAND_SECONDS = 60.0
"""How long the command may take before it is ended."""
ATTEMPT_SECONDS, WEBHOOK_SECONDS = 10.0, 45.0
"""How long the address may stay silent at a try, and how long all of it may take."""
_PAUSES = (1.0, 3.0, 9.0)
_AGAIN = (408, 425, 429)
"""Of the answers that refuse (400 to 499) those that ask for another try (RFC 9110, 15.5.9; RFC 8470; RFC 6585)."""


class Ending:
    """What has ended, and how: filled in as it is known.

    Attributes:
        outcome: gives the document that is told, once something has begun; None: nothing has, and nobody is told.
        code: what the command exits with.
        error: what is said of it, where it ended with an error.
    """

    def __init__(self) -> None:
        self.outcome: Callable[[], Mapping[str, Any]] | None = None
        self.code = Exit.DONE
        self.error: str | None = None


@contextmanager
def telling(on_end: str | None, webhook: str | None, say: Callable[[str], None]) -> Iterator[Ending]:
    """For the block that runs something: tell of its end, however it ends.

    Args:
        on_end: the command; None: SSL_TUNE_ON_END, where it is set.
        webhook: the address; None: SSL_TUNE_WEBHOOK, where it is set.
        say: told what could not be told.
    """
    ending = Ending()
    try:
        yield ending
    except ServiceError as error:
        ending.code, ending.error = error.code, str(error)
        raise
    except BaseException as error:
        ending.error = f"{type(error).__name__}: {error}"
        raise
    finally:
        command, address = on_end or os.environ.get(ON_END), webhook or os.environ.get(WEBHOOK)
        if ending.outcome is not None and (command or address):
            _tell(ending, command, address, say)


def study_outcome(folder: Path) -> dict[str, Any]:
    """What is told of a study: its status, its confirmation where it has one, and how to carry it on.

    Args:
        folder: the study's.

    Raises:
        DamagedError: a file of it is damaged.
    """
    study = Study(folder)
    status = study.status()
    carry_on = None if status["state"] == "finished" else study.folder.command("resume")
    return {"kind": "study", **status, "confirmation": confirmed(study.folder), "carry_on": carry_on}


def _tell(ending: Ending, command: str | None, address: str | None, say: Callable[[str], None]) -> None:
    assert ending.outcome is not None
    try:
        document = {**ending.outcome(), "exit_code": int(ending.code)}
    except Exception as error:  # a damaged study: that it has ended is told all the same
        document = {"exit_code": int(ending.code), "problem": f"{type(error).__name__}: {error}"}
    if ending.error is not None:
        document["error"] = without_passwords(ending.error)
    document["time"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    text = json.dumps(
        json.loads(json.dumps(document, default=str), parse_constant=lambda _: None)
    )  # NaN: null
    if command and (problem := run_command(command, text)) is not None:
        say(f"--on-end: {problem}; the outcome stays what it is")
    if address and (problem := send(address, text, seconds=WEBHOOK_SECONDS)) is not None:
        say(f"--webhook: {problem}; the outcome stays what it is")


def run_command(command: str, text: str, seconds: float = COMMAND_SECONDS) -> str | None:
    """Run a command in the shell, with a text on its standard input; what went wrong, or None.

    What it prints goes to standard error, so that standard output stays the program's own.

    Args:
        command: for ``sh -c``.
        text: what it reads.
        seconds: after which it is ended, with all that it has started.
    """
    try:
        process = subprocess.Popen(
            command, shell=True, stdin=subprocess.PIPE, stdout=2, text=True, start_new_session=True
        )
    except OSError as error:
        return f"the command cannot be started ({error.strerror})"
    try:
        process.communicate(text, timeout=seconds)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"the command had not ended after {seconds:g} s and was ended"
    except BrokenPipeError:  # it does not read what it is given
        process.wait()
    return None if process.returncode == 0 else f"the command ended with exit code {process.returncode}"


def send(
    address: str,
    text: str,
    *,
    pauses: tuple[float, ...] = _PAUSES,
    silence: float = ATTEMPT_SECONDS,
    seconds: float = WEBHOOK_SECONDS,
) -> str | None:
    """POST a JSON text to an address, several times where it does not take it; what went wrong at last, or None.

    The address may be a secret: no message has more of it than the server's name.

    Args:
        address: begins with http:// or https://.
        text: the JSON.
        pauses: seconds between two tries: there is one try more than there are pauses.
        silence: seconds that the server may stay silent within a try.
        seconds: after which it is given up in any case; a server that sends a byte now and then is never silent.
    """
    said: list[str | None] = [f"{urlsplit(address).hostname} had not answered after {seconds:g} s"]
    thread = threading.Thread(target=_tries, args=(address, text, pauses, silence, said), daemon=True)
    thread.start()
    thread.join(seconds)
    return said[-1]


def _tries(
    address: str, text: str, pauses: tuple[float, ...], silence: float, said: list[str | None]
) -> None:
    """Try, and add what came out each time to `said`."""
    server = urlsplit(address).hostname
    for pause in (*pauses, None):
        problem, final = _try(address, text, silence)
        said.append(None if problem is None else f"{server}: {problem}")
        if final or pause is None:
            return
        time.sleep(pause)


def _try(address: str, text: str, silence: float) -> tuple[str | None, bool]:
    """What went wrong, or None; and whether another try would come to the same."""
    headers = {"Content-Type": "application/json", "User-Agent": "ssl-tune"}
    request = urllib.request.Request(address, text.encode(), headers, method="POST")
    try:
        with _opener().open(request, timeout=silence) as answer:
            answer.read(1000)
        return None, True
    except urllib.error.HTTPError as error:
        return f"it answers {error.code} {error.reason}", 300 <= error.code < 500 and error.code not in _AGAIN
    except (
        OSError,
        ValueError,
    ) as error:  # URLError is an OSError; an answer that is no HTTP may be a ValueError
        return f"it cannot be reached ({getattr(error, 'reason', None) or error})", False
    except Exception as error:  # http.client's own errors have no common base but this
        return f"its answer cannot be read ({type(error).__name__})", False


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would turn the POST into a GET, and could lead to a file."""

    def redirect_request(self, *arguments: Any, **more: Any) -> None:
        return None


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_NoRedirect)
