"""Training speed, images/s: this project's step, the usual recipe, and the bare model, which is the limit.

    make bench                                            # this table and the others (docs/results.md)
    python benchmarks/train_step.py --json                # the same, one object a row
    python benchmarks/train_step.py --all                 # all of the recipe, and weak views in a pass of their own
    python benchmarks/train_step.py --methods fixmatch --networks wrn-28-2 --rounds 5
    python benchmarks/train_step.py --device cuda         # with the memory peak

There are three contenders, each in a process of its own: `own_step`, `plain_recipe` and `bare_model` say what each
does. They take turns, a slice of a few steps each, so that other work on the machine affects all of them; the order
changes, too. Rates are medians over the rounds, ratios are medians of the rounds' own ratios. An image counts once for
each of its views that is trained on: 960 a step for FixMatch at batch 64, mu 7. Relabelling counts as time, not as
images.

The share of the matrix rate is the multiplications and additions of the bare passes (as torch counts them) at this
project's speed, over those of a large matrix product on this machine with as many threads in the same precision.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

if not __package__:  # called by its path, as python benchmarks/train_step.py
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.setting import Cell, cell_of
from ssl_core.system.errors import ConfigError

Name = Literal["ours", "plain", "bare"]
NAMES: tuple[Name, ...] = ("ours", "plain", "bare")
METHODS = ("fixmatch", "supervised", "pseudo_label", "vat")
NETWORKS = ("wrn-10-1", "wrn-28-2")
SEPARATE = {"weak_forward": "separate"}
"""Parameters of the variant whose weak views go through the network in a pass of their own."""
COMPILE: dict[str, str | bool] = {"auto": "auto", "on": True, "off": False}
MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}


@dataclass(frozen=True)
class Row:
    """What was measured of a cell.

    Attributes:
        cell: which.
        rates: images/s of each contender, one a round.
        flops: of a slice's bare passes.
        slice_images: images of a slice of `ours`.
        matrix_rate: FLOP/s of a large matrix product here.
        peak_bytes: of `ours` on a GPU; 0 on a CPU.
    """

    cell: Cell
    rates: dict[Name, list[float]]
    flops: int
    slice_images: int
    matrix_rate: float
    peak_bytes: int

    def rate(self, name: Name) -> float:
        """Images/s, the median of the rounds."""
        return statistics.median(self.rates[name])

    def ratio(self, one: Name, other: Name) -> float:
        """How many times as fast, the median of the rounds' ratios."""
        return statistics.median(a / b for a, b in zip(self.rates[one], self.rates[other], strict=True))

    @property
    def matrix_share(self) -> float:
        """What `ours` makes of the matrix rate."""
        return self.flops / self.slice_images * self.rate("ours") / self.matrix_rate

    def document(self) -> dict[str, Any]:
        """As plain data, with what the table shows."""
        cell = asdict(self.cell)
        first = {name: cell.pop(name) for name in ("method", "network", "device", "precision", "compile")}
        return first | {
            "images_per_second": self.rate("ours"),
            "recipe_images_per_second": self.rate("plain"),
            "bare_images_per_second": self.rate("bare"),
            "ratio_to_recipe": self.ratio("ours", "plain"),
            "ratio_to_bare": self.ratio("ours", "bare"),
            "bare_to_recipe": self.ratio("bare", "plain"),
            "matrix_share": self.matrix_share,
            "matrix_rate": self.matrix_rate,
            "peak_bytes": self.peak_bytes,
            "rounds": {"ours": self.rates["ours"], "recipe": self.rates["plain"], "bare": self.rates["bare"]},
            "setting": cell,
        }


