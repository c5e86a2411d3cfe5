"""Loading, caching and splitting, on small real files that each test writes."""

from __future__ import annotations

import functools
import hashlib
import http.server
import importlib.util
import json
import multiprocessing
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl_core.data import cache as _cache
from ssl_core.data import datasets as data
from ssl_core.data import folder as _decode
from ssl_core.system.errors import ConfigError


def picture(seed: int, side: int = 8, mode: str = "RGB") -> Image.Image:
    shape = (side, side) if mode == "L" else (side, side, len(mode))
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), mode)


def write_folder(path: Path, counts: dict[str, int], *, test: int = 2, side: int = 8) -> Path:
    """PATH/{train,test}/<class>/N.png with `counts` training images and `test` test images of each class."""
    seed = 0
    for part in ("train", "test"):
        for name, count in counts.items():
            folder = path / part / name
            folder.mkdir(parents=True)
            for i in range(count if part == "train" else test):
                seed += 1
                picture(seed, side).save(folder / f"{i:03}.png")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "pets", {"cat": 3, "dog": 4})


def message(call: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


def all_files(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*"))


# ---- importing


def test_describing_loads_neither_torch_nor_sklearn_nor_pil(folder: Path) -> None:
    code = (
        "import sys; from ssl_core import data\n"
        f"for name in ('digits', 'cifar10', 'cifar100', 'folder:{folder}'): data.describe(name)\n"
        "print([m for m in ('torch', 'torchvision', 'sklearn', 'pandas', 'PIL') if m in sys.modules])\n"
        "data.load_train('digits')\n"
        "print([m for m in ('torch', 'torchvision', 'sklearn', 'pandas') if m in sys.modules])"
    )
    root = Path(data.__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["[]", "[]"]


# ---- describe


def test_describe_digits_agrees_with_the_images() -> None:
    info, train, test = data.describe("digits"), data.load_train("digits"), data.load_test("digits")
    assert (info.image_size, info.default_network, info.default_labels) == (16, "wrn-10-1", 100)
    assert not info.flip and not train.flip
    assert info.classes == train.classes == tuple("0123456789")
    assert info.num_classes == train.num_classes == 10
    assert info.train_per_class == tuple(np.bincount(train.labels))
    assert train.images.shape == (1438, 16, 16, 3) and train.image_size == 16
    assert len(train.labels) + len(test.labels) == 1797
    for trained, tested in zip(np.bincount(train.labels), np.bincount(test.labels), strict=True):
        assert tested == round((trained + tested) / 5)


def test_digits_are_scaled_to_eight_bits_and_grey() -> None:
    sides = {image_size: data.load_train("digits", image_size=image_size) for image_size in (None, 8)}
    native = sides[8].images
    assert native.min() == 0 and native.max() == 255
    assert set(np.unique(native)) <= {round(level * 255 / 16) for level in range(17)}
    for dataset in sides.values():
        assert (dataset.images == dataset.images[..., :1]).all()
    expected = Image.fromarray(native[5]).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(sides[None].images[5], np.asarray(expected))


def test_digits_are_those_of_scikit_learn_wherever_it_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, labels = _decode._digits_table()
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None
    )  # no file is found: it is asked itself
    for mine, theirs in zip((pixels, labels), _decode._digits_table(), strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)


def test_digits_train_and_test_are_the_whole_set() -> None:
    from sklearn.datasets import load_digits

    whole = np.rint(load_digits().images * 255 / 16).astype(np.uint8)
    train = data.load_train("digits", image_size=8).images[..., 0]
    test = data.load_test("digits", image_size=8).images[..., 0]
    both = np.concatenate([train, test]).reshape(1797, -1)
    np.testing.assert_array_equal(np.unique(both, axis=0), np.unique(whole.reshape(1797, -1), axis=0))


@pytest.mark.parametrize(
    ("name", "classes", "per_class", "labels", "first", "last"),
    [
        ("cifar10", 10, 5000, 4000, "airplane", "truck"),
        ("cifar100", 100, 500, 10_000, "apple", "worm"),
    ],
)
def test_describe_cifar(name: str, classes: int, per_class: int, labels: int, first: str, last: str) -> None:
    info = data.describe(name)
    assert info.train_per_class == (per_class,) * classes
    assert (info.classes[0], info.classes[-1], len(set(info.classes))) == (first, last, classes)
    assert list(info.classes) == sorted(info.classes)
    assert (info.image_size, info.default_network, info.default_labels) == (32, "wrn-28-2", labels)
    assert info.flip
    assert data.describe(name, image_size=16).image_size == 16


def test_describe_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = data.describe(f"folder:{folder}")
    assert info.name == f"folder:{folder}"
    assert (info.classes, info.train_per_class) == (("cat", "dog"), (3, 4))
    assert (info.image_size, info.default_network, info.default_labels) == (None, "wrn-28-2", None)
    assert info.flip
    assert data.describe(f"folder:{folder}", image_size=24).image_size == 24
    monkeypatch.setenv("HOME", str(folder.parent))
    assert data.describe("folder:~/pets").classes == ("cat", "dog")


# ---- refusals


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("cifar1o", ["unknown dataset 'cifar1o'", "Did you mean 'cifar10'?"]),
        ("mnist", ["unknown dataset 'mnist'"]),
        ("folder", ["unknown dataset 'folder'"]),
        ("folder:PATH", ["PATH does not exist"]),
        ("folder:", ["names no folder", "folder:PATH"]),
        ("folder:~no-such-user-here/x", ["~no-such-user-here/x", "cannot be resolved"]),
    ],
)
def test_unknown_names(name: str, facts: list[str]) -> None:
    for call in (data.describe, data.load_train, data.load_test):
        text = message(call, name)
        for fact in facts:
            assert fact in text
        if "unknown" in text:
            assert "Known: cifar10, cifar100, digits, folder:PATH" in text


