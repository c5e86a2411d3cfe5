"""Every exit is a line and a documented code, whatever becomes of the streams, the folder or the keyboard."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tune.helpers import make_study
from tune.store.home import Home

MAIN = [sys.executable, "-c", "from tune.cli import main; main()"]


def shell(
    line: str, *words: str, folder: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A line of bash in which $RUN is the command with these words."""
    run = " ".join(f"'{word}'" for word in [*MAIN, *words])
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line.replace("$RUN", run)],
        env=os.environ | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_output_that_is_closed_is_no_error(home: Home) -> None:
    make_study(home)
    done = shell("$RUN >&-", "trials", "s", "--home", str(home.path))
    assert (done.returncode, done.stderr) == (0, "")
    done = shell("$RUN <&- >&- 2>&-", "trials", "s", "--home", str(home.path))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_output_that_nobody_reads_any_more_is_a_line_and_141() -> None:
    done = shell("$RUN | true", "methods", "--json")
    assert done.returncode in (0, 141)  # `true` may end before or after the command has written all
    wide = shell("(sleep 0.1; $RUN) | (exec <&-; sleep 5)", "methods", "--json")
    assert wide.returncode == 141
    assert wide.stderr == "ssl-tune: standard output was closed before all was written\n"


def test_output_in_ascii_shows_what_it_can(home: Home) -> None:
    make_study(home)
    ascii_only = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    for words in (["trials", "s"], ["status", "s"], ["spaces"], ["doctor"]):
        done = (
            shell("$RUN", *words, "--home", str(home.path), **ascii_only)
            if words != ["spaces"]
            else shell("$RUN", *words, **ascii_only)
        )
        assert done.returncode == 0 and "Traceback" not in done.stderr, (words, done)
    odd = shell("$RUN", "status", "größe-ß", "--home", str(home.path), **ascii_only)
    assert odd.returncode == 2 and len(odd.stderr.splitlines()) == 1, odd


def test_a_working_folder_that_was_deleted_is_one_line(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = shell(
        f"rmdir '{gone}'; $RUN", "studies", folder=gone, PYTHONPATH=str(Path(__file__).resolve().parents[3])
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "the folder in which ssl-tune was started" in done.stderr and "cd" in done.stderr


@pytest.mark.parametrize("seconds", [0.25, 0.5, 0.75, 1.0])
def test_ctrl_c_within_the_first_second_is_one_line(home: Home, seconds: float) -> None:
    """Counted from when Python runs code of the project: before that it is Python's own affair."""
    code = "import sys; sys.stdout.write('.'); sys.stdout.flush(); from tune.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "search", "--home", str(home.path), "--epochs", "90"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None and process.stdout.read(1) == "."
            time.sleep(seconds)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=240)
        finally:
            process.kill()  # a search that goes on would take the processors of all tests that follow
    assert process.returncode == 130, err
    assert "Traceback" not in err and "interrupted" in err.splitlines()[-1], err


@pytest.mark.parametrize("block", ["asking_to_stop(lambda number: None)", "resumable('a command')"])
def test_ctrl_c_that_a_library_swallows_counts_before_anything_long_begins(block: str) -> None:
    code = f"""
import os, signal
from tune.cli import main
from tune.signals import asking_to_stop, resumable
import tune.cli as cli

def command():
    try:
        os.kill(os.getpid(), signal.SIGINT)  # as while a library imports another
    except KeyboardInterrupt:
        pass
    with {block}:
        print("this would take hours")

cli._loaded = lambda: command
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, ""), done
    assert "Traceback" not in done.stderr and "interrupted" in done.stderr
