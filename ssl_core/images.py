"""The training images of a run: on its device where they fit, else on the host, gathered ahead of the step.

Shapes: N images of the data set, n images of a batch, H = W their side in pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch


def fits_on(device: torch.device, needed: int, share: float) -> bool:
    """Whether the images stay on the device: they take at most this share of its memory.

    On the processor there is nothing to copy; a share of 0 still has the images gathered batch by batch.

    Args:
        device: the run's.
        needed: bytes of all images.
        share: of the device's memory.
    """
    if device.type == "cpu":
        return share > 0
    return needed <= share * torch.cuda.get_device_properties(device).total_memory


@dataclass(frozen=True)
class Ready:
    """A batch that was gathered in the background: the images on the device, and when their copy has ended."""

    pixels: torch.Tensor
    copied: torch.cuda.Event | None


class HostImages:
    """Images on the host, such as the cache's map of a file. Batches are gathered into pinned memory and copied over.

    One thread gathers what `ahead` asks for and copies it on a stream of its own, while the step before it runs.

    Args:
        images: (N, H, W, 3) uint8, on the CPU; a map of a file is read page by page.
        device: where batches go.
    """

    def __init__(self, images: torch.Tensor, device: torch.device) -> None:
        self._images, self._device = images, device
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="images")
        self._waiting: list[tuple[torch.Tensor, Future[Ready]]] = []
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """Some images, (n,) int64 indices on any device, as (n, H, W, 3) uint8 on the device."""
        rows = rows.cpu()
        for place, (asked, future) in enumerate(self._waiting):
            if torch.equal(asked, rows):
                del self._waiting[place]
                return self._received(future.result())
        return self._received(self._gather(rows))

    def ahead(self, batches: Iterable[torch.Tensor]) -> None:
        """Begin to gather the next step's batches, (n,) int64 CPU indices each; what was not taken is forgotten."""
        self._waiting = [(rows, self._thread.submit(self._gather, rows)) for rows in batches]

    def _gather(self, rows: torch.Tensor) -> Ready:
        shape = (len(rows), *self._images.shape[1:])
        if self._stream is None:
            return Ready(self._images[rows], None)
        pinned = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        torch.index_select(self._images, 0, rows, out=pinned)
        with torch.cuda.stream(self._stream):
            pixels = pinned.to(self._device, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record(self._stream)
        return Ready(pixels, copied)

    def _received(self, ready: Ready) -> torch.Tensor:
        """The images, for the stream that computes: it waits for the copy, the program does not."""
        if ready.copied is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(ready.copied)
            ready.pixels.record_stream(stream)  # its memory is not used again before the step has read it
        return ready.pixels
