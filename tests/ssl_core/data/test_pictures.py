"""What becomes of one file: upright, in colour, in one size, whatever its format and shape."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl_core.data import datasets as data
from ssl_core.data.decoding import headers
from ssl_core.data.decoding.picture import Shape, decode, read_header
from ssl_core.data.options import Options
from tests.ssl_core.data.helpers import message, picture, write_folder

EXIF_ORIENTATION = 0x0112
# What a viewer does for each orientation, so what a camera has undone.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def scene(width: int = 24, height: int = 16) -> Image.Image:
    """Four corners of four colours."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (250, 10, 10)
    pixels[: height // 2, width // 2 :] = (10, 250, 10)
    pixels[height // 2 :, : width // 2] = (10, 10, 250)
    pixels[height // 2 :, width // 2 :] = (250, 250, 10)
    return Image.fromarray(pixels)


def notes_of(path: Path, **options: Any) -> list[str]:
    return data.load_train(f"folder:{path}", options=Options(**options)).facts.notes


# ---- orientation


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_is_turned_upright(tmp_path: Path, kind: str, orientation: int) -> None:
    upright, exif = scene(), Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    turn = STORED[orientation]
    stored = upright if turn is None else upright.transpose(turn)
    how = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    stored.save(tmp_path / "x", kind, exif=exif, **how)
    pixels, _ = decode(tmp_path / "x", Shape())
    assert pixels.shape == (16, 24, 3)
    assert np.abs(pixels.astype(int) - np.asarray(upright).astype(int)).max() <= (40 if kind == "JPEG" else 0)
    header = read_header(tmp_path / "x")
    assert (header.width, header.height) == (24, 16)


def test_damaged_exif_does_not_matter(tmp_path: Path) -> None:
    scene().save(tmp_path / "x.jpg", exif=b"Exif\x00\x00nonsense")
    assert decode(tmp_path / "x.jpg", Shape())[0].shape == (16, 24, 3)


# ---- shape


def test_crop_keeps_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, 4:12] = 200
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert (decode(tmp_path / "x.png", Shape(8))[0] == 200).all()
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "y.png")
    assert (decode(tmp_path / "y.png", Shape(8))[0] == 200).all()


def test_pad_keeps_everything_on_the_background(tmp_path: Path) -> None:
    Image.new("RGB", (32, 16), (200, 0, 0)).save(tmp_path / "x.png")
    padded, _ = decode(tmp_path / "x.png", Shape(8, "pad", (0, 0, 90)))
    assert (padded[2:6] == (200, 0, 0)).all()
    assert (padded[:2] == (0, 0, 90)).all() and (padded[6:] == (0, 0, 90)).all()


def test_stretch_fits_both_sides(tmp_path: Path) -> None:
    scene(32, 8).save(tmp_path / "x.png")
    stretched, _ = decode(tmp_path / "x.png", Shape(8, "stretch"))
    expected = scene(32, 8).resize((8, 8), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(stretched, np.asarray(expected))


def test_reduction_does_not_alias(tmp_path: Path) -> None:
    stripes = np.zeros((96, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "x.png")
    for way in ("crop", "pad", "stretch"):
        small, _ = decode(tmp_path / "x.png", Shape(8, way))  # type: ignore[arg-type]
        assert np.abs(small[:, 3:5].astype(int) - 128).max() < 12


@pytest.mark.parametrize(
    ("sizes", "side"),
    [
        ({(48, 32): 1, (30, 50): 1}, 32),
        ({(400, 300): 5}, 96),
        ({(5, 4): 3}, 8),
        ({(20, 20): 4, (60, 60): 5}, 64),
        ({(20, 20): 5, (60, 60): 4}, 16),
        ({(84, 84): 1, (84, 85): 1}, 80),
    ],
)
def test_the_default_size_follows_the_median(sizes: dict[tuple[int, int], int], side: int) -> None:
    assert headers.default_side(headers.Counter(sizes)) == side


def test_sizes_that_differ_get_a_default_and_a_line(folder: Path) -> None:
    scene(48, 32).save(folder / "train" / "dog" / "000.png")
    scene(30, 50).save(folder / "train" / "dog" / "001.png")
    train = data.load_train(f"folder:{folder}")
    assert train.image_size == 8  # the median of 8 8 8 8 8 30 32
    (note,) = [note for note in train.facts.notes if "data.image_size" in note]
    assert "from 8x8 to 48x32" in note and "8x8 (data.image_size)" in note and "data.resize: crop" in note
    np.testing.assert_array_equal(train.images[5], decode(folder / "train/dog/002.png", Shape())[0])
    assert data.load_train(f"folder:{folder}", image_size=24).images.shape == (7, 24, 24, 3)
    assert data.load_test(f"folder:{folder}").images.shape == (4, 8, 8, 3)


def test_one_size_outside_the_limits_gets_a_default(tmp_path: Path) -> None:
    small = write_folder(tmp_path / "small", {"a": 1, "b": 1}, side=4)
    assert data.load_train(f"folder:{small}").image_size == 8
    large = write_folder(tmp_path / "large", {"a": 1, "b": 1}, side=520)
    assert data.load_train(f"folder:{large}").image_size == 96


def test_square_images_of_one_size_stay_as_they_are(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "f", {"a": 1, "b": 1}, side=100)
    train = data.load_train(f"folder:{path}")
    assert train.image_size == 100 and train.facts.notes == []


def test_test_images_get_the_training_images_size(folder: Path, tmp_path: Path) -> None:
    scene(40, 20).save(folder / "test/cat/000.png")
    for cache in (None, tmp_path / "cache"):
        assert data.load_test(f"folder:{folder}", cache=cache).images.shape == (4, 8, 8, 3)


# ---- kinds of pixels


def test_transparent_pixels_show_the_background(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    pixels[..., 3] = 0  # random colours below
    pixels[2:6, 2:6] = (230, 20, 20, 255)
    pixels[0, 0] = (0, 0, 0, 128)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    shown, digest = decode(tmp_path / "x.png", Shape())
    assert (shown[2:6, 2:6] == (230, 20, 20)).all() and (shown[7] == 255).all()
    assert abs(int(shown[0, 0, 0]) - 127) <= 1
    assert (decode(tmp_path / "x.png", Shape(background=(0, 255, 0)))[0][7] == (0, 255, 0)).all()
    pixels[7, :, :3] = 99  # what is hidden does not make another picture
    Image.fromarray(pixels).save(tmp_path / "y.png")
    assert decode(tmp_path / "y.png", Shape(background=(1, 2, 3)))[1] == digest


def test_palettes_with_a_transparent_entry(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(1, (0, 0, 8, 4))
    for name in ("x.png", "x.gif"):
        image.save(tmp_path / name, transparency=0)
        shown, _ = decode(tmp_path / name, Shape())
        assert (shown[:4] == (200, 100, 50)).all() and (shown[4:] == 255).all()
    image.save(tmp_path / "opaque.png")
    assert (decode(tmp_path / "opaque.png", Shape())[0][4:] == (10, 20, 30)).all()


def test_transparent_pictures_are_told_once(folder: Path) -> None:
    for name in ("train/cat/000.png", "train/dog/001.png"):
        picture(3, mode="RGBA").save(folder / name)
    (note,) = [note for note in notes_of(folder, background="black") if "transparent" in note]
    assert "2 images" in note and "black (data.background)" in note
    text = message(notes_of, folder, background="blak")
    assert "data.background = 'blak'" in text and "#336699" in text


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    image = scene(16, 16).convert(mode)
    image.save(tmp_path / "x.tif")
    np.testing.assert_array_equal(decode(tmp_path / "x.tif", Shape())[0], np.asarray(image.convert("RGB")))


def test_cmyk_photographs(tmp_path: Path) -> None:
    scene(16, 16).convert("CMYK").save(tmp_path / "x.jpg", quality=100)
    shown = decode(tmp_path / "x.jpg", Shape())[0].astype(int)
    assert (
        np.abs(shown[2, 2] - (250, 10, 10)).max() < 40 and np.abs(shown[13, 13] - (250, 250, 10)).max() < 40
    )


@pytest.mark.parametrize(("largest", "bits"), [(255, 8), (256, 9), (4095, 12), (4096, 13), (65_535, 16)])
def test_deep_grey_is_scaled_by_the_range_of_all_images(tmp_path: Path, largest: int, bits: int) -> None:
    path = write_folder(tmp_path / "f", {"a": 1, "b": 1})
    values = {"a": largest, "b": largest // 3}
    for name, value in values.items():
        Image.fromarray(np.full((8, 8), value, np.uint16)).save(path / "train" / name / "000.png")
    Image.fromarray(np.full((8, 8), largest // 2, np.uint16)).save(path / "test" / "a" / "000.png")
    train, test = data.load_train(f"folder:{path}"), data.load_test(f"folder:{path}")
    assert train.images[:, 0, 0, 0].tolist() == [v >> (bits - 8) for v in values.values()]
    assert test.images[0, 0, 0, 0] == (largest // 2) >> (bits - 8)  # the training images' range
    assert train.facts.bits == bits
    told = [note for note in train.facts.notes if "more than 8 bits" in note]
    assert (f"{bits} bits are used (values up to {2**bits - 1})" in told[0]) if bits < 16 else not told


def test_a_brighter_test_image_is_clipped(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "f", {"a": 1, "b": 1})
    for name in "ab":
        Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(path / "train" / name / "000.png")
    Image.fromarray(np.full((8, 8), 60_000, np.uint16)).save(path / "test" / "a" / "000.png")
    assert data.load_test(f"folder:{path}").images[0, 0, 0, 0] == 255


def test_grey_maps_with_a_range_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "x.pgm").write_bytes(b"P5 8 8 4095\n" + np.full(64, 2048, ">u2").tobytes())
    assert (decode(tmp_path / "x.pgm", Shape())[0] == 128).all()
    Image.fromarray(np.full((8, 8), 70_000, np.int32)).save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match="no fixed range"):
        decode(tmp_path / "x.tif", Shape())


def test_of_several_images_the_first_is_taken(folder: Path) -> None:
    pages = [picture(i) for i in range(3)]
    pages[0].save(folder / "train/cat/pages.tif", save_all=True, append_images=pages[1:])
    train = data.load_train(f"folder:{folder}")
    np.testing.assert_array_equal(train.images[3], np.asarray(pages[0]))
    assert any(
        "1 file, for example train/cat/pages.tif; the first image is taken" in n for n in train.facts.notes
    )


def test_too_many_pixels_are_refused_before_they_are_decoded(folder: Path) -> None:
    Image.new("1", (10_000, 9_000)).save(folder / "train/cat/bomb.png")
    text = message(data.load_train, f"folder:{folder}")
    assert "train/cat/bomb.png cannot be read: 10000x9000 are more than 89478485 pixels" in text


def test_the_hash_is_that_of_the_picture(tmp_path: Path) -> None:
    image = picture(1, 16)
    for name in ("x.png", "x.bmp", "x.tif", "x.ppm"):
        image.save(tmp_path / name)
    shutil.copy(tmp_path / "x.png", tmp_path / "copy.png")
    image.convert("RGBA").save(tmp_path / "opaque.png")
    hashes = {decode(file, Shape(side))[1] for file in tmp_path.iterdir() for side in (None, 8, 12)}
    assert len(hashes) == 1 and len(hashes.pop()) == 16
    other = np.asarray(image).copy()
    other[3, 3, 0] ^= 1
    Image.fromarray(other).save(tmp_path / "x.png")
    assert decode(tmp_path / "x.png", Shape())[1] != decode(tmp_path / "x.bmp", Shape())[1]


@pytest.mark.parametrize("flip", ["auto", True, False])
def test_flip_can_be_told(folder: Path, flip: Any) -> None:
    for name, default in ((f"folder:{folder}", True), ("digits", False)):
        expected = default if flip == "auto" else flip
        assert data.describe(name, options=Options(flip=flip)).flip is expected
        assert data.load_train(name, options=Options(flip=flip)).flip is expected
