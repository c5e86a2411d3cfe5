"""Digits and CIFAR, through scikit-learn's and torchvision's own files."""

from __future__ import annotations

import functools
import hashlib
import http.server
import importlib.util
import socket
import tarfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl_core.data import builtin
from ssl_core.data import datasets as data
from tests.ssl_core.data.helpers import message, write_cifar


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
    pixels, labels = builtin._digits_table()
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None
    )  # no file is found: it is asked itself
    for mine, theirs in zip((pixels, labels), builtin._digits_table(), strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)


def test_digits_train_and_test_are_the_whole_set() -> None:
    from sklearn.datasets import load_digits

    whole = np.rint(load_digits().images * 255 / 16).astype(np.uint8)
    train = data.load_train("digits", image_size=8).images[..., 0]
    test = data.load_test("digits", image_size=8).images[..., 0]
    both = np.concatenate([train, test]).reshape(1797, -1)
    np.testing.assert_array_equal(np.unique(both, axis=0), np.unique(whole.reshape(1797, -1), axis=0))


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