def test_folder_that_is_missing_a_file_or_empty(tmp_path: Path) -> None:
    text = message(data.describe, f"folder:{tmp_path / 'nowhere'}")
    assert f"{tmp_path / 'nowhere'} does not exist" in text
    assert "PATH/train/<class>/* and PATH/test/<class>/*" in text
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
    assert "lacks test/" in message(data.describe, name)
    assert "lacks test/" in message(data.load_test, name)


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


@pytest.mark.parametrize("image_size", [7, 513, 0, -1])
def test_image_size_out_of_range(image_size: int) -> None:
    for call in (data.describe, data.load_train, data.load_test):
        text = message(call, "digits", image_size=image_size)
        assert f"data.image_size is {image_size}" in text and "8 to 512" in text


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("content", [b"", b"not an image", b"truncated"])
def test_unreadable_image_is_named(folder: Path, part: str, content: bytes) -> None:
    bad = folder / part / "dog" / "001.png"
    bad.write_bytes(bad.read_bytes()[:60] if content == b"truncated" else content)
    load = data.load_train if part == "train" else data.load_test
    text = message(load, f"folder:{folder}")
    assert f"image {part}/dog/001.png cannot be read" in text
    assert str(folder) in text and "Replace or remove" in text


@pytest.mark.parametrize("image_size", [None, 16])
def test_image_that_is_not_square(folder: Path, image_size: int | None) -> None:
    picture(1).resize((10, 8)).save(folder / "train" / "dog" / "000.png")
    text = message(data.load_train, f"folder:{folder}", image_size=image_size)
    assert "train/dog/000.png is 10x8" in text and "square" in text


def test_image_of_another_size(folder: Path) -> None:
    picture(1, side=12).save(folder / "train" / "dog" / "002.png")
    text = message(data.load_train, f"folder:{folder}")
    assert "train/dog/002.png is 12x12" in text and "train/cat/000.png is 8x8" in text
    assert "data.image_size" in text
    assert data.load_train(f"folder:{folder}", image_size=8).images.shape == (7, 8, 8, 3)


def test_images_too_small(tmp_path: Path) -> None:
    small = write_folder(tmp_path / "small", {"a": 1, "b": 1}, side=4)
    text = message(data.load_train, f"folder:{small}")
    assert "train/a/000.png is 4x4" in text and "8 to 512" in text
    assert data.load_train(f"folder:{small}", image_size=8).image_size == 8


def test_of_several_bad_images_the_first_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_decode, "_FILES_PER_TASK", 2)
    monkeypatch.setattr(_decode, "_THREADS_FROM_BYTES", 0)  # several threads
    many = write_folder(tmp_path / "many", {"a": 30, "b": 30})
    for name in ("b/020.png", "a/009.png", "a/017.png"):
        (many / "train" / name).write_bytes(b"")
    for _ in range(5):
        assert "train/a/009.png" in message(data.load_train, f"folder:{many}")


# ---- decoding


