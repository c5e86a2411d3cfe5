"""Decoding image files: rate, memory, and how long a look at many small files takes.

    python -m benchmarks.decode                      # 20,000 JPEGs of 400x300 to 96x96
    python -m benchmarks.decode --tiny 100000        # a look (`inspect`) at 100,000 files of 8x8

The files are made first: noise that was enlarged, so that a JPEG of 400x300 has some 35 KB, as photographs have. Every
rate is that of a process of its own. The plain rate is that of `PIL.Image.open`, `resize` and `numpy.asarray` in one
process; the others are those of `load_train` with a cache, for all the files and for a quarter of them, each with the
peak of its anonymous memory (RssAnon: what is not a map of a file, and what a memory limit counts without remedy). The
two take turns, and the ratio is that of neighbours. Two processors of a machine need not compute twice as much as one
(they may share a core, or be busy): after the last round the plain rate is measured on all of them, the most that can
be had. The processor time of an image is printed, too.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ssl_core.data.datasets import load_train
from ssl_core.data.inspecting.inspection import inspect
from ssl_core.data.splits.drawing import Wanted

WIDTH, HEIGHT, SIDE, CLASSES, SAMPLE = 400, 300, 96, "abcde", 2000
OURS = "load_train"
PLAIN = "PIL in one process"


@dataclass(frozen=True)
class Row:
    """What one process did.

    Attributes:
        what: it did.
        images: how many.
        seconds: on the clock.
        images_per_second: by the clock.
        processor_ms: processor time an image, over all threads and children.
        peak_anonymous_mib: of its memory that is not a map of a file.
    """

    what: str
    images: int
    seconds: float
    images_per_second: float
    processor_ms: float
    peak_anonymous_mib: float


def write_photographs(place: Path, count: int) -> None:
    """PLACE/train/<class>/N.jpg, all different, on every core."""
    for part, number in (("train", count), ("test", len(CLASSES))):
        for name in CLASSES:
            (place / part / name).mkdir(parents=True)
        names = [place / part / CLASSES[i % len(CLASSES)] / f"{i:06}.jpg" for i in range(number)]
        with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
            for _ in pool.map(_write_photograph, names, range(number), chunksize=256):
                pass


def _write_photograph(path: Path, seed: int) -> None:
    coarse = np.random.default_rng(seed).integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(path, quality=90)


def write_tiny(place: Path, count: int) -> None:
    """PLACE/{train,test}/<class>/N.png of 8x8, one in fifty of them a copy of the one before."""
    for part, number in (("train", count), ("test", len(CLASSES))):
        for name in CLASSES:
            (place / part / name).mkdir(parents=True)
        random = np.random.default_rng(0 if part == "train" else 1)
        pixels = random.integers(0, 256, (number, 8, 8, 3), dtype=np.uint8)
        pixels[49::50] = pixels[48::50][: len(pixels[49::50])]
        for i in range(number):
            Image.fromarray(pixels[i]).save(place / part / CLASSES[i % len(CLASSES)] / f"{i:06}.png")


def _family() -> list[int]:
    """This process and its children."""
    found = [os.getpid()]
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # a thread that has ended
            found += map(int, (task / "children").read_text().split())
    return found


def _anonymous(process: int) -> int:
    """RssAnon of a process in KiB; 0 where it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1])
    return 0