def measure(cells: Sequence[Cell], rounds: int) -> Iterator[Row]:
    """Measure cell by cell; the contenders' processes serve them all."""
    with contenders() as servers:
        for cell in cells:
            for name in NAMES:
                servers[name].ask("prepare", cell)
            # One after another: a first slice is slow, and is not measured. The bare model's is counted.
            servers["ours"].ask("slice")
            servers["plain"].ask("slice")
            flops = servers["bare"].ask("flops")
            matrix_rate = servers["bare"].ask("matrix_rate")
            rates: dict[Name, list[float]] = {name: [] for name in NAMES}
            slice_images = 0
            for number in range(rounds):
                for name in NAMES[number % 3 :] + NAMES[: number % 3]:
                    images, seconds = servers[name].ask("slice")
                    rates[name].append(images / seconds)
                    slice_images = images if name == "ours" else slice_images
            yield Row(cell, rates, flops, slice_images, matrix_rate, servers["ours"].ask("peak_bytes"))


class Server:
    """A contender in a process of its own, which does as it is asked."""

    def __init__(self, name: Name) -> None:
        # A server that has loaded torch and computed nothing is forked: no thread of torch's is lost by it.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            ["benchmarks.own_step", "benchmarks.plain_recipe", "benchmarks.bare_model"]
        )
        self._connection, far = context.Pipe()
        # Not a daemon: the plain recipe's loaders have processes of their own.
        self._process = context.Process(target=_serve, args=(name, far))
        self._process.start()
        far.close()

    def ask(self, verb: str, *arguments: Any) -> Any:
        """Have something done and wait for what comes of it.

        Raises:
            RuntimeError: what went wrong there.
        """
        self._connection.send((verb, arguments))
        try:
            error, value = self._connection.recv()
        except EOFError:
            raise RuntimeError(f"the process that was asked for {verb} is gone (out of memory?)") from None
        if error:
            raise RuntimeError(error)
        return value

    def end(self) -> None:
        """Let the process go."""
        self._connection.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.terminate()


@contextmanager
def contenders() -> Iterator[dict[Name, Server]]:
    """All three, and their ends."""
    servers: dict[Name, Server] = {}
    try:
        for name in NAMES:
            servers[name] = Server(name)
        yield servers
    finally:
        for server in servers.values():
            server.end()


def _serve(name: Name, connection: Connection) -> None:
    from benchmarks.bare_model import BareModel
    from benchmarks.own_step import OwnStep
    from benchmarks.plain_recipe import PlainRecipe

    multiprocessing.set_start_method("fork", force=True)  # for the plain recipe's workers: Linux's own way
    makers: dict[Name, Any] = {"ours": OwnStep, "plain": PlainRecipe, "bare": BareModel}
    contender: Any = None
    while True:
        try:
            verb, arguments = connection.recv()
        except EOFError:
            return
        try:
            if verb == "prepare":
                contender, value = None, None  # the one before is freed first
                contender = makers[name](*arguments)
            elif verb == "matrix_rate":
                value = matrix_rate(contender.cell.device, contender.cell.precision)
            else:
                value = getattr(contender, verb)()
            connection.send((None, value))
        except Exception:
            connection.send((traceback.format_exc(), None))


@cache  # one run has one device, one precision and one number of threads
def matrix_rate(device: str, precision: str) -> float:
    """FLOP/s of the best of several large matrix products, with this process's threads."""
    import torch

    side, best = MATRIX_SIDE[device], float("inf")
    one, other = (torch.rand((side, side), device=device, dtype=getattr(torch, precision)) for _ in "ab")
    for _ in range(4):
        began = time.perf_counter()
        product = one @ other
        float(product[0, 0])  # waits for a GPU
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def table(rows: Iterable[Row], on_gpu: bool) -> Iterator[str]:
    """The table, in Markdown, line by line as the rows come."""
    columns = ["method", "network", "ours", "plain", "bare", "ours / plain", "ours / bare", "bare / plain"]
    columns += ["of the matrix rate", *(["peak, MiB"] if on_gpu else [])]
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for row in rows:
        separate = ", separate" if row.cell.parameters == SEPARATE else ""
        cells = [row.cell.method + separate, row.cell.network, *(f"{row.rate(name):.0f}" for name in NAMES)]
        cells += [f"{row.ratio('ours', 'plain'):.2f}", f"{row.ratio('ours', 'bare'):.2f}"]
        cells += [f"{row.ratio('bare', 'plain'):.2f}", f"{row.matrix_share:.0%}"]
        cells += [f"{row.peak_bytes / 2**20:.0f}"] if on_gpu else []
        yield f"| {' | '.join(cells)} |"