@pytest.mark.parametrize("threads_from_bytes", [0, 10**9])
def test_images_and_labels_are_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads_from_bytes: int
) -> None:
    monkeypatch.setattr(_decode, "_FILES_PER_TASK", 3)
    monkeypatch.setattr(_decode, "_THREADS_FROM_BYTES", threads_from_bytes)
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
    np.testing.assert_array_equal(images[3], np.asarray(rgba)[..., :3])
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


# ---- the test set is sealed


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


# ---- CIFAR, through torchvision's own reader


def write_cifar(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str, count: int = 6
) -> dict[str, tuple[Any, list[int]]]:
    """Small files in the "python version" format, and torchvision's checksums changed to match them."""
    import torchvision.datasets as torchvision_datasets

    reader: Any = {"cifar10": torchvision_datasets.CIFAR10, "cifar100": torchvision_datasets.CIFAR100}[name]
    label_key, meta_key = (
        ("labels", "label_names") if name == "cifar10" else ("fine_labels", "fine_label_names")
    )
    classes = data.describe(name).classes
    base = root / reader.base_folder
    base.mkdir(parents=True)

    def write(file: str, content: Any) -> str:
        # A dictionary of byte strings, as Python 2 wrote it.
        (base / file).write_bytes(pickle.dumps(content, protocol=2))
        return hashlib.md5((base / file).read_bytes()).hexdigest()

    rng = np.random.default_rng(7)
    written = {}
    checksums: dict[str, list[list[str]]] = {}
    for which in ("train_list", "test_list"):
        images, targets, checksums[which] = [], [], []
        for file, _ in getattr(reader, which):
            pixels = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
            batch_labels = rng.integers(0, len(classes), count).tolist()
            content = {label_key: batch_labels, "data": pixels}
            if name == "cifar100":
                content["coarse_labels"] = [0] * count
            checksums[which].append([file, write(file, content)])
            # Rows hold a red, a green and a blue plane of 32x32.
            images.append(pixels.reshape(count, 3, 32, 32).transpose(0, 2, 3, 1))
            targets += batch_labels
        written[which.removesuffix("_list")] = (np.concatenate(images), targets)
    meta = {**reader.meta, "md5": write(reader.meta["filename"], {meta_key: list(classes)})}
    for which, value in checksums.items():
        monkeypatch.setattr(reader, which, value)
    monkeypatch.setattr(reader, "meta", meta)
    monkeypatch.setattr(reader, "url", "http://127.0.0.1:9/none.tar.gz")  # nothing is fetched from outside
    return written


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = write_cifar(tmp_path / "root", monkeypatch, name)
    train = data.load_train(name, root=tmp_path / "root")
    test = data.load_test(name, root=tmp_path / "root")
    for loaded, part in ((train, "train"), (test, "test")):
        images, labels = written[part]
        np.testing.assert_array_equal(loaded.images, images)
        np.testing.assert_array_equal(loaded.labels, labels)
        assert (loaded.images.dtype, loaded.labels.dtype) == (np.uint8, np.int64)
        assert loaded.images.flags.c_contiguous
    assert len(train.labels) == (30 if name == "cifar10" else 6)
    assert train.classes == data.describe(name).classes
    assert train.flip and train.name == name
    small = data.load_train(name, root=tmp_path / "root", image_size=16).images[2]
    expected = Image.fromarray(train.images[2]).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(small, np.asarray(expected))
    assert not list((tmp_path / "root").glob(".*"))  # no lock file is left


