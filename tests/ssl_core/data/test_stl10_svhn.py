"""SVHN and STL-10 through torchvision's own readers, on small files in their own formats."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl_core.data import datasets as data
from ssl_core.data.splits.drawing import Wanted, draw
from tests.ssl_core.data.helpers import message, same

Written = dict[str, tuple[Any, Any]]
STL10_CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_svhn(root: Path, monkeypatch: pytest.MonkeyPatch, count: int = 40) -> Written:
    """MATLAB files with X (32, 32, 3, N) and y (N, 1), in which the digit 0 is 10."""
    import scipy.io
    from torchvision.datasets import SVHN

    root.mkdir(parents=True)
    rng, written, listed = np.random.default_rng(7), {}, {}
    for part in ("train", "test"):
        images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        labels = np.arange(count) % 10
        name = f"{part}_32x32.mat"
        scipy.io.savemat(
            root / name, {"X": images.transpose(1, 2, 3, 0), "y": np.where(labels == 0, 10, labels)[:, None]}
        )
        listed[part] = [f"http://127.0.0.1:9/{name}", name, md5(root / name)]
        written[part] = (images, labels)
    monkeypatch.setattr(SVHN, "split_list", listed)
    return written


def write_stl10(root: Path, monkeypatch: pytest.MonkeyPatch, count: int = 30) -> Written:
    """Binary files with N images of 3 colours x 96 columns x 96 rows, and labels from 1."""
    from torchvision.datasets import STL10

    base = root / "stl10_binary"
    base.mkdir(parents=True)
    rng, written, listed = np.random.default_rng(7), {}, {"train_list": [], "test_list": []}
    for part, which in (("train", "train_list"), ("test", "test_list"), ("unlabeled", "train_list")):
        images = rng.integers(0, 256, (count, 96, 96, 3), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        images.transpose(0, 3, 2, 1).tofile(base / f"{part}_X.bin")
        names = [f"{part}_X.bin"]
        if part != "unlabeled":
            (labels + 1).tofile(base / f"{part}_y.bin")
            names.append(f"{part}_y.bin")
        listed[which] += [[name, md5(base / name)] for name in names]
        written[part] = (images, labels.astype(np.int64))
    (base / "class_names.txt").write_text("\n".join(STL10_CLASSES) + "\n")
    (base / "fold_indices.txt").write_text("")
    for which, files in listed.items():
        monkeypatch.setattr(STL10, which, files)
    monkeypatch.setattr(STL10, "url", "http://127.0.0.1:9/stl10_binary.tar.gz")
    return written


WRITE: dict[str, Callable[..., Written]] = {"svhn": write_svhn, "stl10": write_stl10}


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, root = write_svhn(tmp_path / "root", monkeypatch), tmp_path / "root"
    train, test = data.load_train("svhn", root=root), data.load_test("svhn", root=root)
    for part, loaded in (("train", train), ("test", test)):
        images, labels = written[part]
        np.testing.assert_array_equal(loaded.images, images)
        np.testing.assert_array_equal(loaded.labels, labels)
        assert loaded.images.flags.c_contiguous and loaded.labels.dtype == np.int64
    assert not train.flip and train.protocol == "simulated" and train.is_plain
    info = data.describe("svhn")
    assert (info.classes, info.default_labels, info.image_size, info.flip) == (
        tuple("0123456789"),
        1000,
        32,
        False,
    )
    assert sum(info.train_per_class) == 73_257


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("side", [96, 48])
def test_stl10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool, side: int) -> None:
    written, root = write_stl10(tmp_path / "root", monkeypatch), tmp_path / "root"
    how: Any = {"root": root, "image_size": side, "cache": tmp_path / "cache" if cached else None}
    train, test = data.load_train("stl10", **how), data.load_test("stl10", **how)

    def sized(images: Any) -> Any:
        return np.stack(
            [
                np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))
                for image in images
            ]
        )

    np.testing.assert_array_equal(train.images[:30], sized(written["train"][0]))
    np.testing.assert_array_equal(train.images[30:], sized(written["unlabeled"][0]))
    np.testing.assert_array_equal(test.images, sized(written["test"][0]))
    assert train.labels.tolist() == [*written["train"][1].tolist(), *[-1] * 30]
    assert test.labels.tolist() == written["test"][1].tolist()
    assert train.classes == STL10_CLASSES and train.protocol == "real" and not train.is_plain
    assert isinstance(train.images, np.memmap) == cached
    split = draw(train, Wanted()).split
    assert len(split.labelled) == 20 and len(split.valid) == 10 and len(split.unlabelled) == 50
    if cached:
        assert same(data.load_train("stl10", **how), data.load_train("stl10", **{**how, "cache": None}))


def test_stl10_is_described() -> None:
    info = data.describe("stl10")
    assert (info.unlabelled, info.protocol, info.default_labels) == (100_000, "real", None)
    assert (info.train_per_class, info.image_size, info.classes) == ((500,) * 10, 96, STL10_CLASSES)


def test_unlabelled_copies_of_test_images_leave_stl10(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stl10(tmp_path, monkeypatch)
    from torchvision.datasets import STL10

    base, size = tmp_path / "stl10_binary", 96 * 96 * 3
    pictures = bytearray((base / "unlabeled_X.bin").read_bytes())
    pictures[:size] = (base / "test_X.bin").read_bytes()[size : 2 * size]
    (base / "unlabeled_X.bin").write_bytes(pictures)
    files = [[name, md5(base / name)] for name, _ in STL10.train_list]
    monkeypatch.setattr(STL10, "train_list", files)
    train = data.load_train("stl10", root=tmp_path)
    assert (train.labels == -1).sum() == 29 and train.facts.copies_left_out == 1


@pytest.mark.parametrize("name", WRITE)
def test_failed_download_says_what_to_do(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITE[name](tmp_path / "source", monkeypatch)
    text = message(data.load_train, name, root=tmp_path / "root", cache=tmp_path / "cache")
    for fact in (repr(name), "http://127.0.0.1:9", str(tmp_path / "root"), "by hand", "folder:PATH"):
        assert fact in text
    assert not (tmp_path / "cache").exists()
