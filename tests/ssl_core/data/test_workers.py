"""Processes that decode: the same as threads, interrupted, and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl_core.data import datasets as data
from ssl_core.data.decoding import stream, workers
from ssl_core.data.decoding.picture import Shape
from ssl_core.data.decoding.stream import Decoded, decode_files
from ssl_core.data.decoding.workers import Job, Worker
from tests.ssl_core.data.helpers import picture, same, write_folder


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Eleven files of several kinds, the fifth damaged, in blocks of two, decoded by two processes."""
    monkeypatch.setattr(stream, "_FILES_PER_TASK", 2)
    monkeypatch.setattr(stream, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(stream, "_FOR_PROCESSES", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    (tmp_path / "f").mkdir()
    (tmp_path / "place").mkdir()
    names = [f"{i:02}.png" for i in range(9)] + ["\u00e4 b.png", os.fsdecode(b"\xff.png")]
    for i, name in enumerate(names):
        picture(i, mode="RGBA" if i == 3 else "RGB").resize((8, 8 + i % 3)).save(tmp_path / "f" / name)
    Image.fromarray(np.full((8, 8), 3000, dtype=np.uint16)).save(tmp_path / "f" / "07.png")
    (tmp_path / "f" / "04.png").write_bytes(b"")
    return names


def everything(decoded: Decoded) -> Any:
    return (
        decoded.images.tobytes(),
        decoded.hashes.tobytes(),
        decoded.damaged,
        dict(sorted(decoded.headers.items())),
    )


@pytest.mark.parametrize(
    "shape", [Shape(8), Shape(6, "pad", (1, 2, 3)), Shape(9, "stretch", (7, 7, 7), bits=12)], ids=str
)
def test_processes_decode_as_threads_do(
    shape: Shape, tmp_path: Path, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = list[Job]()
    monkeypatch.setattr(
        stream, "Workers", lambda job, count: started.append(job) or workers.Workers(job, count)
    )
    by_processes = decode_files(tmp_path / "f", files, shape, tmp_path / "place")
    assert len(started) == 1
    in_memory = decode_files(tmp_path / "f", files, shape)
    assert len(started) == 1  # an array in memory is filled by threads
    assert everything(by_processes) == everything(in_memory)
    assert list(by_processes.damaged) == [4] and len(by_processes.headers) == 10


def test_an_interrupted_decoding_goes_on(tmp_path: Path, files: list[str]) -> None:
    class StopError(Exception):
        """As when somebody presses Ctrl-C."""

    def stop(done: int, total: int) -> None:
        if done >= 4:
            raise StopError

    with pytest.raises(StopError):
        decode_files(tmp_path / "f", files, Shape(8), tmp_path / "place", stop)
    told = list[int]()
    rest = decode_files(
        tmp_path / "f", files, Shape(8), tmp_path / "place", lambda done, _: told.append(done)
    )
    assert told[0] > 4 and told[-1] == 11
    whole = decode_files(tmp_path / "f", files, Shape(8))
    assert everything(rest)[:3] == everything(whole)[:3]


def job_of(tmp_path: Path) -> Job:
    decoded, _ = stream._opened(tmp_path / "place", 11, 8)
    assert isinstance(decoded.images, np.memmap) and decoded.images.filename is not None
    return Job(str(tmp_path / "f"), Shape(8), str(decoded.images.filename), decoded.images.offset)


def test_a_worker_that_was_killed_is_named_with_its_files(tmp_path: Path, files: list[str]) -> None:
    worker = Worker(job_of(tmp_path))
    worker.decode(0, files[:2])
    os.kill(worker._process.pid, signal.SIGKILL)
    worker._process.wait()
    with pytest.raises(RuntimeError, match=r"ended with code -9 .* from 02\.png to 03\.png"):
        worker.decode(2, files[2:4])
    worker.close()


def test_a_worker_ends_with_its_parent(tmp_path: Path, files: list[str]) -> None:
    code = f"""
import os
from ssl_core.data.decoding.picture import Shape
from ssl_core.data.decoding.workers import Job, Worker
job = {job_of(tmp_path)!r}
worker = Worker(job)
worker.decode(0, ["00.png"])
print(worker._process.pid, flush=True)
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    until = time.monotonic() + 240
    while is_running(int(done.stdout)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_running(int(done.stdout))


def is_running(process: int) -> bool:
    """Whether it is there, and not only as an entry that nobody has collected."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_script_without_a_guard_is_not_run_again(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "f", {"a": 6, "b": 6})
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from ssl_core.data import datasets\n"
        "from ssl_core.data.decoding import stream\n"
        "stream._FOR_PROCESSES, stream._FILES_PER_TASK = 1, 4\n"
        f"datasets.load_train('folder:{path}', cache=Path({str(tmp_path / 'cache')!r}))\n"
        "print('once')\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout == "once\n" and done.stderr == ""
    mine = data.load_train(f"folder:{path}", cache=tmp_path / "cache")
    assert same(mine, data.load_train(f"folder:{path}"))
