"""Run the commands of docs/tutorial.md as they are written, and write what they print back into the page.

    python -m benchmarks.tutorial            # minutes: trains and searches for real; rewrites the page
    python -m benchmarks.tutorial --list     # the commands, runs nothing

The page's ``console`` blocks hold commands after ``$`` and, below them, what they print. They run in order in one
fresh folder, so that each finds the files of the earlier ones. A command that fails ends the run.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHOWN_LINES = 40
DEMO = "~/demo"
SKIPPED = ("python3 -m venv", ". .venv", "pip install", "ssl-tune ui")
"""Beginnings of commands that are shown and not run here: the install is this one, and the UI does not end."""


@dataclass(frozen=True)
class Command:
    """A command of the page and what is written below it."""

    text: str
    output: str


def commands(block: str) -> Iterator[Command]:
    """The commands of a block; a line that ends in a backslash goes on."""
    text, output = "", list[str]()
    for line in block.splitlines():
        if line.startswith("$ "):
            if text:
                yield Command(text, "\n".join(output))
            text, output = line[2:], []
        elif text.endswith("\\") and not output:
            text += f"\n{line}"
        else:
            output.append(line)
    if text:
        yield Command(text, "\n".join(output))


def all_commands() -> list[Command]:
    """Every command of the page, in order."""
    page = PAGE.read_text(encoding="utf-8")
    return [command for block in BLOCK.findall(page) for command in commands(block)]


def words(command: Command) -> list[str]:
    """A command as a shell would split it."""
    return shlex.split(command.text.replace("\\\n", " "))


def is_run(command: Command) -> bool:
    """Whether the command is run here."""
    return not command.text.startswith(SKIPPED)


def run(command: Command, folder: Path) -> str:
    """Run a command; what it prints, as the page shows it.

    Raises:
        SystemExit: it failed.
    """
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "120",
    }
    for name in ("SSL_TUNE_HOME", "SSL_TUNE_DATA", "MLFLOW_TRACKING_URI"):
        environment.pop(name, None)
    print(f"$ {command.text}", flush=True)
    done = subprocess.run(
        command.text,
        shell=True,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(done.stdout, flush=True)
    if done.returncode != 0:
        sys.exit(f"it ended with exit code {done.returncode}")
    return shortened(at_home(done.stdout, str(folder.resolve())).rstrip())


def at_home(text: str, folder: str) -> str:
    """What was printed in a folder as if it were ~/demo; the cells of tables keep their width."""
    gap = " " * (len(folder) - len(DEMO))
    in_cell = re.compile(rf"{re.escape(folder)}([^│\n]*)│")
    return in_cell.sub(rf"{DEMO}\1{gap}│", text).replace(folder, DEMO)


def shortened(text: str) -> str:
    """Long output without its middle."""
    lines = [line.rstrip() for line in text.splitlines()]
    if len(lines) <= SHOWN_LINES:
        return "\n".join(lines)
    half = SHOWN_LINES // 2
    return "\n".join([*lines[:half], f"[{len(lines) - 2 * half} lines left out]", *lines[-half:]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--list", action="store_true", help="print the commands, run nothing")
    options = parser.parse_args()
    if options.list:
        print("\n".join(command.text for command in all_commands()))
        return
    page, began = PAGE.read_text(encoding="utf-8"), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tutorial-") as name:

        def again(match: re.Match[str]) -> str:
            shown = []
            for command in commands(match[1]):
                output = run(command, Path(name)) if is_run(command) else command.output
                shown.append(f"$ {command.text}" + (f"\n{output}" if output else ""))
            return "```console\n" + "\n".join(shown) + "\n```"

        page = BLOCK.sub(again, page)
    PAGE.write_text(page, encoding="utf-8")
    print(f"the whole page took {(time.monotonic() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
