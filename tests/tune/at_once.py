"""Senders, and processes that draw figures, at normal priority: they do not wait for all tests that run beside them.

In use they give way to training (`tune.delivery.sender`, `tune.figures.draw`). On processors that other tests keep busy
a test then waits minutes for a second of work. The processes are real ones of their own; drivers in processes of their
own start theirs as users do.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any

SENDER = """
import sys
from tests.tune.at_once import started_at_once
from tune.delivery import drawing, sender
sender.NICE, sender.LOAD_SECONDS, drawing.Popen = 0, 0.0, started_at_once
sys.exit(sender.main(sys.argv[1:]))
"""
DRAW = """
import os, runpy
os.nice = lambda more: 0
runpy.run_module("tune.figures.draw", run_name="__main__", alter_sys=True)
"""
SCRIPTS = {"tune.delivery.sender": SENDER, "tune.figures.draw": DRAW}


def started_at_once(words: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """In the place of `Popen`: a process `python -m MODULE ARGUMENTS` of SCRIPTS."""
    place = words.index("-m")
    return subprocess.Popen([*words[:place], "-c", SCRIPTS[words[place + 1]], *words[place + 2 :]], **options)
