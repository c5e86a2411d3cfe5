"""Small real files that the tests of the data layer write."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl_core.data import datasets as data
from ssl_core.system.errors import ConfigError


def picture(seed: int, side: int = 8, mode: str = "RGB") -> Image.Image:
    """Noise."""
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


def message(call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """What a ConfigError says."""
    with pytest.raises(ConfigError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


def all_files(path: Path) -> list[str]:
    """Everything below a folder, relative to it."""
    return sorted(str(p.relative_to(path)) for p in path.rglob("*"))


def same(first: data.Dataset, second: data.Dataset) -> bool:
    """Whether two data sets hold the same."""
    facts = [(d.classes, d.fingerprint, d.mean, d.std, d.flip, d.name) for d in (first, second)]
    return (
        facts[0] == facts[1]
        and np.array_equal(first.images, second.images)
        and np.array_equal(first.labels, second.labels)
    )


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