@contextmanager
def peak_anonymous() -> Iterator[Callable[[], float]]:
    """Watch the anonymous memory of this process and its children together; the callable gives the peak in MiB."""
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            peak[0] = max(peak[0], sum(map(_anonymous, _family())) / 1024)
            done.wait(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield lambda: peak[0]
    finally:
        done.set()
        watcher.join()


def _measured(what: str, images: int, work: Callable[[], object]) -> Row:
    with peak_anonymous() as peak:
        started, processor = time.perf_counter(), sum(os.times()[:4])
        work()
        seconds, processor = time.perf_counter() - started, sum(os.times()[:4]) - processor
        time.sleep(0.05)
        return Row(what, images, seconds, images / seconds, 1000 * processor / images, peak())


def _sample(place: Path) -> list[Path]:
    files = sorted(place.rglob("*.jpg"))
    return files[:: max(1, len(files) // SAMPLE)]


def _read(files: Sequence[Path]) -> float:
    """Read and resize images one by one; processor seconds."""
    began = time.process_time()
    for file in files:
        with Image.open(file) as image:
            np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    return time.process_time() - began


def plain(place: Path) -> Row:
    """`PIL.Image.open` and resize in one process, on a sample."""
    files = _sample(place)
    return _measured(PLAIN, len(files), lambda: _read(files))


def plain_on_all(place: Path) -> Row:
    """The same in as many processes as there are cores, which have started: what this machine can give at most."""
    files, cores = _sample(place), len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:
        for ready in [pool.submit(time.sleep, 0.5) for _ in range(cores)]:
            ready.result()
        parts = [files[core::cores] for core in range(cores)]
        spent: list[float] = []
        row = _measured(f"PIL in {cores} processes", len(files), lambda: spent.extend(pool.map(_read, parts)))
    return replace(row, processor_ms=1000 * sum(spent) / len(files))


def decoded(place: Path, cache: Path) -> Row:
    """`load_train` with a cache."""
    count = sum(1 for _ in (place / "train").rglob("*.jpg"))
    work = lambda: load_train(f"folder:{place}", image_size=SIDE, cache=cache)  # noqa: E731
    return _measured(OURS, count, work)


def looked_at(place: Path) -> Row:
    """`inspect`."""
    count = sum(1 for _ in place.rglob("*.png"))
    return _measured("inspect", count, lambda: inspect(f"folder:{place}", wanted=Wanted(labelled=50)))


def alone(work: Callable[..., Row], *words: Path) -> Row:
    """Call something in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *words).result()


def photographs(place: Path, count: int, rounds: int) -> Iterator[Row]:
    """Rows of a quarter of the files and of all: plain, ours, plain, ours, ..., plain, and plain on all cores."""
    for number in (count // 4, count):
        write_photographs(place / str(number), number)
        for round_ in range(rounds):
            yield alone(plain, place / str(number))
            yield alone(decoded, place / str(number), place / f"cache-{number}-{round_}")
        yield alone(plain, place / str(number))
        yield plain_on_all(place / str(number))


def ratios(rows: Sequence[Row]) -> dict[int, float]:
    """For each number of files the median of our rate over the mean of the plain rates before and after it."""
    found: dict[int, list[float]] = {}
    for place, row in enumerate(rows):
        if row.what == OURS:
            beside = statistics.fmean(rows[i].images_per_second for i in (place - 1, place + 1))
            found.setdefault(row.images, []).append(row.images_per_second / beside)
    return {images: statistics.median(values) for images, values in found.items()}


def main(words: Sequence[str] | None = None) -> None:
    """Measure, and print a row for each process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=20_000, help="JPEGs of 400x300")
    parser.add_argument("--tiny", type=int, help="look at so many files of 8x8 instead")
    parser.add_argument("--rounds", type=int, default=1, help="measure each number of files so often")
    parser.add_argument("--place", type=Path, help="folder to work in (default: a temporary one)")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    asked = parser.parse_args(words)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=asked.place) as folder:
        place = Path(folder)
        if asked.tiny:
            write_tiny(place / "tiny", asked.tiny)
            rows.append(alone(looked_at, place / "tiny"))
        else:
            rows.extend(photographs(place, asked.images, asked.rounds))
    if asked.json:
        document = {
            "cores": len(os.sched_getaffinity(0)),
            "rows": [asdict(row) for row in rows],
            "ratios": ratios(rows),
        }
        print(json.dumps(document))
        return
    for row in rows:
        print(
            f"{row.what:20} {row.images:7} images {row.seconds:7.1f} s {row.images_per_second:7.0f} images/s "
            f"{row.processor_ms:6.2f} ms of processor an image, RssAnon {row.peak_anonymous_mib:6.0f} MiB"
        )
    for images, ratio in ratios(rows).items():
        print(f"{images} images: {ratio:.2f} times the plain rate")


if __name__ == "__main__":
    main()
