"""Test images looked at before anything is trained: damaged ones, and those that are training images."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from ssl_core.data import datasets as data
from ssl_core.data.inspecting import examined
from ssl_core.data.inspecting.overlaps import check_test_images
from ssl_core.data.options import Options
from tests.ssl_core.data.helpers import all_files, message, picture, write_folder


def check(path: Path, **how: Any) -> list[str]:
    options = Options()
    return check_test_images(data.load_train(f"folder:{path}", options=options), options, **how)


def test_all_damaged_test_images_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "f", {"a": 4, "b": 4}, test=6)
    assert check(path) == []
    for number in (0, 3):
        (path / "test" / "a" / f"{number:03}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    before = all_files(tmp_path)
    text = message(check, path)
    assert "2 of 12 images cannot be read: test/a/000.png, test/a/003.png" in text and "never skipped" in text
    assert all_files(tmp_path) == before


def test_a_few_leaked_images_are_told_and_many_are_refused(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "f", {"a": 40, "b": 40}, test=20)
    shutil.copy(path / "train/a/000.png", path / "test/a/000.png")
    shutil.copy(path / "train/a/001.png", path / "test/a/001.png")  # 2 of 40: 5 %
    (told,) = check(path)
    assert "2 of 40 test images" in told and "lower than on new images" in told
    shutil.copy(path / "train/a/002.png", path / "test/a/002.png")
    assert "3 of 40 test images" in (text := message(check, path)) and "data.allow_leak: true" in text
    (told,) = check(path, allow_leak=True)
    assert "3 of 40 test images" in told


def test_a_leaked_copy_in_another_format_is_found(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "f", {"a": 4, "b": 4}, test=2)
    for name in "ab":
        for number in range(2):
            picture(500 + number).save(path / "train" / name / f"{number:03}.bmp")
            picture(500 + number).save(path / "test" / name / f"{number:03}.png")
    assert "4 of 4 test images" in message(check, path)


def test_hashes_of_test_images_are_kept_until_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache = write_folder(tmp_path / "f", {"a": 40, "b": 40}, test=20), tmp_path / "cache"
    shutil.copy(path / "train/a/000.png", path / "test/a/000.png")
    looked_at, examine = [], examined.examine_files
    monkeypatch.setattr(
        examined,
        "examine_files",
        lambda root, files, told: looked_at.append(len(files)) or examine(root, files, told),
    )

    def told() -> list[str]:
        looked_at.clear()
        return check(path, cache=cache)

    first = told()
    assert looked_at == [40] and "1 of 40 test images" in first[0]
    assert told() == first and looked_at == []
    shutil.copy(path / "train/a/001.png", path / "test/a/001.png")
    assert "2 of 40 test images" in told()[0] and looked_at == [40]
    for stored in cache.glob(f"*/{examined.FILE}"):
        stored.write_bytes(stored.read_bytes()[:-7])  # cut off
    assert "2 of 40 test images" in told()[0] and looked_at == [40]
    (path / "test" / "a" / "002.png").write_bytes(b"no picture")
    for _ in range(2):  # what is damaged is looked at again
        assert "image test/a/002.png cannot be read" in message(told) and looked_at == [40]


def test_a_cache_that_cannot_be_written_costs_the_saving_alone(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "f", {"a": 8, "b": 8}, test=4)
    (tmp_path / "cache").write_text("a file is in the way")
    assert check(path, cache=tmp_path / "cache") == []


def test_held_out_test_images_and_arrays_need_no_look(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "f", {"a": 8, "b": 8})
    shutil.rmtree(path / "test")
    assert check(path) == []
    assert check_test_images(data.load_train("digits"), Options()) == []