def head(cells: Sequence[Cell], rounds: int) -> str:
    """What was measured, and on what."""
    from ssl_core.system.environment import fingerprint

    cell, machine = cells[0], fingerprint(cells[0].device)
    steps = " or ".join(str(number) for number in dict.fromkeys(c.steps for c in cells))
    return (
        f"images/s; batch {cell.batch_size}, mu {cell.mu}, {cell.side}x{cell.side} pixels, {cell.precision}, "
        f"{'compiled' if cell.compile else 'not compiled'}, {cell.threads} threads, {cell.workers} workers a loader; "
        f"median of {rounds} slices of {steps} steps\n"
        f"{machine['processor']}, torch {machine['torch']}\n"
    )


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--methods", nargs="+", help=f"default: {' '.join(METHODS)}")
    parser.add_argument(
        "--all",
        action="store_true",
        help="every method that the plain recipe has, and the FixMatch family with separate passes, too",
    )
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--batch", type=int, default=64, help="labelled images of a step")
    parser.add_argument("--mu", type=int, default=7, help="unlabelled images, in multiples of them")
    parser.add_argument(
        "--steps",
        type=int,
        help="of a slice; default: 20 on a GPU, else 4 for wrn-10-1 and 1 for larger networks",
    )
    parser.add_argument("--rounds", type=int, default=5, help="slices of each contender")
    parser.add_argument("--threads", type=int, default=cores, help="of each contender")
    parser.add_argument("--workers", type=int, default=2, help="of each of the plain recipe's loaders")
    parser.add_argument("--side", type=int, default=32, help="of the images, in pixels")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16", "float64"], default="auto")
    parser.add_argument("--compile", choices=list(COMPILE), default="auto")
    parser.add_argument("--json", action="store_true", help="print plain data instead of the table")
    return parser


def cells_of(options: argparse.Namespace) -> list[Cell]:
    """What is to be measured.

    Raises:
        ConfigError: a method or network that is not known; a device, precision or compiler that this machine lacks.
    """
    from benchmarks.plain_recipe import METHODS as WITH_RECIPE
    from ssl_core.registry import get_method

    methods = options.methods or (sorted(WITH_RECIPE) if options.all else METHODS)
    cells = []
    for network in options.networks:
        for method in methods:
            variants: list[dict[str, Any]] = [{}]
            if options.all and "weak_forward" in get_method(method).Config.model_fields:
                variants.append({"parameters": SEPARATE})
            cells += [_cell_of(options, method, network, variant) for variant in variants]
    return cells


def _cell_of(options: argparse.Namespace, method: str, network: str, variant: dict[str, Any]) -> Cell:
    cell = cell_of(
        method=method,
        network=network,
        batch_size=options.batch,
        mu=options.mu,
        steps=options.steps or (4 if network == "wrn-10-1" else 1),
        threads=options.threads,
        workers=options.workers,
        side=options.side,
        device=options.device,
        precision=options.precision,
        compile=COMPILE[options.compile],
        **variant,
    )
    return replace(cell, steps=20) if cell.device == "cuda" and not options.steps else cell


def main(arguments: Sequence[str] | None = None) -> None:
    command = parser()
    options = command.parse_args(arguments)
    try:
        cells = cells_of(options)
    except ConfigError as error:
        command.error(str(error))
    rows = measure(cells, options.rounds)
    if options.json:
        print(json.dumps([row.document() for row in rows], indent=1))
        return
    print(head(cells, options.rounds))
    for line in table(rows, on_gpu=cells[0].device == "cuda"):
        print(line, flush=True)


if __name__ == "__main__":
    main()
