"""The look at a data set before anything runs."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl_core.data import datasets as data
from ssl_core.data.inspecting.inspection import Inspection, glance, inspect
from ssl_core.data.inspecting.lettering import readable
from ssl_core.data.inspecting.overlaps import check_leak, overlaps_of
from ssl_core.data.inspecting.sheet import draw_sheet, sample
from ssl_core.data.options import Options
from ssl_core.data.part import hashes_of_images
from ssl_core.data.splits.drawing import Wanted, split_for
from tests.ssl_core.data.helpers import all_files, message, picture, write_folder


def look(path: Path, **how: Any) -> Inspection:
    return inspect(f"folder:{path}", **{"wanted": Wanted(labelled=2, valid=2), **how})


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """Thirty of each, twenty without a label, neither valid/ nor test/."""
    path = write_folder(tmp_path / "real", {"cat": 30, "dog": 30})
    shutil.rmtree(path / "test")
    (path / "unlabelled").mkdir()
    for i in range(20):
        picture(5000 + i).save(path / "unlabelled" / f"{i}.png")
    return path


def test_a_sound_folder(folder: Path, tmp_path: Path) -> None:
    before = all_files(tmp_path)
    found = look(folder)
    assert (found.protocol, found.classes) == ("simulated", ["cat", "dog"])
    assert found.counts == {"train": [3, 4], "unlabelled": 0, "test": [2, 2]}
    assert (found.image_size, found.sizes, found.kinds) == (8, [[8, 8, 11]], {"PNG RGB": 11})
    assert found.split == {"labelled": [1, 1], "valid": [1, 1], "test": [2, 2], "unlabelled": 5}
    assert (found.notes, found.warnings, found.problems) == ([], [], [])
    assert found.bytes_in_memory == 7 * 8 * 8 * 3 and found.bytes_on_disk == 11 * 8 * 8 * 3
    assert found.damaged == {"count": 0, "files": []} and found.left_out == {}
    assert json.loads(json.dumps(found.document())) == found.document()
    assert all_files(tmp_path) == before


@pytest.mark.parametrize("name", ["folder", "real"])
def test_the_split_is_the_one_that_is_drawn(name: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(name)
    wanted = Wanted(labelled=2, valid=2) if name == "folder" else Wanted()
    found = look(path, wanted=wanted)
    train, test = data.load_train(f"folder:{path}"), data.load_test(f"folder:{path}")
    split = split_for(train, wanted).split
    assert found.split == {
        "labelled": np.bincount(train.labels[split.labelled]).tolist(),
        "valid": np.bincount(train.labels[split.valid]).tolist(),
        "test": np.bincount(test.labels).tolist(),
        "unlabelled": len(split.unlabelled),
    }
    assert found.bytes_in_memory == train.images.nbytes
    assert found.notes == train.facts.notes + split_for(train, wanted).notes


def test_the_recorded_test_set_is_the_one_that_is_told(real: Path) -> None:
    record = data.membership_of(data.load_train(f"folder:{real}", options=Options(test_share=0.5)))
    found = look(real, wanted=Wanted(), membership=record)
    assert record is not None and found.split is not None
    assert found.split["test"] == [len(record.test["cat"]), len(record.test["dog"])]


def test_damaged_files_are_counted_and_ten_are_named(folder: Path) -> None:
    for i in range(12):
        (folder / "train" / "dog" / f"x{i:02}.png").write_bytes(b"")
    found = look(folder)
    assert found.damaged["count"] == 12 and len(found.damaged["files"]) == 10
    assert found.damaged["files"][0]["file"] == "train/dog/x00.png" and found.damaged["files"][0]["error"]
    (problem,) = found.problems
    assert problem.startswith("12 files cannot be read: train/dog/x00.png") and "and 2 more" in problem
    skipping = look(folder, options=Options(on_damaged="skip"))
    assert skipping.problems == [] and "They are skipped" in skipping.warnings[0]
    assert skipping.split is not None and skipping.split["unlabelled"] == 5
    (folder / "test/cat/000.png").write_bytes(b"")
    (problem,) = look(folder, options=Options(on_damaged="skip")).problems
    assert "never skipped" in problem


def test_copies_are_counted_by_kind(folder: Path) -> None:
    shutil.copy(folder / "train/cat/000.png", folder / "train/cat/100.png")
    shutil.copy(folder / "train/cat/001.png", folder / "train/dog/100.png")
    shutil.copy(folder / "train/dog/000.png", folder / "test/dog/100.png")
    found = look(folder)
    assert found.duplicates["within"] == {"train": 2}
    assert found.duplicates["between"] == [["train", "test", 1]] and found.duplicates["in_two_classes"] == 1
    assert found.warnings == [
        "2 images of train repeat others, for example train/cat/000.png and train/cat/100.png.",
        "1 image of test is in train too, for example train/dog/000.png and test/dog/100.png.",
        "1 picture is in two classes, for example train/cat/001.png and train/dog/100.png.",
    ]
    (problem,) = found.problems  # 1 of 5
    assert "1 of 5 test images are in the training set too" in problem and "data.allow_leak: true" in problem
    assert look(folder, allow_leak=True).problems == []


def test_a_class_that_test_lacks(folder: Path) -> None:
    shutil.rmtree(folder / "test" / "cat")
    told = "test has no image of cat: its error says nothing about such images."
    assert look(folder).warnings == [told] and glance(f"folder:{folder}") == [told]


def test_what_is_left_out(folder: Path) -> None:
    (folder / "train/cat/notes.txt").write_text("x")
    found = look(folder)
    assert found.left_out == {"ending not accepted": {"count": 1, "example": "train/cat/notes.txt"}}
    told = ["left out: 1 file (ending not accepted; for example train/cat/notes.txt)."]
    assert found.notes == told and glance(f"folder:{folder}") == told


def test_a_split_that_cannot_be_drawn_is_a_problem(folder: Path, real: Path) -> None:
    found = look(folder, wanted=Wanted(labelled=7, valid=7))
    assert found.split is None and "7 is not a multiple of the 2 classes" in found.problems[0]
    found = look(folder, wanted=Wanted())  # fully labelled, and no number: counted, not refused
    assert found.split is None and found.problems == []
    assert any("--labels N says how many keep it" in note for note in found.notes)
    (problem,) = look(real, wanted=Wanted(valid_share=0.99)).problems
    assert "data.valid_share = 0.99" in problem


def test_only_damaged_files(folder: Path) -> None:
    for file in folder.rglob("*.png"):
        file.write_bytes(b"")
    found = look(folder)
    assert found.image_size is None and found.problems and found.damaged["count"] == 11


def test_arrays_are_looked_at_as_well() -> None:
    found = inspect("digits")
    assert found.split == {
        "labelled": [10] * 10,
        "valid": [10] * 10,
        "test": np.bincount(data.load_test("digits").labels).tolist(),
        "unlabelled": 1338,
    }
    assert found.image_size == 16 and found.problems == [] and sum(found.counts["train"]) == 1438
    assert found.duplicates["in_two_classes"] == 0


def test_progress_is_told(folder: Path) -> None:
    told: list[tuple[int, int]] = []
    look(folder, progress=lambda *how_far: told.append(how_far))
    assert told[-1] == (11, 11)


# ---- overlaps


@pytest.mark.parametrize("seed", range(10))
def test_overlaps_are_those_of_a_slow_count(seed: int) -> None:
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 40))
    pictures = random.integers(0, 25, count)
    parts = [("train", "unlabelled", "test")[k] for k in sorted(random.integers(0, 3, count).tolist())]
    labels = np.asarray(
        [
            -1 if part == "unlabelled" else k
            for part, k in zip(parts, random.integers(0, 2, count), strict=True)
        ]
    )
    images = np.repeat(pictures.astype(np.uint8), 12).reshape(count, 2, 2, 3)
    names = [f"{i}.png" for i in range(count)]
    found = overlaps_of(hashes_of_images(images), parts, labels, names)
    members = {
        part: [int(p) for p, q in zip(pictures, parts, strict=True) if q == part]
        for part in dict.fromkeys(parts)
    }
    assert found.within == {part: len(m) - len(set(m)) for part, m in members.items() if len(m) > len(set(m))}
    order = list(members)
    expected = [
        (a, b, sum(p in members[a] for p in members[b])) for i, a in enumerate(order) for b in order[i + 1 :]
    ]
    assert found.between == [one for one in expected if one[2]]
    both = set(pictures[labels == 0].tolist()) & set(pictures[labels == 1].tolist())
    assert found.in_two_classes == len(both)


def test_a_test_set_that_is_in_the_training_set_is_refused(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "f", {"a": 30, "b": 30}, test=30)
    name = f"folder:{path}"

    def check(allow: bool = False) -> str | None:
        return check_leak(data.load_train(name), data.load_test(name), allow=allow)

    assert check() is None
    for i in range(3):  # 5 %
        shutil.copy(path / f"train/a/{i:03}.png", path / f"test/a/{i:03}.png")
    said = check()
    assert said is not None and "3 of 60 test images" in said and "lower than on new images" in said
    Image.open(path / "train/a/005.png").save(path / "test/a/005.bmp")
    text = message(check)
    assert "4 of 61 test images" in text and "test/a/000.png" in text and "data.allow_leak: true" in text
    assert check(allow=True) is not None
    assert check_leak(data.load_train("digits"), data.load_test("digits")) is None


# ---- the sheet


def test_the_sheet_shows_the_images_as_the_network_sees_them(real: Path) -> None:
    Image.new("RGB", (40, 20), "red").save(real / "train/cat/000.png")
    found = sample(f"folder:{real}", each=3)
    assert (
        found.titles == ("cat", "dog", "unlabelled")
        and [row.shape for row in found.rows] == [(3, 8, 8, 3)] * 3
    )
    assert (found.rows[0][0] == (255, 0, 0)).all()
    sheet = np.asarray(draw_sheet(found))
    again = np.asarray(draw_sheet(found))
    np.testing.assert_array_equal(sheet, again)
    large = found.rows[1][0].repeat(8, axis=0).repeat(8, axis=1)
    rows = [y for y in range(sheet.shape[0] - 63) if np.array_equal(sheet[y : y + 64, 180:244], large)]
    assert len(rows) == 1  # the dog's first image, as it is
    weak, strong = (sheet[rows[0] : rows[0] + 64, x : x + 64] for x in (248, 316))
    assert not np.array_equal(weak, large) and not np.array_equal(strong, weak)


def test_the_sheet_passes_over_damaged_images(folder: Path) -> None:
    (folder / "train/cat/000.png").write_bytes(b"")
    found = sample(f"folder:{folder}")
    assert [len(row) for row in found.rows] == [2, 4]
    for file in (folder / "train" / "cat").iterdir():
        file.write_bytes(b"")
    assert [len(row) for row in sample(f"folder:{folder}").rows] == [0, 4]
    draw_sheet(sample(f"folder:{folder}"))
    for file in (folder / "train" / "dog").iterdir():
        file.write_bytes(b"")
    assert "no image can be read" in message(sample, f"folder:{folder}")


def test_the_sheet_of_arrays_and_of_many_classes(tmp_path: Path) -> None:
    found = sample("digits", each=2, classes=3)
    assert found.titles == ("0", "1", "2") and not found.flip
    assert draw_sheet(found).size == (180 + 2 * (3 * 68 + 4), 22 + 3 * 68)


def test_names_in_the_sheet_are_readable() -> None:
    assert readable("cat 1") == "cat 1" and readable("café") == "café"
    assert readable("猫") == "U+732B" and readable("кот") == "кот"
    assert len(readable("x" * 120)) == 24 and readable("x" * 120).endswith("…")


def test_ten_thousand_tiny_files_are_looked_at_in_seconds(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "f", {"a": 1, "b": 1})
    content = [(picture(i, 8)) for i in range(50)]
    for i, image in enumerate(content):
        image.save(tmp_path / f"{i}.png")
    stored = [(tmp_path / f"{i}.png").read_bytes() for i in range(50)]
    for i in range(10_000):
        (path / "train" / "ab"[i % 2] / f"n{i}.png").write_bytes(stored[i % 50])
    started = time.perf_counter()
    found = look(path)
    assert sum(found.counts["train"]) == 10_002
    assert (
        time.perf_counter() - started < 60
    )  # 100,000 take less where nothing else runs: benchmarks/decode.py
