"""Ways to predict a pool of images on one core of a processor: images/s, and how far logits are from the plain way's.

    python -m benchmarks.pool_pass                        # wrn-10-1: a minute
    python -m benchmarks.pool_pass --network wrn-28-2 --images 256
    python -m benchmarks.pool_pass --compile              # torch.compile as well, which takes minutes to compile

The plain way is the network as stock code has it: contiguous, in float32, 500 images at once. Ours is channels-last;
folded, BatchNorms are part of the convolution before them (`Network.folded`). A pass is from uint8 pixels to logits;
the fastest of some counts. Nothing is trained: BatchNorm's statistics are random.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssl_core.augment.weak import normalise
from ssl_core.networks.base import Network
from ssl_core.networks.registry import build_network
from ssl_core.system.environment import has_fast_cpu_bfloat16

SIDE, PASSES, STOCK_BATCH = 32, 3, 500
BATCHES = (32, 64, 128, 256, 500)


@dataclass(frozen=True)
class Row:
    """A way: images/s, and the largest difference of a logit to the plain way's."""

    way: str
    precision: str
    batch: int
    rate: float
    difference: float


def network_of(name: str) -> Network:
    """A network in evaluation mode whose BatchNorms all do something."""
    network = build_network(name, 10, bn_momentum=0.001, seed=0, image_size=SIDE).eval().requires_grad_(False)
    random = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.3, generator=random)
            module.running_var.uniform_(0.5, 2, generator=random)
            module.weight.uniform_(0.5, 1.5, generator=random)
            module.bias.normal_(0, 0.2, generator=random)
    return network


def logits_of(network: Callable[[Tensor], Any], images: Tensor, batch: int, precision: str) -> Tensor:
    """Logits (n, C) of images (n, H, W, 3) uint8, so many at once."""
    autocast = torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else nullcontext()
    with torch.no_grad(), autocast:
        parts = torch.split(images, batch)
        return torch.cat(
            [
                network(normalise(part, (0.5,) * 3, (0.25,) * 3, torch.float32)).logits.float()
                for part in parts
            ]
        )


def measure(name: str, count: int, *, compiled: bool, passes: int = PASSES) -> Iterator[Row]:
    """A row for each way, precision and batch, the plain way first."""
    torch.set_num_threads(1)
    network = network_of(name)
    plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    images = torch.randint(
        0, 256, (count, SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )

    def stock(x: Tensor) -> Any:
        return plain(x.contiguous())

    truth = logits_of(stock, images, STOCK_BATCH, "float32")

    def row(way: str, called: Callable[[Tensor], Any], precision: str, batch: int) -> Row:
        found, seconds = logits_of(called, images, batch, precision), list[float]()
        for _ in range(passes):
            began = time.perf_counter()
            logits_of(called, images, batch, precision)
            seconds.append(time.perf_counter() - began)
        return Row(way, precision, batch, count / min(seconds), float((found - truth).abs().max()))

    yield row("plain", stock, "float32", STOCK_BATCH)
    ways: dict[str, Callable[[Tensor], Any]] = {"as it is": network, "folded": network.folded()}
    if compiled:
        ways["compiled"] = torch.compile(network, dynamic=False)
    for precision in ("float32", "bfloat16") if has_fast_cpu_bfloat16() else ("float32",):
        for way, called in ways.items():
            for batch in BATCHES:
                yield row(way, called, precision, batch)


def table(rows: Sequence[Row]) -> Iterator[str]:
    """As Markdown: a line for each way and precision, a column for each batch; the plain way is the first row."""
    plain, *others = rows
    batches = " | ".join(f"{batch} at once" for batch in BATCHES)
    yield f"| way | precision | {batches} | best / plain | logits differ by |"
    yield "|---|---|" + "---|" * (len(BATCHES) + 2)
    yield f"| plain | float32 | {' | ' * (len(BATCHES) - 1)}{plain.rate:.0f} | 1.00 | |"
    for way, precision in dict.fromkeys((row.way, row.precision) for row in others):
        own = [row for row in others if (row.way, row.precision) == (way, precision)]
        best, apart = max(row.rate for row in own) / plain.rate, max(row.difference for row in own)
        rates = " | ".join(f"{row.rate:.0f}" for row in own)
        yield f"| {way} | {precision} | {rates} | {best:.2f} | {apart:.0e} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--network", default="wrn-10-1")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--passes", type=int, default=PASSES, help="the fastest counts")
    parser.add_argument("--compile", action="store_true", help="torch.compile as well")
    options = parser.parse_args(arguments)
    rows = list(measure(options.network, options.images, compiled=options.compile, passes=options.passes))
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
