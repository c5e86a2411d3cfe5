"""Folders as cameras and downloads leave them: images without labels, clutter, nested folders, odd names."""

from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_core.data import datasets as data
from ssl_core.data.layouts import listing as listings
from ssl_core.data.options import Options
from tests.ssl_core.data.helpers import message, picture, write_folder


def listing(folder: Path, options: Options | None = None) -> listings.Listing:
    found = data.listing_of(f"folder:{folder}", options)
    assert found is not None
    return found


def save(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(path)
    return path


@pytest.fixture
def real(folder: Path) -> Path:
    """The pets, with five images without a label, some in a nested folder."""
    for i, name in enumerate(("a.png", "b.png", "2024/c.png", "2024/may/d.png", "e.png")):
        save(folder / "unlabelled" / name, 900 + i)
    return folder


def test_images_without_labels_take_part(real: Path) -> None:
    info, train = data.describe(f"folder:{real}"), data.load_train(f"folder:{real}")
    assert (info.protocol, info.unlabelled, info.train_per_class) == ("real", 5, (3, 4))
    assert train.protocol == "real" and not train.is_plain
    assert train.labels.tolist() == [0] * 3 + [1] * 4 + [-1] * 5
    assert train.rows is not None
    assert train.rows.files[7:] == tuple(
        f"unlabelled/{name}" for name in ("2024/c.png", "2024/may/d.png", "a.png", "b.png", "e.png")
    )
    assert set(train.rows.roles) == {"train", "unlabelled"}
    np.testing.assert_array_equal(train.images[9], np.asarray(picture(900)))
    assert info.classes == train.classes == ("cat", "dog")


def test_the_other_spelling_is_read_as_well(real: Path) -> None:
    (real / "unlabelled").rename(real / "unlabeled")
    assert data.describe(f"folder:{real}").unlabelled == 5


def test_an_empty_unlabelled_folder_changes_nothing(folder: Path) -> None:
    before = data.load_train(f"folder:{folder}")
    (folder / "unlabelled").mkdir()
    after = data.load_train(f"folder:{folder}")
    assert after.protocol == "simulated" and after.is_plain
    assert after.fingerprint == before.fingerprint


def test_unlabelled_images_inside_train_are_no_class(folder: Path) -> None:
    for i in range(3):
        save(folder / "train" / "Unlabelled" / f"{i}.png", 800 + i)
    train = data.load_train(f"folder:{folder}")
    assert train.classes == ("cat", "dog") and (train.labels == -1).sum() == 3
    (note,) = [note for note in train.facts.notes if "train/Unlabelled/" in note]
    assert "3 images" in note and "not as a class" in note


def test_unlabelled_images_alone_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "x" / "unlabelled" / "a.png", 1)
    text = message(data.describe, f"folder:{tmp_path / 'x'}")
    assert "has unlabelled/ but lacks train/" in text and "some images need a label" in text


def test_validation_images_of_the_data_sets_own(folder: Path) -> None:
    for i, name in enumerate(("cat", "dog", "dog")):
        save(folder / "valid" / name / f"{i}.png", 700 + i)
    info, train = data.describe(f"folder:{folder}"), data.load_train(f"folder:{folder}")
    assert info.valid_per_class == (1, 2) and info.test_per_class == (2, 2)
    assert train.rows is not None
    assert train.rows.roles == ("train",) * 7 + ("valid",) * 3
    assert train.labels[7:].tolist() == [0, 1, 1] and not train.is_plain
    save(folder / "valid" / "cow" / "1.png", 1)
    assert "class 'cow' is in valid/ but not in train/" in message(data.describe, f"folder:{folder}")


def test_nested_class_folders_are_read(folder: Path) -> None:
    (folder / "train" / "dog" / "2024" / "may").mkdir(parents=True)
    (folder / "train/dog/001.png").rename(folder / "train/dog/2024/may/x.png")
    train = data.load_train(f"folder:{folder}")
    assert train.rows is not None and train.is_plain
    assert train.rows.files[3:] == tuple(
        f"train/dog/{name}" for name in ("000.png", "002.png", "003.png", "2024/may/x.png")
    )
    assert train.labels.tolist() == [0] * 3 + [1] * 4


def test_a_link_back_to_a_folder_is_followed_once(folder: Path) -> None:
    (folder / "train/dog/again").symlink_to(folder / "train/dog", target_is_directory=True)
    assert data.describe(f"folder:{folder}").train_per_class == (3, 4)


@pytest.mark.parametrize("ending", [".jfif", ".JPE", ""])
def test_other_endings_and_none(folder: Path, ending: str) -> None:
    file = folder / "train" / "cat" / f"zz{ending}"
    picture(5).save(file, format="JPEG")
    train = data.load_train(f"folder:{folder}")
    assert np.bincount(train.labels).tolist() == [4, 4]
    np.testing.assert_array_equal(train.images[3], np.asarray(Image.open(file)))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "PPM", "TIFF"])
