"""Separate, stateless random streams.

Every draw comes from a generator seeded by (training seed, stream, position), never from a global one.
So no stream affects another (invariant 4). A run that is resumed at any step draws the same numbers as an
uninterrupted one, without a generator's state in its checkpoint (invariant 3). What is drawn at a step does not depend
on what a method drew before (invariant 5).
"""

from __future__ import annotations

import hashlib
from typing import Literal

import torch

Stream = Literal[
    "initialisation",
    "order/labelled",
    "order/balanced",
    "order/unlabelled",
    "augmentation",
    "noise",
    "dropout",
    "attention head",
]


def stream_seed(seed: int, stream: Stream, *position: int) -> int:
    """A 63-bit seed for one position of one stream."""
    text = "/".join([str(seed), stream, *map(str, position)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(
    seed: int, stream: Stream, *position: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator for one position of one stream, on a device."""
    made = torch.Generator(device=device)
    made.manual_seed(stream_seed(seed, stream, *position))
    return made


class Shuffled:
    """An endless sequence of n items, shuffled anew each time all were used, addressed by position.

    Args:
        n: number of items, at least 1.
        seed, stream, position: the random stream of the orders; the order's number is appended.
    """

    def __init__(self, n: int, seed: int, stream: Stream, *position: int) -> None:
        assert n > 0
        self.n, self._key = n, (seed, stream, *position)
        self._orders: dict[int, torch.Tensor] = {}

    def batch(self, index: int, size: int) -> torch.Tensor:
        """Items at places [index * size, (index + 1) * size) of the endless sequence: (size,) int64."""
        return self.items(index * size, (index + 1) * size)

    def items(self, start: int, end: int) -> torch.Tensor:
        """Items at places [start, end) of the endless sequence: (end - start,) int64."""
        parts, known = [], self._orders
        orders = {
            n: known[n] if n in known else self._order(n) for n in range(start // self.n, -(-end // self.n))
        }
        for number, order in orders.items():
            first = number * self.n
            parts.append(order[max(start - first, 0) : end - first])
        self._orders = {
            k: v for k, v in {**known, **orders}.items() if k >= end // self.n
        }  # keep what comes next
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)

    def _order(self, number: int) -> torch.Tensor:
        return torch.randperm(self.n, generator=generator(*self._key, number))  # type: ignore[arg-type]


class Balanced:
    """An endless sequence of items of several classes in which every class is as frequent as every other.

    It consists of rounds: a round has one item of each class, in a random order. A class's own items come shuffled anew
    each time all were used, so that within a class each is used as often as the others. Like `Shuffled` it is addressed
    by position.

    Args:
        labels: the class of each item, (n,) int64, at least one item.
        seed: of the random stream, which is not that of `Shuffled` batches.
    """

    def __init__(self, labels: torch.Tensor, seed: int) -> None:
        self._members = [torch.nonzero(labels == c).flatten() for c in torch.unique(labels).tolist()]
        self._rounds = Shuffled(len(self._members), seed, "order/balanced", 0)
        self._orders = [
            Shuffled(len(members), seed, "order/balanced", 1, place)
            for place, members in enumerate(self._members)
        ]

    def batch(self, index: int, size: int) -> torch.Tensor:
        """Items at places [index * size, (index + 1) * size) of the endless sequence: (size,) int64."""
        start, end = index * size, (index + 1) * size
        classes = self._rounds.items(start, end)
        items = torch.empty(size, dtype=torch.int64)
        for place in torch.unique(classes).tolist():
            at = torch.nonzero(classes == place).flatten()
            # Every round has one item of the class: its number is how many of them came before.
            first = (start + int(at[0])) // len(self._members)
            items[at] = self._members[place][self._orders[place].items(first, first + len(at))]
        return items
