"""Decoding in blocks: told, interrupted, gone on with."""

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

from ssl_core.data import cache as cache_module
from ssl_core.data import datasets as data
from ssl_core.data.decoding import picture as picture_module
from ssl_core.data.decoding import stream
from ssl_core.data.decoding.headers import shape_of, survey
from ssl_core.data.decoding.picture import Shape
from ssl_core.data.decoding.stream import decode_files, decode_to_size
from ssl_core.data.options import Options
from tests.ssl_core.data.helpers import all_files, picture, same, write_folder


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Eleven files below tmp_path/f, the fifth damaged, decoded in blocks of three."""
    monkeypatch.setattr(stream, "_FILES_PER_TASK", 3)
    monkeypatch.setattr(stream, "_SAVE_SECONDS", 0.0)
    (tmp_path / "f").mkdir()
    names = [f"{i:02}.png" for i in range(11)]
    for i, name in enumerate(names):
        picture(i).save(tmp_path / "f" / name)
    (tmp_path / "f" / "04.png").write_bytes(b"")
    return names


class StopError(Exception):
    """As when somebody presses Ctrl-C."""


def stop_after(count: int) -> Any:
    def progress(done: int, total: int) -> None:
        if done >= count:
            raise StopError

    return progress


def test_a_file_takes_the_array_in_the_same_bits(tmp_path: Path, files: list[str]) -> None:
    in_memory = decode_files(tmp_path / "f", files, Shape(8))
    (tmp_path / "place").mkdir()
    on_disk = decode_files(tmp_path / "f", files, Shape(8), tmp_path / "place")
    assert isinstance(on_disk.images, np.memmap) and not isinstance(in_memory.images, np.memmap)
    np.testing.assert_array_equal(on_disk.images, in_memory.images)
    np.testing.assert_array_equal(on_disk.hashes, in_memory.hashes)
    assert on_disk.damaged == in_memory.damaged and list(in_memory.damaged) == [4]
    assert not in_memory.images[4].any()


@pytest.mark.parametrize("stop", [3, 6, 9, 11])
def test_an_interrupted_call_is_gone_on_with(tmp_path: Path, files: list[str], stop: int) -> None:
    whole, place = decode_files(tmp_path / "f", files, Shape(8)), tmp_path / "place"
    place.mkdir()
    with pytest.raises(StopError):
        decode_files(tmp_path / "f", files, Shape(8), place, stop_after(stop))
    for name in files[:stop]:  # what was decoded is not decoded again
        (tmp_path / "f" / name).unlink()
    told: list[tuple[int, int]] = []
    rest = decode_files(tmp_path / "f", files, Shape(8), place, lambda *how_far: told.append(how_far))
    np.testing.assert_array_equal(rest.images, whole.images)
    np.testing.assert_array_equal(rest.hashes, whole.hashes)
    assert rest.damaged == whole.damaged
    assert told == [(min(done, 11), 11) for done in range(stop + 3, 14, 3)]


def test_half_a_line_of_the_journal_costs_one_block(tmp_path: Path, files: list[str]) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with pytest.raises(StopError):
        decode_files(tmp_path / "f", files, Shape(8), place, stop_after(6))
    journal = place / stream.JOURNAL_FILE
    journal.write_bytes(journal.read_bytes()[:-20])
    rest = decode_files(tmp_path / "f", files, Shape(8), place)
    np.testing.assert_array_equal(rest.images, decode_files(tmp_path / "f", files, Shape(8)).images)
    # ... also where the next sitting has written behind it.
    again = decode_files(tmp_path / "f", files, Shape(8), place)
    np.testing.assert_array_equal(again.images, rest.images)


def test_another_shape_begins_anew(tmp_path: Path, files: list[str]) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with pytest.raises(StopError):
        decode_files(tmp_path / "f", files, Shape(8), place, stop_after(6))
    larger = decode_files(tmp_path / "f", files, Shape(12), place)
    np.testing.assert_array_equal(larger.images, decode_files(tmp_path / "f", files, Shape(12)).images)


def test_a_journal_without_its_images_is_not_believed(tmp_path: Path, files: list[str]) -> None:
    place = tmp_path / "place"
    place.mkdir()
    decode_files(tmp_path / "f", files, Shape(8), place)
    (place / stream.IMAGES_FILE).unlink()
    again = decode_files(tmp_path / "f", files, Shape(8), place)
    np.testing.assert_array_equal(again.images, decode_files(tmp_path / "f", files, Shape(8)).images)


# ---- through the cache


def test_an_interrupted_load_leaves_what_it_decoded_and_nothing_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_FILES_PER_TASK", 3)
    path, cache = write_folder(tmp_path / "f", {"a": 10, "b": 10}), tmp_path / "cache"
    name = f"folder:{path}"
    with pytest.raises(StopError):
        data.load_train(name, cache=cache, progress=stop_after(9))
    (partial,) = cache.iterdir()
    assert partial.name.endswith(".partial")
    assert all_files(partial) == [stream.IMAGES_FILE, stream.JOURNAL_FILE]
    told: list[int] = []
    loaded = data.load_train(name, cache=cache, progress=lambda done, total: told.append(done))
    assert told[0] == 12 and told[-1] == 20
    assert same(loaded, data.load_train(name))
    (entry,) = cache.iterdir()
    assert not entry.name.startswith(".")


def test_a_killed_load_is_gone_on_with(tmp_path: Path) -> None:
    path, cache = write_folder(tmp_path / "f", {"a": 60, "b": 60}, side=64), tmp_path / "cache"
    code = f"""
