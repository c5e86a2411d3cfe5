"""What the data sets of the first version gave, to the last bit: studies and exports hang on it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl_core.data import datasets as data
from tests.ssl_core.data.helpers import picture, write_cifar, write_folder


def digest(*arrays: Any) -> str:
    """Of arrays' bytes."""
    whole = hashlib.sha256()
    for array in arrays:
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()[:16]


def facts(name: str, labelled: int, valid: int, **how: Any) -> tuple[Any, ...]:
    """Fingerprint, statistics, split and test set of a data set."""
    train, test = data.load_train(name, **how), data.load_test(name, **how)
    split = data.draw_split(
        train.labels,
        train.num_classes,
        labelled=labelled,
        valid=valid,
        split_seed=5,
        label_seed=6,
        fingerprint=train.fingerprint,
    )
    statistics = [round(value, 12) for value in (*train.mean, *train.std)]
    return (
        train.fingerprint[:16],
        digest(np.asarray(statistics)),
        split.hash,
        digest(test.images, test.labels),
    )


def write_every_kind(path: Path) -> Path:
    """Lossless files of every kind that the first version read."""
    write_folder(path, {"zebra": 9, "ant": 8, "Bee": 7}, test=3)
    for index, name in enumerate(("zebra", "ant", "Bee")):
        folder = path / "train" / name
        picture(100 + index, mode="L").save(folder / "a.pgm")
        picture(110 + index).save(folder / "b.ppm")
        picture(120 + index).save(folder / "10.bmp")
        picture(130 + index).save(folder / "9.tif")
        picture(140 + index, mode="L").save(folder / "grey.gif")
        deep = np.random.default_rng(150 + index).integers(0, 65536, (8, 8), dtype=np.uint16)
        Image.fromarray(deep).save(folder / "deep.png")
    return path


def test_digits() -> None:
    assert facts("digits", 100, 100) == (
        "8578859161b85fcc",
        "5f3d052808252f21",
        "a36d8e62d29c95a7",
        "60c02aa8f5b4d0be",
    )
    assert facts("digits", 50, 100, image_size=8) == (
        "074fb25febdad14a",
        "72c8ef1f5e01ff65",
        "36c074ae1c2e4c88",
        "aab27f420fe966e9",
    )


CIFAR = {
    "cifar10": (
        ("0cba1e84da61badc", "dbdaac66f294bde7", "c520762bba927eee", "b671e5b92e90c399"),
        ("c147532ea2c8447e", "d07d1a53efc518ed", "8300f39f1c34afef", "6027571fa2e94861"),
    ),
    "cifar100": (
        ("229ee9872a3af327", "00e974eb9ffda181", "590fd7298996ed21", "36f56b90744a8723"),
        ("c1431d7f8470c1a2", "84296e05cc0e5283", "d213c2c9ca4aaf82", "b4a7ba8af8ee26bb"),
    ),
}


@pytest.mark.parametrize("name", CIFAR)
def test_cifar(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path, monkeypatch, name, count=300 if name == "cifar10" else 1500)
    per = len(data.describe(name).classes)
    native, smaller = CIFAR[name]
    assert facts(name, per, per, root=tmp_path) == native
    assert facts(name, per, per, root=tmp_path, image_size=24) == smaller


@pytest.mark.parametrize("cached", [False, True])
def test_folder(cached: bool, tmp_path: Path) -> None:
    how = {"cache": tmp_path / "cache"} if cached else {}
    name = f"folder:{write_every_kind(tmp_path / 'animals')}"
    native = ("65393b6155e3e47a", "8846d0b1391e42a4", "f1f77ac4be3e39c3", "46cf9b8870523738")
    larger = ("0801a3f236750911", "cebe2d0f3dada9a8", "c2348b707b375334", "0b415683f1228065")
    assert facts(name, 9, 6, **how) == native
    assert facts(name, 12, 9, image_size=12, **how) == larger
