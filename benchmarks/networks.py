"""What networks cost: parameters, a step of training and memory, for the table in docs/networks.md.

    python -m benchmarks.networks
    python -m benchmarks.networks --network resnet18 --side 96

A step is FixMatch's on 16 labelled and 48 unlabelled images, each of these in two views: 112 images forward and
backward, update and average. Its processor time is the least of a few steps on one thread, so that other work on the
machine counts little. Memory is the largest resident set of the process less that before the network was built. Each
network is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MEASURED = (
    ("wrn-10-1", 32),
    ("wrn-28-2", 32),
    ("resnet18", 32),
    ("resnet18", 64),
    ("resnet18", 96),
    ("resnet50", 64),
    ("torchvision:mobilenet_v3_small", 64),
    ("timm:vit_tiny_patch16_224", 64),
    ("timm:vit_tiny_patch16_224", 224),
)
STEPS = 2


def measure(network: str, side: int, precision: str) -> dict[str, Any]:
    """One row, measured in this process."""
    from benchmarks.setting import cell_of, config_of, data_of
    from ssl_core.methods.base import Progress
    from ssl_core.training.run import Run
    from ssl_core.training.step import finite_guard, train_step

    cell = cell_of(
        method="fixmatch", network=network, side=side, batch_size=16, mu=3, steps=1, precision=precision
    )
    data, split = data_of(cell)
    config = config_of(cell, data)
    before = _largest()
    run = Run(config, data, split)
    run.begin_epoch(1)
    guard, seconds = finite_guard(run, 1), []
    for step in range(STEPS + 1):
        began = time.process_time()
        train_step(run, Progress(step, config.total_steps, step, 1, 1), guard)
        seconds.append(time.process_time() - began)
    return {
        "network": network,
        "side": side,
        "stem": config.backbone.stem,
        "precision": config.precision,
        "parameters": sum(p.numel() for p in run.network.parameters()),
        "step_seconds": min(seconds[1:]),
        "memory_mib": (_largest() - before) / 1024,
    }


def _largest() -> int:
    """The largest resident set of this process so far, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--network", help="this one alone")
    parser.add_argument("--side", type=int, default=32, help="of its images, in pixels")
    parser.add_argument("--precision", default="auto")
    parser.add_argument(
        "--one", action="store_true", help="measure in this process, and print a line of JSON"
    )
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.network, options.side, options.precision)))
        return
    print(
        "| network | image | parameters | processor time of a step | memory |",
        "|---|---|---|---|---|",
        sep="\n",
    )
    for network, side in [(options.network, options.side)] if options.network else MEASURED:
        words = ["--one", "--network", network, "--side", str(side), "--precision", options.precision]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.networks", *words],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        row = json.loads(done.stdout)
        stem = "" if row["stem"] == "auto" else f", {row['stem']} stem"
        print(
            f"| {network}{stem} | {side} | {row['parameters'] / 1e6:.2f} M | {row['step_seconds']:.2f} s "
            f"| {row['memory_mib']:.0f} MiB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