import time
from pathlib import Path
from ssl_core.data import datasets
from ssl_core.data.decoding import stream
stream._FILES_PER_TASK, stream._SAVE_SECONDS = 4, 0.0
def progress(done, total):
    print(done, flush=True)
    time.sleep(0.02)
datasets.load_train({f"folder:{path}"!r}, cache=Path({str(cache)!r}), progress=progress)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 40:
                process.send_signal(signal.SIGKILL)
                break
    told: list[int] = []
    stored = stream._FILES_PER_TASK
    try:
        stream._FILES_PER_TASK = 4
        loaded = data.load_train(
            f"folder:{path}", cache=cache, progress=lambda done, total: told.append(done)
        )
    finally:
        stream._FILES_PER_TASK = stored
    assert told[0] > 36  # the killed process had brought these to the disk
    assert same(loaded, data.load_train(f"folder:{path}"))
    assert len(list(cache.iterdir())) == 1


def test_a_full_disk_is_told_and_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.warns(UserWarning, match="No space left"):
        loaded = data.load_train(f"folder:{folder}", cache=tmp_path / "cache")
    assert same(loaded, data.load_train(f"folder:{folder}"))
    assert not (tmp_path / "cache").exists() or not any((tmp_path / "cache").iterdir())


def test_the_images_are_hashed_once_on_a_machine(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, cache = f"folder:{folder}", tmp_path / "cache"
    counted = []
    real = cache_module.fingerprint_of

    def count(*args: Any) -> str:
        counted.append(1)
        return real(*args)

    monkeypatch.setattr(cache_module, "fingerprint_of", count)
    first = data.load_train(name, cache=cache)
    assert same(data.load_train(name, cache=cache), first) and not counted  # hashed when it was stored
    monkeypatch.setattr(cache_module, "_machine", lambda: "another machine")
    for _ in range(3):
        assert same(data.load_train(name, cache=cache), first)
    assert len(counted) == 1
    (entry,) = cache.iterdir()
    os.utime(entry / "train_images.npy")  # written again, perhaps
    for _ in range(2):
        assert same(data.load_train(name, cache=cache), first)
    assert len(counted) == 2


def test_a_cache_that_may_only_be_read_is_hashed_each_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(30, "Read-only file system")

    name, cache = f"folder:{folder}", tmp_path / "cache"
    first = data.load_train(name, cache=cache)
    monkeypatch.setattr(cache_module, "_machine", lambda: "another machine")
    monkeypatch.setattr(cache_module, "write_atomically", refuse)
    assert same(data.load_train(name, cache=cache), first)


@pytest.mark.parametrize("held_out", [False, True])
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path, held_out: bool) -> None:
    path = tmp_path / "f"
    for name in "ab":
        (path / "train" / name).mkdir(parents=True)
        (path / "test" / name).mkdir(parents=True)
        picture(1, 16).save(path / "test" / name / "0.png")
        for i in range(150):
            picture(i, 16).save(path / "train" / name / f"{i}.png")
    if held_out:
        for file in sorted((path / "test").rglob("*.png")):
            file.unlink()
        for folder in ("a", "b", ""):
            (path / "test" / folder).rmdir()
    code = f"""
import threading, time
from pathlib import Path
from ssl_core.data import datasets
from ssl_core.data.options import Options
def anonymous():
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith('RssAnon'):
            return int(line.split()[1])
datasets.load_train('folder:{path}', options=Options(image_size=16))  # every module is loaded
before, peak, done = anonymous(), [0], []
def watch():
    while not done:
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.002)
watcher = threading.Thread(target=watch)
watcher.start()
data = datasets.load_train('folder:{path}', options=Options(image_size=512), cache=Path('{tmp_path / "cache"}'))
done.append(1)
watcher.join()
print(before, peak[0], data.images.nbytes // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, peak, images = map(int, done.stdout.split())
    assert images > 100_000  # 235 MB, less what was held out
    assert peak - before < 60_000


def write_kinds(path: Path) -> list[str]:
    """Seven files of 12 bits, transparent, of two pages, plain, and a damaged one; their names."""
    path.mkdir()
    for index in range(3):
        values = np.random.default_rng(index).integers(0, 4096, (9, 12), dtype=np.uint16)
        Image.fromarray(values).save(path / f"deep-{index}.png")
    picture(5, mode="RGBA").save(path / "alpha.png")
    picture(6).save(path / "paged.tif", save_all=True, append_images=[picture(7)])
    picture(8).save(path / "plain.png")
    (path / "wrong.png").write_bytes(b"no image")
    return sorted(file.name for file in path.iterdir())


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_size_that_is_known_needs_one_pass_and_gives_the_same(
    interrupted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_FILES_PER_TASK", 2)
    monkeypatch.setattr(stream, "_SAVE_SECONDS", 0.0)
    names, options = write_kinds(tmp_path / "f"), Options(image_size=8)
    expected, told = shape_of(tmp_path / "f", survey(tmp_path / "f", names), options)
    surveyed = decode_files(tmp_path / "f", names, expected)
    assert expected.bits == 12 and len(told) == 3
    (tmp_path / "place").mkdir()
    if interrupted:
        with pytest.raises(StopError):
            decode_to_size(tmp_path / "f", names, options, tmp_path / "place", stop_after(4))
    decoded, shape, notes = decode_to_size(tmp_path / "f", names, options, tmp_path / "place", None)
    assert (shape, notes) == (expected, told)
    np.testing.assert_array_equal(decoded.images, surveyed.images)
    np.testing.assert_array_equal(decoded.hashes, surveyed.hashes)
    assert decoded.damaged == surveyed.damaged and len(decoded.damaged) == 1


def test_a_size_that_is_known_opens_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_folder(tmp_path / "f", {"a": 4, "b": 4})
    opened, real = list[str](), picture_module.opened
    monkeypatch.setattr(picture_module, "opened", lambda file: opened.append(str(file)) or real(file))
    data.load_train(f"folder:{path}", image_size=12)
    assert sorted(opened) == sorted(str(file) for file in (path / "train").rglob("*.png"))


def test_options_that_change_pixels_have_entries_of_their_own(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "f", {"a": 2, "b": 2})
    picture(1, mode="RGBA").resize((8, 12)).save(path / "train/a/000.png")
    name, cache = f"folder:{path}", tmp_path / "cache"
    seen = {}
    for options in (
        Options(),
        Options(resize="pad"),
        Options(resize="stretch"),
        Options(background="black"),
        Options(image_size=10),
    ):
        seen[options] = data.load_train(name, cache=cache, options=options).fingerprint
        assert data.load_train(name, options=options).fingerprint == seen[options]
    assert len(set(seen.values())) == 5
    assert data.load_train(name, cache=cache, options=Options(flip=False)).fingerprint == seen[Options()]
    assert len(list(cache.iterdir())) == 5


def test_decoding_uses_every_core_for_large_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_FILES_PER_TASK", 1)
    path = write_folder(tmp_path / "f", {"a": 8, "b": 8}, side=64)
    inside, most = [0], [0]
    real = stream.decode_with_header

    def watched(*args: Any) -> Any:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.02)  # the interpreter's lock is free, as it is while pixels are decoded
        try:
            return real(*args)
        finally:
            inside[0] -= 1

    monkeypatch.setattr(stream, "decode_with_header", watched)
    data.load_train(f"folder:{path}")
    assert most[0] == len(os.sched_getaffinity(0))