@pytest.mark.parametrize(("name", "file"), [("cifar10", "test_batch"), ("cifar100", "test")])
def test_cifar_training_images_load_without_the_test_file(
    name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = write_cifar(tmp_path, monkeypatch, name)
    test_file = next(p for p in tmp_path.rglob(file) if p.is_file())
    test_file.write_bytes(b"garbage")
    np.testing.assert_array_equal(data.load_train(name, root=tmp_path).images, written["train"][0])
    assert "could not be downloaded" in message(data.load_test, name, root=tmp_path)


def test_cifar_lies_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = write_cifar(tmp_path / "named", monkeypatch, "cifar10")
    monkeypatch.setenv("SSL_TUNE_DATA", str(tmp_path / "named"))
    np.testing.assert_array_equal(data.load_train("cifar10").labels, written["train"][1])
    monkeypatch.delenv("SSL_TUNE_DATA")
    (tmp_path / "named").rename(tmp_path / "ssl-tune-data")
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(data.load_train("cifar10").labels, written["train"][1])


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_downloaded_at_first_use(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    import torchvision.datasets as torchvision_datasets

    written = write_cifar(tmp_path / "source", monkeypatch, name)
    reader: Any = getattr(torchvision_datasets, name.upper())
    archive = tmp_path / "served" / reader.filename
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "source" / reader.base_folder, reader.base_folder)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(archive.parent))
    monkeypatch.setattr(reader, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        monkeypatch.setattr(reader, "url", f"http://127.0.0.1:{server.server_port}/{reader.filename}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        train = data.load_train(name, root=tmp_path / "root")
        server.shutdown()
    np.testing.assert_array_equal(train.images, written["train"][0])
    np.testing.assert_array_equal(data.load_test(name, root=tmp_path / "root").images, written["test"][0])
    assert socket.getdefaulttimeout() is None
    assert capfd.readouterr().out == ""  # stdout is the caller's


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_failed_download_says_what_to_do(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path / "written", monkeypatch, name)
    cache = tmp_path / "cache"
    text = message(data.load_train, name, root=tmp_path / "root", cache=cache)
    base = "cifar-10-batches-py" if name == "cifar10" else "cifar-100-python"
    for fact in (repr(name), "http://127.0.0.1:9/none.tar.gz", str(tmp_path / "root" / base), "by hand"):
        assert fact in text
    for fact in ("folder:PATH", "SSL_TUNE_DATA", "--data-root"):
        assert fact in text
    assert not cache.exists()


def test_data_root_that_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    text = message(data.load_train, "cifar10", root=tmp_path / "file" / "below")
    assert str(tmp_path / "file" / "below") in text


# ---- the cache


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("decoded again")

    for name in ("decode_files", "read_digits", "read_cifar"):
        monkeypatch.setattr(_decode, name, fail)


def same(first: data.Dataset, second: data.Dataset) -> bool:
    facts = [(d.classes, d.fingerprint, d.mean, d.std, d.flip, d.name) for d in (first, second)]
    return (
        facts[0] == facts[1]
        and np.array_equal(first.images, second.images)
        and np.array_equal(first.labels, second.labels)
    )


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
        assert all_files(entry) == ["meta.json", f"{part}_images.npy", f"{part}_labels.npy"]


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

        _cache.fcntl.flock = refuse  # type: ignore[assignment]
    decode = _decode.decode_files
    decoded = []

    def count(*args: Any) -> Any:
        decoded.append(1)
        return decode(*args)

    _decode.decode_files = count
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
    outcomes = [results.get(timeout=30) for _ in processes]
    for process in processes:
        process.join(timeout=30)
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
    holder = _cache._acquire(path)
    assert holder is not None
    results: list[int | None] = []
    waiting = threading.Thread(target=lambda: results.append(_cache._acquire(path)))
    waiting.start()
    waiting.join(timeout=0.2)
    assert waiting.is_alive()  # it waits for the holder
    path.rename(tmp_path / "removed")  # as unlinking does, but the inode's number cannot be used again
    os.close(holder)
    waiting.join(timeout=10)
    assert results[0] is not None
    assert os.fstat(results[0]).st_ino == path.stat().st_ino
    os.close(results[0])


# ---- counts


def info(*per_class: int) -> data.DatasetInfo:
    classes = ("cat", "dog", "emu")[: len(per_class)]
    return data.DatasetInfo("folder:pets", classes, per_class, 8, "wrn-28-2", None, flip=True)


@pytest.mark.parametrize(
    ("labelled", "valid", "facts"),
    [
        (0, 30, ["labelled images 0 is not positive", "multiples of 3", "for example 3"]),
        (30, -3, ["validation images -3 is not positive", "multiples of 3"]),
        (31, 30, ["labelled images 31 is not a multiple of the 3 classes", "30 or 33", "folder:pets"]),
        (30, 2, ["validation images 2 is not a multiple of the 3 classes", "example 3"]),
        (120, 30, ["120 labelled and 30 validation", "150", "130 training images"]),
        (60, 60, ["class 'dog'", "30 training images", "40 of each", "20 labelled and 20", "90 together"]),
        (60, 33, ["class 'dog'", "31 of each"]),
    ],
)
def test_counts_that_cannot_be_drawn(labelled: int, valid: int, facts: list[str]) -> None:
    text = message(data.check_counts, info(50, 30, 50), labelled=labelled, valid=valid)
    for fact in facts:
        assert fact in text


def test_counts_that_just_fit_are_accepted() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.check_counts(info(50, 30, 50), labelled=60, valid=30)
        data.check_counts(info(50, 30, 50), labelled=45, valid=45)


def test_a_validation_set_larger_than_the_labelled_one_is_warned_about() -> None:
    with pytest.warns(UserWarning, match=r"validation set \(60 images\).*labelled set \(30\)") as caught:
        data.check_counts(info(50, 50, 50), labelled=30, valid=60)
    assert len(caught) == 1 and caught[0].filename == __file__


# ---- the split

LABELS = np.random.default_rng(3).permutation(np.repeat(np.arange(3), (40, 50, 60))).astype(np.int64)


def draw(labels: np.ndarray[Any, Any] = LABELS, **changes: Any) -> data.Split:
    arguments: dict[str, Any] = {"labelled": 12, "valid": 9, "split_seed": 1, "label_seed": 2}
    return data.draw_split(labels, 3, **{**arguments, "fingerprint": "abc", **changes})


def test_split_is_balanced_disjoint_and_complete() -> None:
    split = draw()
    np.testing.assert_array_equal(np.bincount(LABELS[split.labelled]), [4, 4, 4])
    np.testing.assert_array_equal(np.bincount(LABELS[split.valid]), [3, 3, 3])
    everything = set(range(len(LABELS)))
    assert set(split.unlabelled) == everything - set(split.valid)
    assert set(split.labelled) <= set(split.unlabelled)
    assert len(split.unlabelled) == len(LABELS) - 9
    for indices in (split.labelled, split.valid, split.unlabelled):
        assert indices.dtype == np.int64
        assert (np.diff(indices) > 0).all()


def test_split_that_uses_every_image_of_a_class() -> None:
    split = draw(labelled=60, valid=60)
    assert set(split.labelled).isdisjoint(split.valid)
    smallest = set(np.flatnonzero(LABELS == 0))
    assert smallest <= set(split.labelled) | set(split.valid)


def test_label_seed_moves_the_labelled_images_alone() -> None:
    first, second = draw(label_seed=2), draw(label_seed=3)
    np.testing.assert_array_equal(first.valid, second.valid)
    np.testing.assert_array_equal(first.unlabelled, second.unlabelled)
    assert not np.array_equal(first.labelled, second.labelled)
    assert not np.array_equal(draw(split_seed=8).valid, first.valid)


def test_equal_seeds_are_separate_streams() -> None:
    # Were the two purposes or the classes one stream, the same positions would be drawn.
    labels = np.repeat(np.arange(3), 50).astype(np.int64)
    split = draw(labels, labelled=60, valid=60, split_seed=5, label_seed=5)
    positions = {tuple(split.valid[labels[split.valid] == c] - 50 * c) for c in range(3)}
    assert len(positions) == 3
    # A labelled order equal to the validation order would begin right after the validation images.
    longer = draw(labels, labelled=30, valid=120, split_seed=5, label_seed=5)
    assert not set(split.labelled) <= set(longer.valid)


def test_smaller_sets_are_part_of_larger_ones() -> None:
    assert set(draw(labelled=6).labelled) < set(draw(labelled=30).labelled)
    assert set(draw(valid=6).valid) < set(draw(valid=30).valid)


def test_split_is_a_function_of_its_arguments() -> None:
    np.random.seed(0)  # noqa: NPY002 (the global generator must not matter)
    first = draw()
    np.random.seed(1)  # noqa: NPY002
    second = draw(labels=LABELS.copy())
    for name in ("labelled", "valid", "unlabelled"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert first.hash == second.hash
    assert len(first.hash) == 16 and int(first.hash, 16) >= 0


def test_hash_changes_with_everything() -> None:
    other_labels = np.roll(LABELS, 1)
    hashes = [
        draw().hash,
        draw(fingerprint="abd").hash,
        draw(split_seed=9).hash,
        draw(label_seed=9).hash,
        draw(labelled=15).hash,
        draw(valid=12).hash,
        draw(labels=other_labels).hash,
    ]
    assert len(set(hashes)) == len(hashes)


def test_split_stays_what_it_was() -> None:
    # Recorded: studies keep their split across versions. A change here breaks every exported configuration.
    split = data.draw_split(
        np.arange(20, dtype=np.int64) % 2, 2, labelled=4, valid=4, split_seed=0, label_seed=0, fingerprint="f"
    )
    assert split.valid.tolist() == [0, 5, 6, 13]
    assert split.labelled.tolist() == [8, 9, 10, 11]
    assert split.hash == "b18353cd711c5cd1"


def test_split_refuses_what_cannot_be_drawn() -> None:
    assert "class '0'" in message(draw, labelled=90, valid=45)
    assert "31 is not a multiple of the 3 classes" in message(draw, labelled=31)
    assert "0 is not positive" in message(draw, valid=0)
