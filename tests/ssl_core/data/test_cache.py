"""Decoded once, mapped by all: on small real files."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl_core.data import assembly, builtin
from ssl_core.data import cache as cache_module
from ssl_core.data import datasets as data
from tests.ssl_core.data.helpers import all_files, message, picture, same, write_cifar


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("decoded again")

    monkeypatch.setattr(assembly, "decode_files", fail)
    monkeypatch.setattr(builtin, "read", fail)


@pytest.mark.parametrize("which", ["folder", "digits", "cifar10"])
def test_second_load_maps_the_same_file(
    which: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if which == "cifar10":
        write_cifar(tmp_path / "root", monkeypatch, which)
    name = f"folder:{folder}" if which == "folder" else which
    cache = tmp_path / "home" / "cache"
    plain = data.load_train(name, root=tmp_path / "root")
    plain_test = data.load_test(name, root=tmp_path / "root")
    first = data.load_train(name, root=tmp_path / "root", cache=cache)
    first_test = data.load_test(name, root=tmp_path / "root", cache=cache)
    forbid_decoding(monkeypatch)
    second = data.load_train(name, root=tmp_path / "root", cache=cache)
    second_test = data.load_test(name, root=tmp_path / "root", cache=cache)
    assert not isinstance(plain.images, np.memmap)
    for loaded in (first, second):
        assert same(loaded, plain)
        assert isinstance(loaded.images, np.memmap) and loaded.images.mode == "r"
        assert not loaded.images.flags.writeable and not loaded.labels.flags.writeable
    assert first.images.filename == second.images.filename  # type: ignore[attr-defined]
    for loaded_test in (first_test, second_test):
        np.testing.assert_array_equal(loaded_test.images, plain_test.images)
        np.testing.assert_array_equal(loaded_test.labels, plain_test.labels)
        assert isinstance(loaded_test.images, np.memmap)
    assert len(list(cache.iterdir())) == 2  # one entry a part, and nothing left over
    for entry in cache.iterdir():
        part = "train" if (entry / "train_images.npy").exists() else "test"
        rows = [f"{part}_rows.npz"] if which == "folder" else []
        assert all_files(entry) == ["meta.json", f"{part}_images.npy", f"{part}_labels.npy", *rows]


def test_cache_follows_the_files_and_the_size(folder: Path, tmp_path: Path) -> None:
    name, cache = f"folder:{folder}", tmp_path / "cache"
    first = data.load_train(name, cache=cache)
    assert data.load_train(name, image_size=12, cache=cache).image_size == 12
    changed = folder / "train" / "cat" / "000.png"
    status = changed.stat()
    picture(99).save(changed)
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    second = data.load_train(name, cache=cache)
    np.testing.assert_array_equal(second.images[0], np.asarray(picture(99)))
    changed.unlink()
    third = data.load_train(name, cache=cache)
    assert len(third.labels) == 6
    assert len({first.fingerprint, second.fingerprint, third.fingerprint}) == 3


def test_a_relative_and_an_absolute_path_share_an_entry(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.load_train(f"folder:{folder}", cache=tmp_path / "cache")
    monkeypatch.chdir(folder.parent)
    forbid_decoding(monkeypatch)
    loaded = data.load_train(f"folder:{folder.name}", cache=Path("cache"))
    assert loaded.name == f"folder:{folder.name}" and isinstance(loaded.images, np.memmap)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


def flip_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def edit_meta(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


DAMAGE = {
    "images truncated": lambda entry: truncate(entry / "train_images.npy"),
    "images empty": lambda entry: (entry / "train_images.npy").write_bytes(b""),
    "images missing": lambda entry: (entry / "train_images.npy").unlink(),
    "one bit of the images": lambda entry: flip_bit(entry / "train_images.npy"),
    "labels truncated": lambda entry: truncate(entry / "train_labels.npy"),
    "one bit of the labels": lambda entry: flip_bit(entry / "train_labels.npy"),
    "labels pickled": lambda entry: np.save(
        entry / "train_labels.npy", np.array([{}], dtype=object), allow_pickle=True
    ),
    "meta truncated": lambda entry: truncate(entry / "meta.json"),
    "meta a list": lambda entry: (entry / "meta.json").write_text("[]"),
    "meta of another format": lambda entry: edit_meta(entry / "meta.json", format=0),
    "meta with other classes": lambda entry: edit_meta(entry / "meta.json", classes=["x", "y"]),
    "meta without mean": lambda entry: edit_meta(entry / "meta.json", mean=None),
    "meta with other rows": lambda entry: edit_meta(entry / "meta.json", rows_digest="0"),
    "one bit of the rows": lambda entry: flip_bit(entry / "train_rows.npz"),
    "rows missing": lambda entry: (entry / "train_rows.npz").unlink(),
    "meta missing": lambda entry: (entry / "meta.json").unlink(),
    "an empty folder": lambda entry: [file.unlink() for file in list(entry.iterdir())],
    "a file in its place": lambda entry: (shutil.rmtree(entry), entry.write_text("")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_entry_is_rebuilt(
    damage: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, cache = f"folder:{folder}", tmp_path / "cache"
    plain = data.load_train(name)
    data.load_train(name, cache=cache)
    (entry,) = cache.iterdir()
    DAMAGE[damage](entry)
    assert same(data.load_train(name, cache=cache), plain)
    assert list(cache.iterdir()) == [entry]
    forbid_decoding(monkeypatch)
    assert same(data.load_train(name, cache=cache), plain)


def load_in_a_process(barrier: Any, name: str, cache: Path, locks: bool, results: Any) -> None:
    if not locks:  # as on a file system that has none

        def refuse(*args: Any) -> None:
            raise OSError("no locks here")

        cache_module.fcntl.flock = refuse  # type: ignore[assignment]
    decode = assembly.decode_files
    decoded = []

    def count(*args: Any, **kwargs: Any) -> Any:
        decoded.append(1)
        return decode(*args, **kwargs)

    assembly.decode_files = count
    barrier.wait()
    loaded = data.load_train(name, cache=cache)
    results.put((loaded.fingerprint, isinstance(loaded.images, np.memmap), len(decoded)))


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("locks", [True, False])
def test_processes_that_race_all_succeed(folder: Path, tmp_path: Path, locks: bool, damaged: bool) -> None:
    name, cache = f"folder:{folder}", tmp_path / "cache"
    if damaged:
        data.load_train(name, cache=cache)
        truncate(next(cache.rglob("train_images.npy")))
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    arguments = (barrier, name, cache, locks, results)
    processes = [context.Process(target=load_in_a_process, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    outcomes = [results.get(timeout=240) for _ in processes]
    for process in processes:
        process.join(timeout=240)
        assert process.exitcode == 0
    assert {(fingerprint, mapped) for fingerprint, mapped, _ in outcomes} == {
        (data.load_train(name).fingerprint, True)
    }
    if locks:
        assert sum(decoded for _, _, decoded in outcomes) == 1  # once per machine
    assert len(list(cache.iterdir())) == 1


def test_nothing_is_written_on_an_error(folder: Path, tmp_path: Path) -> None:
    (folder / "train" / "dog" / "003.png").write_bytes(b"")
    cache = tmp_path / "cache"
    before = all_files(tmp_path)
    message(data.load_train, f"folder:{folder}", cache=cache)
    assert all_files(tmp_path) == before
    cache.mkdir()
    message(data.load_train, f"folder:{folder}", cache=cache)
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_warned_about(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match=f"cannot be cached in {tmp_path / 'file'}"):
        loaded = data.load_train(f"folder:{folder}", cache=tmp_path / "file")
    assert same(loaded, data.load_train(f"folder:{folder}"))


def test_a_failed_store_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="No space left"):
        data.load_train(f"folder:{folder}", cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_what_a_killed_process_left_is_removed(folder: Path, tmp_path: Path) -> None:
    name, cache = f"folder:{folder}", tmp_path / "cache"
    data.load_train(name, cache=cache)
    (entry,) = cache.iterdir()
    entry.rename(cache / f".{entry.name}-abc")
    (cache / f".{entry.name}.lock").write_text("")
    data.load_train(name, cache=cache)
    assert list(cache.iterdir()) == [entry]


def test_a_lock_file_removed_by_its_holder_is_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = cache_module._acquire(path)
    assert holder is not None
    results: list[int | None] = []
    waiting = threading.Thread(target=lambda: results.append(cache_module._acquire(path)))
    waiting.start()
    waiting.join(timeout=0.2)
    assert waiting.is_alive()  # it waits for the holder
    path.rename(tmp_path / "removed")  # as unlinking does, but the inode's number cannot be used again
    os.close(holder)
    waiting.join(timeout=240)
    assert results[0] is not None
    assert os.fstat(results[0]).st_ino == path.stat().st_ino
    os.close(results[0])


COUNTS = """
import sys
from pathlib import Path
from ssl_core.data import cache, datasets
calls, real = [], cache.fingerprint_of
cache.fingerprint_of = lambda *args: calls.append(1) or real(*args)
datasets.load_train(f"folder:{sys.argv[1]}", cache=Path(sys.argv[2]))
print(len(calls))
"""


def test_the_images_are_hashed_once_on_a_machine_not_by_every_process(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hashed() -> int:
        """How often a new process, such as a trial's, compares the images with their fingerprint."""
        words = [sys.executable, "-c", COUNTS, str(folder), str(tmp_path / "cache")]
        return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)

    data.load_train(f"folder:{folder}", cache=tmp_path / "cache")
    assert [hashed(), hashed()] == [0, 0]  # the process that decoded them has computed it
    (images,) = (tmp_path / "cache").glob("*/train_images.npy")
    images.write_bytes(images.read_bytes())  # the same bits, but nobody can know
    assert [hashed(), hashed()] == [1, 0]
    monkeypatch.setattr(cache_module, "_machine", lambda: "another")
    calls = list[int]()
    real = cache_module.fingerprint_of
    monkeypatch.setattr(cache_module, "fingerprint_of", lambda *args: calls.append(1) or real(*args))
    for _ in range(2):
        data.load_train(f"folder:{folder}", cache=tmp_path / "cache")
    assert len(calls) == 1
    assert hashed() == 0  # this machine's note is still there
