"""The training images of a run: on its device where they fit, else on the host, gathered ahead of the step.

Shapes: N images of the data set, n images of a batch, H = W their side in pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

CACHED = 64
"""Images that a thread evaluates at once: the feature maps of more leave its core's cache (docs/results.md)."""


def evaluated_at_once(most: int, device: torch.device) -> int:
    """How many images are evaluated at once where it may be so many: on a processor at most CACHED for each thread."""
    return min(most, CACHED * torch.get_num_threads()) if device.type == "cpu" else most


def fits_on(device: torch.device, needed: int, share: float) -> bool:
    """Whether the images stay on the device: they take at most this share of its memory. A share of 0: never.

    Args:
        device: the run's.
        needed: bytes of all images.
        share: of the device's memory; the processor's is the machine's, or what its control group may use.
    """
    return needed <= share * memory_of(device)


def memory_of(device: torch.device) -> int:
    """Bytes of memory of a device, whether in use or not."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *limits_of_groups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))])


def limits_of_groups(groups: Path, mounted: Path) -> Iterator[int]:
    """The memory limits of this process's control group and those above it, version 2 or 1.

    Args:
        groups: the file that names the process's groups.
        mounted: where the groups' files are.
    """
    try:
        lines = [line.split(":", 2) for line in groups.read_text().splitlines()]
    except OSError:  # no Linux
        return
    for _, controllers, path in lines:
        unified = controllers == ""
        if not unified and "memory" not in controllers.split(","):
            continue
        name = "memory.max" if unified else "memory.limit_in_bytes"
        top = mounted if unified else mounted / "memory"
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(top):
                break
            with suppress(OSError, ValueError):  # not mounted here, or "max"
                yield int((folder / name).read_text())


@dataclass(frozen=True)
class Ready:
    """A batch that was gathered in the background: the images on the device, and when their copy has ended."""

    pixels: torch.Tensor
    copied: torch.cuda.Event | None


class HostImages:
    """Images on the host, such as the cache's map of a file: batches of them are gathered and given to the device.

    One thread gathers what `ahead` asks for while the step before it runs. For a GPU it gathers into pinned memory
    and copies on a stream of its own. For a processor, what it saves is the waiting for a disk: pages of a file that
    is larger than memory are read before the step needs them.

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
