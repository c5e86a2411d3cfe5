"""The forward pass of the FixMatch family: labelled images, weak views and strong views.

joint: all in one batch, as in google-research/fixmatch (fixmatch.py). BatchNorm's statistics are those of the
mixture. The weak views take part in the backward pass, although the pseudo-labels themselves get no gradient.

separate: one pass each for labelled images, strong views and weak views, in this order, the last without gradient.
This saves about a third of a step's arithmetic. BatchNorm works as in USB (microsoft/Semi-supervised-learning,
algorithms/fixmatch/fixmatch.py, `use_cat: False`): every pass normalises with the statistics of its own batch and
updates the running ones.

Shapes: B labelled images, U unlabelled images, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ssl_core import losses
from ssl_core.methods.base import Batch, Forward
from ssl_core.system.lazy_torch import torch

WeakForward = Literal["joint", "separate"]
DESCRIPTION = (
    "joint: labelled, weak and strong images in one batch, as in the paper; separate: one pass each, the weak one "
    "without gradient: a third less arithmetic, other BatchNorm statistics (USB's `use_cat: False`)"
)


@dataclass(frozen=True)
class Triple:
    """The network's output for labelled (B, ...), weak (U, ...) and strong (U, ...) images."""

    labelled: torch.Tensor
    weak: torch.Tensor
    strong: torch.Tensor


def forward_views(forward: Forward, batch: Batch, weak_forward: WeakForward) -> tuple[Triple, Triple | None]:
    """Logits (n, C) of all images, and what the method's head gives, where it has one."""
    weak, strong = batch.views["weak"], batch.views["strong"]
    if weak_forward == "joint":
        output = forward(torch.cat([batch.labelled, weak, strong]))
        sizes = [len(batch.labelled), len(weak), len(strong)]
        logits = Triple(*torch.split(losses.at_least_float32(output.logits), sizes))  # converted once for all
        return logits, None if output.head is None else Triple(*torch.split(output.head, sizes))
    of_labelled, of_strong = forward(batch.labelled), forward(strong)
    with torch.no_grad():
        of_weak = forward(weak)
    logits = Triple(of_labelled.logits, of_weak.logits, of_strong.logits)
    if of_labelled.head is None or of_weak.head is None or of_strong.head is None:
        return logits, None
    return logits, Triple(of_labelled.head, of_weak.head, of_strong.head)
