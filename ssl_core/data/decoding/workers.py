"""Processes that decode blocks of image files into the file of an array.

Threads of one process take turns with the interpreter's lock: on two cores, two threads spend a quarter more processor
time on an image than two processes do. The processes are started with a command of their own rather than by
`multiprocessing`, which would run the caller's script again in each of them.

A worker reads one JSON document a line from its standard input, what to do, and answers with one a line: for each block
the hashes, the headers and what could not be decoded. It ends with its input, so none outlives its parent.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from ssl_core.data.decoding.headers import Unreadable, unreadable_file
from ssl_core.data.decoding.picture import Header, Shape, decode_with_header
from ssl_core.data.part import Hashes

_PACKAGES = str(Path(__file__).resolve().parents[3])
_CODE = f"import sys; sys.path.insert(0, {_PACKAGES!r}); from ssl_core.data.decoding.workers import serve; serve()"
_SECONDS_TO_END = 10.0
# The GNU C library keeps what an image has freed for the next one. Else the kernel is asked for each image's memory,
# page by page: a quarter of the time of a photograph of 400x300.
_MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**28)}


@dataclass(frozen=True)
class Job:
    """What all blocks have in common.

    Attributes:
        root: the folder that the files' names are relative to.
        shape: what the images are made into; its side is given.
        images: the file of the array.
        offset: bytes before the first image in it.
    """

    root: str
    shape: Shape
    images: str
    offset: int


@dataclass(frozen=True)
class Answer:
    """What a block of n files came to: (n, 16) hashes; headers, None for a file that cannot be decoded; and why not."""

    hashes: Hashes
    headers: list[Header | None]
    damaged: dict[int, Unreadable]


class Worker:
    """A process that decodes, seen from its parent.

    Args:
        job: what it does.
    """

    def __init__(self, job: Job) -> None:
        command = [sys.executable, "-P", "-c", _CODE]
        # A session of its own: Ctrl-C is for the parent, which then closes the input.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_MALLOC | os.environ,
            start_new_session=True,
        )
        self._write(asdict(job))

    def decode(self, start: int, names: Sequence[str]) -> Answer:
        """Have the files decoded to the rows of the array from `start` on; waits.

        Raises:
            RuntimeError: the process died.
        """
        self._write({"start": start, "names": [os.fsencode(name).hex() for name in names]})
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise RuntimeError(
                f"a process that decodes images ended with code {code} (a negative one is a signal; -9: perhaps no "
                f"memory was left), at one of the files from {names[0]} to {names[-1]}."
            )
        found = json.loads(line)
        hashes = np.frombuffer(bytes.fromhex(found["hashes"]), dtype=np.uint8).reshape(-1, 16)
        kinds = [Header(*kind) for kind in found["kinds"]]
        headers = [None if kind < 0 else kinds[kind] for kind in found["headers"]]
        damaged = {
            start + place: Unreadable(names[place], error, sha256)
            for place, error, sha256 in found["damaged"]
        }
        return Answer(hashes, headers, damaged)

    def close(self) -> None:
        """Let the process end, after the block that it is at."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()
        try:
            self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _write(self, document: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it died: reading says so
            self._process.stdin.write(json.dumps(document).encode() + b"\n")
            self._process.stdin.flush()


class Workers:
    """Some workers of one job, each called by one thread at a time; closed at the end of a `with` block.

    Args:
        job: what they do.
        count: how many there are.
    """

    def __init__(self, job: Job, count: int) -> None:
        self._all = [Worker(job) for _ in range(count)]
        self._free: SimpleQueue[Worker] = SimpleQueue()
        for worker in self._all:
            self._free.put(worker)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._all:
            worker.close()

    def decode(self, start: int, names: Sequence[str]) -> Answer:
        """See `Worker.decode`."""
        worker = self._free.get()
        try:
            return worker.decode(start, names)
        finally:
            self._free.put(worker)


def serve() -> None:
    """What a worker does: a job, then blocks of it until the input ends."""
    first = sys.stdin.buffer.readline()
    if not first:
        return
    document = json.loads(first)
    shape = document["shape"]
    document["shape"] = Shape(**{**shape, "background": tuple(shape["background"])})
    job = Job(**document)
    descriptor = os.open(job.images, os.O_WRONLY)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        names = [os.fsdecode(bytes.fromhex(name)) for name in request["names"]]
        answer = json.dumps(_decoded(job, descriptor, request["start"], names))
        try:
            sys.stdout.buffer.write(answer.encode() + b"\n")
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # nobody waits any more
            os._exit(0)


def _decoded(job: Job, descriptor: int, start: int, names: Sequence[str]) -> dict[str, Any]:
    assert job.shape.side is not None
    size = job.shape.side**2 * 3
    digests, headers, damaged = bytearray(), [], []
    kinds: dict[Header, int] = {}  # most files of a block have one and the same
    for place, name in enumerate(names):
        try:
            pixels, digest, header = decode_with_header(os.path.join(job.root, name), job.shape)  # noqa: PTH118
        except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, zlib.error and more
            bad = unreadable_file(Path(job.root), name, error)
            damaged.append([place, bad.error, bad.sha256])
            digests += bytes(16)
            headers.append(-1)
            continue
        # Written rather than stored into a map of the file: a call is cheaper than a page fault for each 4 KiB.
        written = os.pwrite(
            descriptor, np.ascontiguousarray(pixels).data, job.offset + (start + place) * size
        )
        if written != size:
            raise OSError(f"{job.images}: {written} of {size} bytes were written")
        digests += digest
        headers.append(kinds.setdefault(header, len(kinds)))
    fields = Header.__dataclass_fields__
    return {
        "hashes": digests.hex(),
        "headers": headers,
        "kinds": [[getattr(kind, name) for name in fields] for kind in kinds],
        "damaged": damaged,
    }
