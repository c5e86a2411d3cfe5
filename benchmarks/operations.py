"""Operations of a training step that a program asks for one by one: what holds up a GPU when a step is small.

    python -m benchmarks.operations                        # supervised and fixmatch
    python -m benchmarks.operations --methods flexmatch --list

A compiled run asks for the network's passes and for a strong view with one call each. What is counted is the rest: the
top-level operations that torch's profiler sees, in the forward and the backward pass, while the network and the strong
views are replaced by stand-ins that are not counted. The stand-in of the network gives bfloat16 logits and a gradient
for every weight, as the compiled network does; handing these to the weights is part of it. Checks are deferred to the
epoch's end, as on a GPU. An epoch's own operations count with its steps: the figure is that of a whole epoch, divided
by its number of steps. The counting needs no GPU, and does not depend on the machine.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.setting import CLASSES, made_up
from ssl_core.augment.randaugment import Draws, Geometry
from ssl_core.config import from_document, resolve
from ssl_core.data.datasets import DatasetInfo, draw_split
from ssl_core.networks.base import NetworkOutput
from ssl_core.training import loop
from ssl_core.training.finite import FiniteGuard
from ssl_core.training.run import Run

METHODS = ("supervised", "fixmatch")
BEFORE = {"supervised": 69.5, "fixmatch": 190.6}
"""Operations a step in version 0.1.0."""
STEPS = 32
"""Of an epoch: the fewest that a run has where none are given."""
BATCH, MU, SIDE, LABELLED_PER_CLASS = 8, 7, 8, 40
STAND_IN = "stand-in"
_NOT_COUNTED = (STAND_IN, "torch::autograd::AccumulateGrad")


class _Passes(torch.autograd.Function):
    """Stands in for the network: logits without computation, and a gradient for every weight."""

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(*weights)
        with record_function(STAND_IN):
            return images.flatten(1)[:, :CLASSES].to(torch.bfloat16)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        with record_function(STAND_IN):
            return None, *(torch.zeros_like(weight) for weight in ctx.saved_tensors)


def run_of(method: str, steps: int = STEPS) -> Run:
    """A run whose network and strong views are stand-ins.

    Args:
        method: by its name; it uses the network through `Step.forward` alone, and not in full precision.
        steps: of an epoch.
    """
    data = made_up(-(-steps * BATCH * MU // CLASSES) + LABELLED_PER_CLASS + 1, SIDE)
    per_class = tuple([len(data.labels) // CLASSES] * CLASSES)
    document = {
        **{"method": method, "dataset": "made-up", "labels": CLASSES * LABELLED_PER_CLASS},
        **{"network": "wrn-10-1", "epochs": 100, "steps_per_epoch": steps, "warmup_epochs": 0},
        **{
            "batch_size": BATCH,
            "mu": MU,
            "device": "cpu",
            "precision": "float32",
            "compile": False,
            "threads": 1,
        },
        "data": {"valid": CLASSES},
    }
    info = DatasetInfo(data.name, data.classes, per_class, SIDE, "wrn-10-1", None, data.flip)
    counts = {"labelled": CLASSES * LABELLED_PER_CLASS, "valid": CLASSES}
    split = draw_split(
        data.labels, CLASSES, **counts, split_seed=0, label_seed=0, fingerprint=data.fingerprint
    )
    run = Run(resolve(from_document(document), info), data, split)
    weights = list(run.network.parameters())

    def passes(images: torch.Tensor) -> NetworkOutput:
        return NetworkOutput(_Passes.apply(images, *weights), None)  # type: ignore[no-untyped-call]

    def strong(images: torch.Tensor, draws: Draws) -> tuple[torch.Tensor, Geometry]:
        return images, Geometry(draws.magnitudes, draws.centres)

    run._called, run.apply_strong = passes, strong
    return run


def count(method: str, steps: int = STEPS) -> Counter[str]:
    """Operations of an epoch, by name."""

    def deferred(run: Run, epoch: int) -> FiniteGuard:
        return FiniteGuard(list(run.network.parameters()), at_once=False, where=f"(epoch {epoch})")

    run = run_of(method, steps)
    with mock.patch.object(loop, "finite_guard", deferred):
        loop.take_steps(run, 1)  # the first epoch makes tables that are kept
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            loop.take_steps(run, 2)
    found: Counter[str] = Counter()
    for event in seen.events() or []:
        if "::" in event.name and not event.name.startswith("autograd::") and _is_outermost(event):
            found[event.name] += 1
    return found


def _is_outermost(event: Any) -> bool:
    """Whether an operation is part of no other operation, and of no stand-in."""
    if _NOT_COUNTED[1] in event.name:
        return False
    above = event.cpu_parent
    while above is not None:
        is_operation = "::" in above.name and not above.name.startswith("autograd::")
        if is_operation or any(name in above.name for name in _NOT_COUNTED):
            return False
        above = above.cpu_parent
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--steps", type=int, default=STEPS, help="of an epoch")
    parser.add_argument("--list", action="store_true", help="name the operations, the most frequent first")
    parser.add_argument("--json", action="store_true", help="print plain data instead of the table")
    options = parser.parse_args(arguments)
    counts = {method: count(method, options.steps) for method in options.methods}
    if options.json:
        print(
            json.dumps({method: found.total() / options.steps for method, found in counts.items()}, indent=1)
        )
        return
    print(
        f"epochs of {options.steps} steps\n\n| method | 0.1.0 | operations a step | share |\n|---|---|---|---|"
    )
    for method, found in counts.items():
        now, before = found.total() / options.steps, BEFORE.get(method)
        print(f"| {method} | {before or ''} | {now:.1f} | {f'{now / before:.0%}' if before else ''} |")
        for name, times in found.most_common() if options.list else []:
            print(f"|   {name} | | {times / options.steps:.2f} | |")


if __name__ == "__main__":
    main()
