"""What is known of a data set before an image is decoded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ssl_core.data import datasets as data
from tests.ssl_core.data.helpers import message


def test_describing_loads_neither_torch_nor_sklearn_nor_pil(folder: Path) -> None:
    code = (
        "import sys; from ssl_core.data import datasets as data\n"
        f"for name in ('digits', 'cifar10', 'cifar100', 'folder:{folder}'): data.describe(name)\n"
        "print([m for m in ('torch', 'torchvision', 'sklearn', 'pandas', 'PIL') if m in sys.modules])\n"
        "data.load_train('digits')\n"
        "print([m for m in ('torch', 'torchvision', 'sklearn', 'pandas') if m in sys.modules])"
    )
    root = Path(data.__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["[]", "[]"]


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
            assert "Known: cifar10, cifar100, digits, folder:PATH" in text and "table:FILE" in text


@pytest.mark.parametrize("image_size", [7, 513, 0, -1])
def test_image_size_out_of_range(image_size: int) -> None:
    for call in (data.describe, data.load_train, data.load_test):
        text = message(call, "digits", image_size=image_size)
        assert f"data.image_size is {image_size}" in text and "8 to 512" in text
