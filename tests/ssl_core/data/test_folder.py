"""The layout of image folders, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ssl_core.data import datasets as data
from tests.ssl_core.data.helpers import message, picture, write_folder


def test_folder_that_is_missing_a_file_or_empty(tmp_path: Path) -> None:
    text = message(data.describe, f"folder:{tmp_path / 'nowhere'}")
    assert f"{tmp_path / 'nowhere'} does not exist" in text
    assert "PATH/train/<class>/*, and where there are any PATH/unlabelled/*" in text  # test/ is not demanded
    (tmp_path / "file").write_text("")
    assert "is not a folder" in message(data.describe, f"folder:{tmp_path / 'file'}")
    (tmp_path / "empty").mkdir()
    assert "lacks train/" in message(data.describe, f"folder:{tmp_path / 'empty'}")
    (tmp_path / "empty" / "train").mkdir()
    assert "train/ is empty" in message(data.describe, f"folder:{tmp_path / 'empty'}")


def test_folder_without_test(folder: Path) -> None:
    name = f"folder:{folder}"
    for part in (folder / "test").iterdir():
        shutil.rmtree(part)
    assert "test/ is empty" in message(data.describe, name)
    (folder / "test" / "cat").mkdir()
    assert "test/ has no image" in message(data.describe, name)
    shutil.rmtree(folder / "test")
    assert data.describe(name).test_per_class is None
    assert len(data.load_test(name).labels) >= 2  # held out; see test_holdout.py


def test_class_in_test_alone(folder: Path) -> None:
    (folder / "test" / "cow").mkdir()
    for call in (data.describe, data.load_test):
        text = message(call, f"folder:{folder}")
        assert "class 'cow' is in test/ but not in train/" in text
        assert "cat, dog" in text and str(folder) in text


def test_class_in_train_alone_is_accepted(folder: Path) -> None:
    shutil.rmtree(folder / "test" / "cat")
    assert data.describe(f"folder:{folder}").num_classes == 2
    np.testing.assert_array_equal(data.load_test(f"folder:{folder}").labels, [1, 1])


def test_class_without_images(folder: Path) -> None:
    (folder / "train" / "ant").mkdir()
    (folder / "train" / "ant" / "notes.txt").write_text("none yet")
    (folder / "train" / "ant" / ".hidden.png").write_bytes(b"")
    for call in (data.describe, data.load_train):
        text = message(call, f"folder:{folder}")
        assert "class 'ant' has no image" in text and ".png" in text and str(folder) in text


def test_one_class(tmp_path: Path) -> None:
    text = message(data.describe, f"folder:{write_folder(tmp_path / 'one', {'cat': 2})}")
    assert "one class, 'cat'" in text and "at least 2" in text


@pytest.mark.parametrize("part", ["train", "test"])
def test_image_outside_the_class_folders(folder: Path, part: str) -> None:
    picture(1).save(folder / part / "lost.PNG")
    text = message(data.describe, f"folder:{folder}")
    assert f"{part}/lost.PNG lies in no class folder" in text


def test_other_files_are_left_out(folder: Path) -> None:
    (folder / "train" / "README.txt").write_text("about")
    (folder / "train" / ".cache").mkdir()
    (folder / "train" / "cat" / "labels.csv").write_text("a,b")
    (folder / "train" / "cat" / "._000.png").write_bytes(b"resource fork")
    (folder / "train" / "cat" / "png").write_bytes(b"no extension")
    (folder / "train" / "cat" / "more").mkdir()
    assert data.describe(f"folder:{folder}").train_per_class == (3, 4)
    assert len(data.load_train(f"folder:{folder}").labels) == 7
