"""Memory that runs out: how much was asked for, and what to lower.

Every allocator says it in words of its own, and some only in a RuntimeError; here they become one error that
a person can act on and a study can tell from others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ssl_core.config import RunConfig
from ssl_core.system.errors import MemoryExhaustedError

_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50}
# "Tried to allocate 2.00 GiB" (CUDA), "you tried to allocate 4096 bytes" (CPU), "Unable to allocate 1.2 GiB" (NumPy)
_AMOUNT = re.compile(rf"to allocate ([\d.]+) ({'|'.join(_UNITS)})")
_SIGNS = ("can't allocate memory", "bad_alloc", "STATUS_ALLOC_FAILED", "out of memory")


@contextmanager
def explained(device: str, doing: str, advice: str) -> Iterator[None]:
    """Turn every allocator's complaint into a MemoryExhaustedError.

    Args:
        device: where the memory is: "cpu" or "cuda".
        doing: what it was for.
        advice: what to lower.
    """
    try:
        yield
    except MemoryExhaustedError:
        raise
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and not any(sign in text for sign in _SIGNS):
            raise
        place = "GPU" if device == "cuda" else "machine"
        raise MemoryExhaustedError(
            f"out of memory: the {place} had no {_amount(text)} for {doing}. {advice}"
        ) from error


def of_images(count: int, side: int) -> tuple[str, str]:
    """What the data set needs memory for and what to lower, for `explained`."""
    return f"{count} images of {side}x{side} pixels", "Lower data.image_size, or take device=cpu."


def in_step(config: RunConfig, views: int) -> tuple[str, str]:
    """What a step needs memory for and what to lower, for `explained`.

    Args:
        config: resolved.
        views: views of each unlabelled image that the method looks at.
    """
    assert config.batch_size and config.mu
    labelled, unlabelled = config.batch_size, config.batch_size * config.mu * views
    doing = f"a step on {labelled + unlabelled} images in {config.network}"
    batch_size = f"batch_size (now {config.batch_size})"
    if views and config.mu > 1:
        lower = f"mu (now {config.mu}: {unlabelled} of the images are unlabelled ones), then {batch_size}"
    else:
        lower = batch_size
    return doing, f"Lower {lower}{_or_network(config)}."


def in_evaluation(config: RunConfig) -> tuple[str, str]:
    """What an evaluation needs memory for and what to lower, for `explained`."""
    size = config.eval_batch_size
    doing = f"the evaluation of {size} images at once in {config.network}"
    return doing, f"Lower eval_batch_size (now {size}){_or_network(config)}."


def _or_network(config: RunConfig) -> str:
    return "" if config.network == "wrn-10-1" else ", or take a smaller network (wrn-10-1 is the smallest)"


def _amount(text: str) -> str:
    found = _AMOUNT.search(text)
    if found is None:
        return "memory left"
    amount = float(found[1]) * _UNITS[found[2]]
    return f"{amount / 2**30:.1f} GiB more" if amount >= 2**30 else f"{amount / 2**20:.1f} MiB more"
