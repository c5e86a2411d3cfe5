"""Files that cannot be decoded: all counted, refused or left out, and left out again exactly."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from ssl_core.data import datasets as data
from ssl_core.data.options import Options, Skipped
from tests.ssl_core.data.helpers import all_files, message, picture, write_folder

SKIP = Options(on_damaged="skip")


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:60])


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Twenty of eighty training images are damaged."""
    path = write_folder(tmp_path / "f", {"a": 40, "b": 40})
    for name in "ab":
        for i in range(0, 40, 4):
            truncate(path / "train" / name / f"{i:03}.png")
    return path


def test_all_are_counted_and_ten_are_named(damaged: Path, tmp_path: Path) -> None:
    before = all_files(tmp_path)
    text = message(data.load_train, f"folder:{damaged}", cache=tmp_path / "cache")
    assert "20 of 80 images cannot be read: train/a/000.png" in text and "train/a/036.png and 10 more" in text
    assert "train/b" not in text and "data.on_damaged: skip" in text
    assert all_files(tmp_path) == before


@pytest.mark.parametrize("cached", [False, True])
def test_they_are_left_out_on_request_and_recorded(damaged: Path, tmp_path: Path, cached: bool) -> None:
    cache = tmp_path / "cache" if cached else None
    for _ in range(2):
        train = data.load_train(f"folder:{damaged}", options=SKIP, cache=cache)
        assert np.bincount(train.labels).tolist() == [30, 30]
        assert train.rows is not None and len(train.rows.files) == 60
        np.testing.assert_array_equal(train.images[0], np.asarray(picture(2)))
        assert len(train.facts.skipped) == 20
        file, digest = train.facts.skipped[0]
        assert file == "train/a/000.png"
        assert digest == hashlib.sha256((damaged / file).read_bytes()).hexdigest()
        assert any("skipped: 20 damaged files, train/a/000.png" in note for note in train.facts.notes)


def recorded(path: Path) -> Options:
    train = data.load_train(f"folder:{path}", options=SKIP)
    return Options(skipped=tuple(Skipped(*one) for one in train.facts.skipped))


def test_exactly_the_recorded_files_are_left_out_again(damaged: Path) -> None:
    name, options = f"folder:{damaged}", recorded(damaged)
    first = data.load_train(name, options=SKIP)
    again = data.load_train(name, options=options)
    assert again.fingerprint == first.fingerprint and again.facts.skipped == first.facts.skipped
    truncate(damaged / "train/b/001.png")
    text = message(data.load_train, name, options=options)
    assert "image train/b/001.png cannot be read" in text and "that this configuration records" in text


def test_a_recorded_file_that_changed_is_refused(damaged: Path) -> None:
    name, options = f"folder:{damaged}", recorded(damaged)
    (damaged / "train/a/000.png").write_bytes(b"damaged in another way")
    assert "image train/a/000.png cannot be read" in message(data.load_train, name, options=options)
    picture(1).save(damaged / "train/a/000.png")
    text = message(data.load_train, name, options=options)
    assert "train/a/000.png was skipped as damaged" in text and "can be read now" in text
    (damaged / "train/a/000.png").unlink()
    assert len(data.load_train(name, options=options).labels) == 60


@pytest.mark.parametrize("part", ["valid", "test"])
def test_damaged_validation_and_test_images_are_never_left_out(folder: Path, part: str) -> None:
    for name in ("cat", "dog"):
        (folder / part / name).mkdir(parents=True, exist_ok=True)
        picture(5).save(folder / part / name / "000.png")
    truncate(folder / part / "cat" / "000.png")
    load = data.load_test if part == "test" else data.load_train
    text = message(load, f"folder:{folder}", options=SKIP)
    assert f"image {part}/cat/000.png cannot be read" in text and "never skipped" in text


def test_a_class_that_nothing_is_left_of_is_refused(folder: Path) -> None:
    for file in (folder / "train" / "cat").iterdir():
        file.write_bytes(b"")
    assert "no image of class 'cat' is left" in message(data.load_train, f"folder:{folder}", options=SKIP)


def test_only_damaged_files(folder: Path) -> None:
    for file in (folder / "train").rglob("*.png"):
        file.write_bytes(b"")
    assert "7 of 7 images cannot be read" in message(data.load_train, f"folder:{folder}")


def test_a_damaged_unlabelled_image_is_left_out_on_request(folder: Path) -> None:
    (folder / "unlabelled").mkdir()
    picture(5).save(folder / "unlabelled/a.png")
    (folder / "unlabelled/b.png").write_bytes(b"")
    assert "unlabelled/b.png cannot be read" in message(data.load_train, f"folder:{folder}")
    train = data.load_train(f"folder:{folder}", options=SKIP)
    assert (train.labels == -1).sum() == 1 and [one[0] for one in train.facts.skipped] == ["unlabelled/b.png"]


def test_what_is_on_record_is_compared_with_decoded_images_too(damaged: Path, tmp_path: Path) -> None:
    name, cache, options = f"folder:{damaged}", tmp_path / "cache", recorded(damaged)
    first = data.load_train(name, options=SKIP, cache=cache)
    entries = sorted(cache.iterdir())
    again = data.load_train(name, options=options, cache=cache)
    assert again.fingerprint == first.fingerprint and sorted(cache.iterdir()) == entries  # decoded once
    none_skipped = Options(skipped=())
    text = message(data.load_train, name, options=none_skipped, cache=cache)
    assert "20 images cannot be read: train/a/000.png" in text and "data.skipped" in text
    truncate(damaged / "train/b/001.png")
    data.load_train(name, options=SKIP, cache=cache)  # somebody else takes the data as they are now
    text = message(data.load_train, name, options=options, cache=cache)
    assert "1 image cannot be read: train/b/001.png" in text
    picture(1).save(damaged / "train/b/001.png")
    picture(1).save(damaged / "train/a/000.png")
    data.load_train(name, options=SKIP, cache=cache)
    assert "train/a/000.png was skipped" in message(data.load_train, name, options=options, cache=cache)
