"""What the loaded parts hold, and that training opens no test image."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_core.data import datasets as data
from tests.ssl_core.data.helpers import message, picture, write_folder


def test_statistics_are_of_the_training_images(folder: Path) -> None:
    train = data.load_train(f"folder:{folder}")
    pixels = train.images.reshape(-1, 3).astype(np.float64) / 255
    np.testing.assert_allclose(train.mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(train.std, pixels.std(axis=0), rtol=1e-12)
    assert all(type(value) is float for value in train.mean + train.std)


def test_a_constant_channel_can_be_normalised(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "f", {"a": 1, "b": 1})
    for name in "ab":
        pixels = np.asarray(picture(ord(name))).copy()
        pixels[..., 2] = 9
        Image.fromarray(pixels).save(path / "train" / name / "000.png")
    train = data.load_train(f"folder:{path}")
    assert train.mean[2] == pytest.approx(9 / 255) and train.std[2] == 1 / 255


def test_fingerprint_follows_pixels_labels_and_class_names(tmp_path: Path) -> None:
    def fingerprint(path: Path) -> str:
        return data.load_train(f"folder:{path}").fingerprint

    base = write_folder(tmp_path / "base", {"a": 3, "b": 3})
    original = fingerprint(base)
    assert len(original) == 64
    moved = shutil.copytree(base, tmp_path / "elsewhere")
    assert fingerprint(moved) == original  # the place does not matter
    shutil.rmtree(moved / "test")
    write_folder(tmp_path / "other", {"a": 1, "b": 1}, test=5)
    shutil.copytree(tmp_path / "other" / "test", moved / "test")
    assert fingerprint(moved) == original  # nor does the test part

    pixel = shutil.copytree(base, tmp_path / "pixel")
    image = np.asarray(Image.open(pixel / "train/b/001.png")).copy()
    image[3, 4, 1] ^= 1
    Image.fromarray(image).save(pixel / "train/b/001.png")
    label = shutil.copytree(base, tmp_path / "label")  # same images in the same order, one label differs
    (label / "train/b/000.png").rename(label / "train/a/999.png")
    renamed = shutil.copytree(base, tmp_path / "renamed")
    (renamed / "train/b").rename(renamed / "train/c")
    (renamed / "test/b").rename(renamed / "test/c")
    resized = data.load_train(f"folder:{base}", image_size=9).fingerprint
    assert len({original, fingerprint(pixel), fingerprint(label), fingerprint(renamed), resized}) == 5


def test_load_train_opens_no_test_image(folder: Path, tmp_path: Path) -> None:
    name = f"folder:{folder}"
    before = data.load_train(name)
    for file in (folder / "test").rglob("*.png"):
        file.write_bytes(b"garbage")
        file.chmod(0)
    after = data.load_train(name, cache=tmp_path / "cache")
    np.testing.assert_array_equal(after.images, before.images)
    assert after.fingerprint == before.fingerprint
    assert [p.name for p in (tmp_path / "cache").rglob("*_images.npy")] == ["train_images.npy"]
    for file in (folder / "test").rglob("*.png"):
        file.chmod(0o644)
    assert "test/cat/000.png" in message(data.load_test, name)
