"""Freed memory stays with the process: counted by the page faults that asking for it again costs."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ssl_core.system import memory

ROOT = Path(__file__).parent.parent.parent
COUNT = """
import json, resource, torch
from ssl_core.system.memory import keep_freed_memory
told = {call}

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 * 2**20)  # 64 MiB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

for _ in range(20):
    faults()  # an aligned block needs a hole a little larger than the one it left: a few rounds to settle
print(json.dumps([told, faults()]))
"""
glibc = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="needs glibc")


def count(call: str, **environment: str) -> Any:
    """What `keep_freed_memory` said, and page faults of a block like others before, in a fresh process."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", COUNT.format(call=call)],
        cwd=ROOT,
        env=plain | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@glibc
def test_memory_freed_is_there_when_it_is_needed_again() -> None:
    _, without = count("None")
    told, faults = count("keep_freed_memory()")
    assert told
    assert without > 64 * 2**20 / 4096 / 2  # one for each page of 4 KiB, or at least for half of them
    assert faults < without / 100


@glibc
def test_what_the_environment_sets_is_left_alone() -> None:
    _, faults = count("keep_freed_memory()", MALLOC_MMAP_MAX_="65536", MALLOC_TRIM_THRESHOLD_="131072")
    assert faults > 64 * 2**20 / 4096 / 2


class _Musl:
    """A C library without `gnu_get_libc_version` and `mallopt`."""


@pytest.mark.parametrize("problem", [_Musl(), OSError("no library"), TypeError("Windows")])
def test_another_c_library_is_left_alone(problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: None) -> Any:
        if isinstance(problem, Exception):
            raise problem
        return problem

    monkeypatch.setattr(memory.ctypes, "CDLL", load)
    assert not memory.keep_freed_memory.__wrapped__()
