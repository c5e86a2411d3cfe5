"""Training speed of this checkout against another one's, in turns.

    git worktree add ../before REVISION
    python -m benchmarks.versions ../before                     # supervised and fixmatch on wrn-10-1

Each checkout trains in a process of its own, a slice of some steps at a time, and the two take turns, first one, then
the other; so other work on the machine affects both. A slice is the loop's own (`benchmarks.own_step`). The figures are
processor seconds and seconds by the clock of all slices together, this checkout's over the other's, and the quartiles
of the ratios of single slices.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

METHODS = ("supervised", "fixmatch")
STEPS, SECONDS = 8, 60.0
_CHILD = """
import sys, time
from pathlib import Path
import ssl_core
assert Path(ssl_core.__file__).is_relative_to(sys.argv[1]), ssl_core.__file__
from benchmarks.own_step import OwnStep
from benchmarks.setting import cell_of
step = OwnStep(cell_of(method=sys.argv[2], network=sys.argv[3], steps=int(sys.argv[4]), threads=int(sys.argv[5])))
for _ in sys.stdin:
    used = time.process_time()
    images, seconds = step.slice()
    print(time.process_time() - used, seconds, images, flush=True)
"""


class Checkout:
    """A process that trains with the code of a checkout.

    Args:
        root: of the checkout.
        arguments: method, network, steps of a slice, threads.
    """

    def __init__(self, root: Path, *arguments: object) -> None:
        command = [sys.executable, "-c", _CHILD, str(root), *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(root)}
        self._process = subprocess.Popen(
            command, cwd=root, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def slice(self) -> tuple[float, float, int]:
        """Train a slice; processor seconds, seconds by the clock, images.

        Raises:
            RuntimeError: the process has ended; what it said is on standard error.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        words = self._process.stdout.readline().split()
        if len(words) != 3:
            raise RuntimeError("a checkout's process has ended")
        return float(words[0]), float(words[1]), int(words[2])

    def end(self) -> None:
        """Let the process end."""
        self._process.communicate()


def compare(here: Path, there: Path, *arguments: object, seconds: float) -> str:
    """A line of the table: this checkout against another. The first round, with its imports, does not count."""
    checkouts = (Checkout(here, *arguments), Checkout(there, *arguments))
    found: tuple[list[tuple[float, float, int]], ...] = ([], [])
    try:
        ends = 0.0
        for number in itertools.count():
            if number == 1:
                ends = time.monotonic() + seconds
            if number > 2 and time.monotonic() > ends:
                break
            for which in (0, 1) if number % 2 else (1, 0):
                taken = checkouts[which].slice()
                if number:
                    found[which].append(taken)
    finally:
        for checkout in checkouts:
            checkout.end()
    processor, clock = (sum(f[k] for f in found[0]) / sum(f[k] for f in found[1]) for k in (0, 1))
    quarters = statistics.quantiles((a[0] / b[0] for a, b in zip(*found, strict=True)), n=4)
    rates = [sum(f[2] for f in each) / sum(f[1] for f in each) for each in found]
    cells = [
        *arguments[:2],
        len(found[0]),
        *(f"{rate:.0f}" for rate in reversed(rates)),
        f"{processor:.3f}",
        f"{clock:.3f}",
    ]
    return f"| {' | '.join(map(str, cells))} | {' '.join(f'{q:.3f}' for q in quarters)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("other", type=Path, help="root of the other checkout")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--network", default="wrn-10-1")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each method, about")
    parser.add_argument("--steps", type=int, default=STEPS, help="of a slice")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args(arguments)
    here = Path(__file__).resolve().parent.parent
    print(
        "| method | network | slices | other, images/s | here, images/s | processor time | clock | quartiles |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for method in options.methods:
        cell = (method, options.network, options.steps, options.threads)
        print(compare(here, options.other.resolve(), *cell, seconds=options.seconds), flush=True)


if __name__ == "__main__":
    main()
