"""Many image files to one array, on all cores, in bounded memory, to be interrupted and gone on with.

N: images, S: side in pixels.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from ssl_core.data.decoding.headers import Survey, Unreadable, shape_of, survey, unreadable_file
from ssl_core.data.decoding.picture import (
    DEEP_MODES,
    Header,
    Shape,
    check_hashing,
    colour,
    decode,
    decode_with_header,
    examine,
)
from ssl_core.data.decoding.workers import Job, Workers
from ssl_core.data.options import Options
from ssl_core.data.part import Hashes, Images

Progress = Callable[[int, int], None]
"""Called with the number of images decoded so far, and of all."""

_FILES_PER_TASK = 256
# Starting processes takes some 0.2 s of each core, which fewer images would not bring in again.
_FOR_PROCESSES = 2048
# Opening a file keeps the interpreter's lock, and for files of a few kilobytes (32x32 JPEGs) it outweighs decoding.
_THREADS_FROM_BYTES = 8192
_SAVE_SECONDS = 5.0
IMAGES_FILE, JOURNAL_FILE = "images.npy", "journal.jsonl"


@dataclass
class Decoded:
    """Decoded images, in the order of the files.

    Attributes:
        images: (N, S, S, 3) uint8; a map of a file where a place was named.
        hashes: (N, 16) uint8, of the pixels.
        damaged: what could not be decoded, by its index; these rows are zero.
        headers: of the files that this call decoded; those that an interrupted call had decoded are not in it.
    """

    images: Images
    hashes: Hashes
    damaged: dict[int, Unreadable] = field(default_factory=dict)
    headers: dict[str, Header] = field(default_factory=dict)


@dataclass
class Examined:
    """What was seen of files without keeping their pixels, in the order of the files.

    Attributes:
        survey: their headers.
        hashes: (N, 16) uint8, of the pixels.
        damaged: what could not be decoded, by its index; these rows are zero.
    """

    survey: Survey
    hashes: Hashes
    damaged: dict[int, Unreadable] = field(default_factory=dict)


def decode_files(
    root: Path,
    files: Sequence[str],
    shape: Shape,
    place: Path | None = None,
    progress: Progress | None = None,
) -> Decoded:
    """Decode files to one array.

    Args:
        root: the folder that the names are relative to.
        files: relative paths, at least one.
        shape: what the images are made into; its side must be given.
        place: folder for the array, which is then a map of a file, so that memory holds a few blocks of it
            only. What an interrupted call has left there is gone on with. None: an array in memory.
        progress: told how far it is.
    """
    assert shape.side is not None
    decoded, done = _opened(place, len(files), shape.side)
    starts = [start for start in range(0, len(files), _FILES_PER_TASK) if start not in done]
    count = len(files) - sum(min(_FILES_PER_TASK, len(files) - start) for start in starts)
    with _Journal(place, decoded) as journal:
        for start, damaged in _blocks(root, files, shape, decoded, starts):
            decoded.damaged.update(damaged)
            journal.add(start, damaged)
            count += min(_FILES_PER_TASK, len(files) - start)
            if progress is not None:
                progress(count, len(files))
    decoded.damaged = dict(sorted(decoded.damaged.items()))
    return decoded


def decode_to_size(
    root: Path, files: Sequence[str], options: Options, place: Path | None, progress: Progress | None
) -> tuple[Decoded, Shape, list[str]]:
    """Decode files to a size that is known beforehand, which saves reading all headers first.

    Only grey images with more than 8 bits depend on the others, by their range: they are decoded again where it
    is smaller than 16 bits.

    Args:
        root, files, place, progress: as for `decode_files`.
        options: how they are read; its `image_size` must be given.

    Returns:
        The images, what they were made into, and sentences that tell what was decided (`shape_of`).
    """
    shape = Shape(options.image_size, options.resize, colour(options.background))
    decoded = decode_files(root, files, shape, place, progress)
    damaged = {bad.file for bad in decoded.damaged.values()}
    before = [name for name in files if name not in decoded.headers and name not in damaged]
    decoded.headers.update(survey(root, before).headers)
    shape, notes = shape_of(root, Survey(decoded.headers, {}), options)
    if shape.bits < 16:
        _decode_deep_again(root, files, shape, decoded)
    return decoded, shape, notes


def _decode_deep_again(root: Path, files: Sequence[str], shape: Shape, into: Decoded) -> None:
    headers = into.headers
    deep = [i for i, name in enumerate(files) if name in headers and headers[name].mode in DEEP_MODES]

    def decode_one(place: int, path: str) -> None:
        into.images[deep[place]], _ = decode(path, shape)

    starts = range(0, len(deep), _FILES_PER_TASK)
    for _, damaged in _in_blocks(root, [files[i] for i in deep], starts, decode_one):
        into.damaged.update({deep[place]: bad for place, bad in damaged.items()})


Block = tuple[int, dict[int, Unreadable]]
Each = Callable[[int, str], None]


def _blocks(
    root: Path, files: Sequence[str], shape: Shape, into: Decoded, starts: Sequence[int]
) -> Iterator[Block]:
    """Decode the blocks that begin at `starts`, several at a time; each is yielded when it is done."""
    cores = len(os.sched_getaffinity(0))
    if isinstance(into.images, np.memmap) and cores > 1 and len(starts) * _FILES_PER_TASK >= _FOR_PROCESSES:
        yield from _in_processes(root, files, shape, into, starts, cores)
        return
    known: dict[Header, Header] = {}

    def decode_one(index: int, path: str) -> None:
        pixels, digest, header = decode_with_header(path, shape)
        into.images[index] = pixels
        into.hashes[index] = np.frombuffer(digest, dtype=np.uint8)
        into.headers[files[index]] = known.setdefault(header, header)  # equal ones are kept once

    yield from _in_blocks(root, files, starts, decode_one)


def _in_processes(
    root: Path, files: Sequence[str], shape: Shape, into: Decoded, starts: Sequence[int], count: int
) -> Iterator[Block]:
    """As `_blocks`, with so many processes. They write the images to the file that `into.images` maps."""
    assert isinstance(into.images, np.memmap)
    job = Job(str(root), shape, str(into.images.filename), into.images.offset)
    known: dict[Header, Header] = {}
    with Workers(job, count) as workers:

        def work(start: int) -> Block:
            """Have one block decoded by a worker that is free."""
            names = files[start : start + _FILES_PER_TASK]
            answer = workers.decode(start, names)
            into.hashes[start : start + len(names)] = answer.hashes
            for name, header in zip(names, answer.headers, strict=True):
                if header is not None:
                    into.headers[name] = known.setdefault(header, header)
            return start, answer.damaged

        yield from _side_by_side(starts, count, work)


def examine_files(root: Path, files: Sequence[str], progress: Progress | None = None) -> Examined:
    """The headers of files and the hashes of their pixels; the pixels are not kept.

    Args:
        root: the folder that the names are relative to.
        files: relative paths.
        progress: told how far it is.
    """
    check_hashing()
    headers: dict[str, Header] = {}
    found = Examined(Survey(headers, {}), np.zeros((len(files), 16), dtype=np.uint8))

    def examine_one(index: int, path: str) -> None:
        header, digest = examine(path)
        headers[files[index]] = header
        found.hashes[index] = np.frombuffer(digest, dtype=np.uint8)

    count = 0
    for start, damaged in _in_blocks(root, files, range(0, len(files), _FILES_PER_TASK), examine_one):
        found.damaged.update(damaged)
        count += min(_FILES_PER_TASK, len(files) - start)
        if progress is not None:
            progress(count, len(files))
    found.survey.unreadable.update({bad.file: bad for bad in found.damaged.values()})
    return found


def _in_blocks(root: Path, files: Sequence[str], starts: Sequence[int], each: Each) -> Iterator[Block]:
    """Call `each(index, path)` for the files of the blocks that begin at `starts`, on several threads."""

    def work(start: int) -> Block:
        """Read the files of one block; those that cannot be read are kept with their reasons."""
        damaged = {}
        for index in range(start, min(start + _FILES_PER_TASK, len(files))):
            name = files[index]
            try:
                each(index, os.path.join(root, name))  # noqa: PTH118 (many files: Path doubles the time)
            except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, zlib.error and more
                damaged[index] = unreadable_file(root, name, error)
        return start, damaged

    yield from _side_by_side(starts, _threads(root, files), work)


def _side_by_side(starts: Sequence[int], threads: int, work: Callable[[int], Block]) -> Iterator[Block]:
    """What `work` gives for each start, in their order, on so many threads."""
    pool = ThreadPoolExecutor(max_workers=threads)
    running: list[Future[Block]] = []
    try:
        for start in starts:
            running.append(pool.submit(work, start))
            if len(running) >= 2 * threads:
                yield running.pop(0).result()
        for future in running:
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _threads(root: Path, files: Sequence[str]) -> int:
    sample = files[:: max(1, len(files) // 16)]
    sizes = sorted(size for name in sample if (size := _size(root / name)) is not None)
    is_small = bool(sizes) and sizes[len(sizes) // 2] < _THREADS_FROM_BYTES
    return 1 if is_small else len(os.sched_getaffinity(0))


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _opened(place: Path | None, count: int, side: int) -> tuple[Decoded, set[int]]:
    """The array to decode into, and the first indices of the blocks that it holds already."""
    shape = (count, side, side, 3)
    hashes = np.zeros((count, 16), dtype=np.uint8)
    if place is None:
        return Decoded(np.zeros(shape, dtype=np.uint8), hashes), set()
    path = place / IMAGES_FILE
    try:
        images: Any = np.load(path, mmap_mode="r+", allow_pickle=False)
        if images.shape != shape or images.dtype != np.uint8:
            raise ValueError("left by another call")
        decoded = Decoded(images, hashes)
        return decoded, _replayed(place / JOURNAL_FILE, decoded)
    except (OSError, EOFError, ValueError):
        (place / JOURNAL_FILE).unlink(missing_ok=True)
        _reserve(place, path, shape)
        return Decoded(open_memmap(path, mode="r+"), hashes), set()


def _reserve(place: Path, path: Path, shape: tuple[int, ...]) -> None:
    """Make the file, with its space on the disk: writing to a map of a full disk would kill the process."""
    open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


class _Journal:
    """Which blocks are on the disk, written after them."""

    def __init__(self, place: Path | None, decoded: Decoded) -> None:
        self.decoded = decoded
        self.pending: list[str] = []
        self.saved = time.monotonic()
        self.file = None if place is None else (place / JOURNAL_FILE).open("a", encoding="utf-8")

    def __enter__(self) -> _Journal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.save()
            self.file.close()

    def add(self, start: int, damaged: dict[int, Unreadable]) -> None:
        """A block is decoded."""
        if self.file is None:
            return
        hashes = self.decoded.hashes[start : start + _FILES_PER_TASK]
        line = {
            "start": start,
            "hashes": hashes.tobytes().hex(),
            "damaged": {index: [bad.file, bad.error, bad.sha256] for index, bad in damaged.items()},
        }
        self.pending.append(json.dumps(line) + "\n")
        if time.monotonic() - self.saved >= _SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Bring the images to the disk, then the lines that say so."""
        if self.file is None or not self.pending:
            return
        if isinstance(self.decoded.images, np.memmap):
            self.decoded.images.flush()
        self.file.writelines(self.pending)
        self.file.flush()
        os.fsync(self.file.fileno())
        self.pending.clear()
        self.saved = time.monotonic()


def _replayed(journal: Path, into: Decoded) -> set[int]:
    done = set()
    for text in journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []:
        try:
            line = json.loads(text)
            start = int(line["start"])
            block = np.frombuffer(bytes.fromhex(line["hashes"]), dtype=np.uint8).reshape(-1, 16)
            damaged = {int(index): Unreadable(*facts) for index, facts in line["damaged"].items()}
            into.hashes[start : start + _FILES_PER_TASK] = block
        except (ValueError, KeyError, TypeError):  # half a line: the process was killed while it wrote
            continue
        into.damaged.update(damaged)
        done.add(start)
    return done
