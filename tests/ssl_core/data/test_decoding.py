"""From files to pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_core.data import datasets as data
from ssl_core.data.decoding import stream
from tests.ssl_core.data.helpers import message, picture, write_folder


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("content", [b"", b"not an image", b"truncated"])
def test_unreadable_image_is_named(folder: Path, part: str, content: bytes) -> None:
    bad = folder / part / "dog" / "001.png"
    bad.write_bytes(bad.read_bytes()[:60] if content == b"truncated" else content)
    load = data.load_train if part == "train" else data.load_test
    text = message(load, f"folder:{folder}")
    assert f"image {part}/dog/001.png cannot be read" in text
    assert str(folder) in text and "Replace or remove" in text


def test_of_several_bad_images_the_first_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_FILES_PER_TASK", 2)
    monkeypatch.setattr(stream, "_THREADS_FROM_BYTES", 0)  # several threads
    many = write_folder(tmp_path / "many", {"a": 30, "b": 30})
    for name in ("b/020.png", "a/009.png", "a/017.png"):
        (many / "train" / name).write_bytes(b"")
    for _ in range(5):
        assert "train/a/009.png" in message(data.load_train, f"folder:{many}")


@pytest.mark.parametrize("threads_from_bytes", [0, 10**9])
def test_images_and_labels_are_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads_from_bytes: int
) -> None:
    monkeypatch.setattr(stream, "_FILES_PER_TASK", 3)
    monkeypatch.setattr(stream, "_THREADS_FROM_BYTES", threads_from_bytes)
    path = write_folder(tmp_path / "f", {"b": 11, "a": 10}, test=3)
    train, test = data.load_train(f"folder:{path}"), data.load_test(f"folder:{path}")
    assert train.classes == ("a", "b")
    for part, images, labels in (("train", train.images, train.labels), ("test", test.images, test.labels)):
        files = [(c, p) for c, name in enumerate("ab") for p in sorted((path / part / name).iterdir())]
        assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
        np.testing.assert_array_equal(labels, [c for c, _ in files])
        np.testing.assert_array_equal(images, [np.asarray(Image.open(p)) for _, p in files])
        with pytest.raises(ValueError, match="read-only"):
            images[0] = 0
        with pytest.raises(ValueError, match="read-only"):
            labels[0] = 0


def test_every_format_and_mode_becomes_rgb(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "f", {"a": 0, "b": 1})
    folder = path / "train" / "a"
    grey, rgba, rgb = picture(1, mode="L"), picture(2, mode="RGBA"), picture(3)
    grey16 = np.asarray(grey, dtype=np.uint16) * 256 + 77
    grey.save(folder / "0.png")
    grey.save(folder / "1.PGM")
    Image.fromarray(grey16).save(folder / "2.png")
    rgba.save(folder / "3.png")
    rgb.save(folder / "4.ppm")
    rgb.save(folder / "5.BMP")
    rgb.save(folder / "6.tif")
    rgb.save(folder / "7.webp", lossless=True)
    grey.save(folder / "8.gif")
    rgb.save(folder / "9.JPEG")
    images = data.load_train(f"folder:{path}").images
    expected_grey = np.repeat(np.asarray(grey)[..., None], 3, axis=2)
    for index in (0, 1, 2, 8):
        np.testing.assert_array_equal(images[index], expected_grey, err_msg=str(index))
    white = Image.new("RGBA", rgba.size, "white")
    np.testing.assert_array_equal(images[3], np.asarray(Image.alpha_composite(white, rgba))[..., :3])
    for index in (4, 5, 6, 7):
        np.testing.assert_array_equal(images[index], np.asarray(rgb), err_msg=str(index))
    np.testing.assert_array_equal(images[9], np.asarray(Image.open(folder / "9.JPEG")))


def test_pixels_without_a_fixed_range_are_refused(folder: Path) -> None:
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(folder / "train/cat/000.tif")
    text = message(data.load_train, f"folder:{folder}")
    assert "train/cat/000.tif" in text and "mode 'F'" in text


def test_resizing_is_pils_bilinear(folder: Path) -> None:
    images = data.load_train(f"folder:{folder}", image_size=20).images
    source = Image.open(folder / "train" / "cat" / "001.png")
    np.testing.assert_array_equal(images[1], np.asarray(source.resize((20, 20), Image.Resampling.BILINEAR)))
