"""Which statistics the BatchNorm layers of a network normalise with, and whether their running ones move."""

from __future__ import annotations

import torch

BatchNorm = torch.nn.BatchNorm1d | torch.nn.BatchNorm2d


def batchnorms_of(network: torch.nn.Module) -> list[BatchNorm]:
    """The BatchNorm layers of a network, those of a method's head included."""
    return [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d)]


class frozen_statistics:  # noqa: N801 - a context manager, used like a function
    """These BatchNorm layers normalise with the batch's statistics and do not update their running ones."""

    def __init__(self, layers: list[BatchNorm]) -> None:
        self.layers = layers

    def __enter__(self) -> None:
        for layer in self.layers:
            layer.track_running_stats = False

    def __exit__(self, *_: object) -> None:
        for layer in self.layers:
            layer.track_running_stats = True


class own_statistics(frozen_statistics):  # noqa: N801 - as above
    """These BatchNorm layers of a network in evaluation mode do so, too."""

    def __enter__(self) -> None:
        super().__enter__()
        for layer in self.layers:
            layer.training = True

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        for layer in self.layers:
            layer.training = False
