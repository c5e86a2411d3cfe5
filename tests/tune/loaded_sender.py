"""The sender process, loaded once and forked for each start: `python -m tests.tune.loaded_sender`.

Loading MLflow takes a sender two seconds of a processor, and the tests start some eighty. What runs in the fork is
`tune.delivery.sender.main`, in a process and a session of its own, with the environment, the arguments and the log
file that it was to get. The forks' parent is this process, which lives as long as the tests' own: its id takes the
place of the driver's in `--parent`. Senders of drivers in processes of their own are started as users start them.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Fork a sender for each line of standard input that asks for one; the other lines ask how one ended."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    for module in ("mlflow.tracking", "mlflow.store.tracking.sqlalchemy_store"):
        importlib.import_module(module)
    from ssl_core.system import faults
    from tune.delivery import drawing, sender

    ended: dict[int, int] = {}
    for line in sys.stdin:
        wish = json.loads(line)
        if "pid" in wish:
            pid = wish["pid"]
            if pid not in ended:
                gone, status = os.waitpid(pid, os.WNOHANG)
                if gone:
                    ended[pid] = os.waitstatus_to_exitcode(status)
            print(json.dumps(ended.get(pid)), flush=True)
            continue
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            _become(wish["environment"], wish["output"])
            importlib.reload(faults)  # it reads the environment when it is loaded
            sender.NICE = 0  # or it would wait for whatever test runs beside it
            drawing.Popen = drawn_at_once  # type: ignore[misc, assignment]
            arguments = [str(server) if word == wish["driver"] else word for word in wish["arguments"]]
            sys.exit(sender.main(arguments))
        print(pid, flush=True)


def _become(environment: Mapping[str, str], output: str) -> None:
    """Have the session, the environment and the files of a process that was started on its own."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    with Path(output).open("ab") as log, Path(os.devnull).open("rb") as nothing:
        for number, file in ((0, nothing), (1, log), (2, log)):
            os.dup2(file.fileno(), number)


AT_ONCE = """
import os, runpy
os.nice = lambda more: 0
runpy.run_module("tune.figures.draw", run_name="__main__", alter_sys=True)
"""


def drawn_at_once(words: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """The process that draws figures, in the place of `Popen`: it does not wait for whatever test runs beside it."""
    module = words.index("-m")
    assert words[module + 1] == "tune.figures.draw", words
    return subprocess.Popen([*words[:module], "-c", AT_ONCE, *words[module + 2 :]], **options)


class _Loaded:
    """The process that forks."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )
        self._asking = threading.Lock()

    def ask(self, **wish: Any) -> Any:
        """Its answer to one line."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with self._asking:
            print(json.dumps(wish), file=self._process.stdin, flush=True)
            return json.loads(self._process.stdout.readline())


@functools.cache
def _loaded() -> _Loaded:
    return _Loaded()


class ForkedSender:
    """A sender, started and looked after as by `subprocess.Popen`.

    Args:
        words: the command line: `python -P -m tune.delivery.sender` and its arguments.
        stdout: its log file.
        env: its environment.
        others: what is the same for each sender.
    """

    def __init__(
        self, words: Sequence[str], *, stdout: IO[bytes], env: Mapping[str, str], **others: object
    ) -> None:
        module = words.index("-m") + 1
        assert words[module] == "tune.delivery.sender", words
        self.args, self.returncode = words, None
        self.pid: int = _loaded().ask(
            arguments=list(words[module + 1 :]),
            driver=str(os.getpid()),
            output=str(Path(stdout.name).absolute()),
            environment=dict(env),
        )

    def poll(self) -> int | None:
        """Its exit status; None while it is at work."""
        if self.returncode is None:
            self.returncode = _loaded().ask(pid=self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; its exit status."""
        deadline = time.monotonic() + (1e9 if timeout is None else timeout)
        while self.poll() is None:
            if time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(list(self.args), timeout or 0.0)
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        """End it where it stands."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