def test_content_tells_a_file_without_an_ending(folder: Path, kind: str) -> None:
    picture(5).save(folder / "train" / "cat" / "zz", format=kind)
    assert data.describe(f"folder:{folder}").train_per_class == (4, 4)


def test_what_could_start_a_program_is_left_out(folder: Path) -> None:
    picture(5).save(folder / "train" / "cat" / "zz.eps", format="EPS")
    picture(5).save(folder / "train" / "cat" / "zz", format="EPS")
    picture(5).save(folder / "train" / "dog" / "hidden.png", format="EPS")  # under a wrong name
    assert data.describe(f"folder:{folder}").train_per_class == (3, 5)
    assert "train/dog/hidden.png cannot be read" in message(data.load_train, f"folder:{folder}")


def test_what_is_left_out_is_counted_with_an_example(folder: Path) -> None:
    cat = folder / "train" / "cat"
    for name in ("._000.png", "Thumbs.db", ".DS_Store"):
        (cat / name).write_bytes(b"x")
    for i in range(2):
        save(cat / "@eaDir" / f"{i}.png", i)
        save(folder / "train" / "__MACOSX" / f"{i}.png", i)
    (cat / "notes.txt").write_text("x")
    (cat / "IMG_1.heic").write_bytes(b"x")
    (cat / "IMG").write_bytes(b"no picture")
    found = listing(folder)
    assert found.classes == ("cat", "dog")
    assert {reason: len(names) for reason, names in found.left_out.items()} == {
        listings.CLUTTER: 5,
        listings.ENDING: 2,
        listings.CONTENT: 1,
    }
    (note,) = [n for n in data.load_train(f"folder:{folder}").facts.notes if n.startswith("left out")]
    for fact in ("5 files", "2 files (ending not accepted; for example train/cat/IMG_1.heic)", "1 file ("):
        assert fact in note


def test_one_name_in_two_unicode_forms_is_one_class(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "f", {"thé": 2, "café": 3})
    (path / "test/café").rename(path / "test" / unicodedata.normalize("NFD", "café"))
    assert data.describe(f"folder:{path}").classes == ("café", "thé")
    assert np.bincount(data.load_test(f"folder:{path}").labels).tolist() == [2, 2]
    apart = path / "train" / unicodedata.normalize("NFD", "café")
    apart.mkdir()
    picture(77).save(apart / "zz.png")
    train = data.load_train(f"folder:{path}")
    assert (train.classes, np.bincount(train.labels).tolist()) == (("café", "thé"), [4, 2])


def test_names_that_are_no_text_are_read(folder: Path, tmp_path: Path) -> None:
    picture(5).save(tmp_path / "x.png")
    odd = bytes(folder / "train" / "cat") + b"/\xff\xfe.png"
    with open(odd, "wb") as file:  # noqa: PTH123 (a path of bytes)
        file.write((tmp_path / "x.png").read_bytes())
    for _ in range(2):  # decoded, then from the cache
        train = data.load_train(f"folder:{folder}", cache=tmp_path / "cache")
        assert train.rows is not None
        assert train.rows.files[3] == "train/cat/\udcff\udcfe.png"


def test_groups_are_the_outermost_folders_inside_a_class(folder: Path) -> None:
    save(folder / "train/cat/ada/left/1.png", 1)
    save(folder / "train/dog/ada/1.png", 2)
    save(folder / "unlabelled/ada/1.png", 3)
    save(folder / "unlabelled/2.png", 4)
    train = data.load_train(f"folder:{folder}", options=Options(group_by="folder"))
    assert train.rows is not None
    groups = dict(zip(train.rows.files, train.rows.groups, strict=True))
    assert groups["train/cat/ada/left/1.png"] == groups["train/dog/ada/1.png"] == "ada"
    assert groups["unlabelled/ada/1.png"] == "ada"
    assert groups["train/cat/000.png"] == groups["unlabelled/2.png"] == ""
    ungrouped = data.load_train(f"folder:{folder}").rows
    assert ungrouped is not None and not any(ungrouped.groups)


def test_a_class_that_test_lacks_is_told(folder: Path) -> None:
    shutil.rmtree(folder / "test" / "cat")
    assert data.describe(f"folder:{folder}").test_per_class == (0, 2)


def test_long_names_are_cut_in_messages() -> None:
    names = [f"{i:03}{'x' * 120}" for i in range(12)]
    text = listings.shown(names)
    assert text.endswith(" and 2 more") and len(text) < 10 * 43 + 12 and "000xxx" in text
