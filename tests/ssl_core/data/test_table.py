"""Tables of images: CSV, TSV, Parquet, and the metadata.csv of an image folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ssl_core.data import datasets as data
from tests.ssl_core.data.helpers import message, picture

Lines = Sequence[dict[str, str]]


def images(folder: Path, count: int) -> list[str]:
    """Files 00.png, 01.png, ... in a nested folder; their names relative to `folder`."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    names = [f"pictures/{i:02}.png" for i in range(count)]
    for i, name in enumerate(names):
        picture(i).save(folder / name)
    return names


def write(path: Path, lines: Lines) -> str:
    """A table in the format that its name says; its data set's name."""
    frame = pd.DataFrame(list(lines))
    if path.suffix == ".parquet":
        frame.replace("", None).to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return f"table:{path}"


@pytest.fixture
def lines(tmp_path: Path) -> list[dict[str, str]]:
    """Three and four labelled images, two for validation, two for testing, three without a label."""
    labels = ["b"] * 3 + ["a"] * 4 + ["a", "b"] * 2 + [""] * 3
    splits = ["train"] * 7 + ["valid"] * 2 + ["test"] * 2 + ["unlabelled"] + [""] * 2
    names = images(tmp_path, len(labels))
    return [
        {"file": f, "label": label, "split": s} for f, label, s in zip(names, labels, splits, strict=True)
    ]


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_every_format_gives_the_same(tmp_path: Path, lines: Lines, ending: str) -> None:
    name = write(tmp_path / f"labels.{ending}", lines)
    info = data.describe(name)
    assert (info.classes, info.train_per_class, info.unlabelled) == (("a", "b"), (4, 3), 3)
    assert (info.valid_per_class, info.test_per_class, info.protocol) == ((1, 1), (1, 1), "real")
    train, test = data.load_train(name), data.load_test(name)
    assert train.labels.tolist() == [0] * 4 + [1] * 3 + [-1] * 3 + [0, 1]
    np.testing.assert_array_equal(train.images[4], np.asarray(picture(0)))
    np.testing.assert_array_equal(test.images[0], np.asarray(picture(9)))
    assert train.rows is not None and train.rows.files[7:10] == tuple(
        f"pictures/{i}.png" for i in (11, 12, 13)
    )


def test_the_smallest_table(tmp_path: Path) -> None:
    names = images(tmp_path, 8)
    name = write(tmp_path / "t.csv", [{"file": f, "label": "xy"[i % 2]} for i, f in enumerate(names)])
    info = data.describe(name)
    assert info.train_per_class == (4, 4) and info.test_per_class is None and info.protocol == "simulated"


def test_a_table_as_a_spreadsheet_writes_it(tmp_path: Path) -> None:
    names = images(tmp_path, 8)
    text = "File;Label\r\n" + "".join(f"{f};{'ümlaut' if i % 2 else 'b'}\r\n" for i, f in enumerate(names))
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert data.describe(f"table:{tmp_path / 't.csv'}").classes == ("b", "ümlaut")


def test_labels_that_look_like_numbers_or_nothing_are_names(tmp_path: Path) -> None:
    names = images(tmp_path, 10)
    lines = [{"file": f, "label": ("01", "1", "NA", "null", "1.5")[i % 5]} for i, f in enumerate(names)]
    assert data.listing_of(write(tmp_path / "t.csv", lines)).classes == ("01", "1", "1.5", "NA", "null")  # type: ignore[union-attr]
    numbers = pd.DataFrame({"file": names, "label": [0, 1, 1, 0, 0, 0, 1, 1, 1, None]})
    numbers.to_parquet(tmp_path / "t.parquet")
    found = data.listing_of(f"table:{tmp_path / 't.parquet'}")
    assert found is not None and found.classes == ("0", "1") and found.is_real


def test_mended_predictions_are_a_table(tmp_path: Path) -> None:
    names = images(tmp_path, 9)
    rows = [
        {"file": f, "label": "ab"[i % 2] if i < 8 else "", "confidence": "0.98", "second": "b"}
        for i, f in enumerate(names)
    ]
    info = data.describe(write(tmp_path / "predictions.csv", rows))
    assert (info.train_per_class, info.unlabelled) == ((4, 4), 1)


def test_groups_come_from_a_column(tmp_path: Path) -> None:
    names = images(tmp_path, 12)
    rows = [{"file": f, "label": "ab"[i % 2], "group": f"p{i // 3}"} for i, f in enumerate(names)]
    train = data.load_train(write(tmp_path / "t.csv", [*rows]))
    assert train.rows is not None and not train.is_plain
    test = data.load_test(f"table:{tmp_path / 't.csv'}")
    assert test.rows is not None
    assert set(test.rows.groups).isdisjoint(train.rows.groups)


def test_absolute_paths_inside_the_folder_are_the_same(tmp_path: Path, lines: Lines) -> None:
    relative = data.load_train(write(tmp_path / "a.csv", lines))
    absolute = [{**line, "file": str(tmp_path / line["file"])} for line in lines]
    assert data.load_train(write(tmp_path / "b.csv", absolute)).fingerprint == relative.fingerprint


# ---- what is refused


def refused(tmp_path: Path, lines: Lines) -> str:
    return message(data.describe, write(tmp_path / "bad.csv", lines))


def test_a_missing_column(tmp_path: Path, lines: Lines) -> None:
    text = refused(tmp_path, [{"file": line["file"], "labels": line["label"]} for line in lines])
    assert "unknown column 'label'" in text and "'labels'" in text and "bad.csv lacks a column" in text
    text = refused(tmp_path, [{"path": line["file"], "label": line["label"]} for line in lines])
    assert "column 'file'" in text


def test_files_that_do_not_exist(tmp_path: Path, lines: Lines) -> None:
    text = refused(tmp_path, [*lines, {"file": "gone.png", "label": "a", "split": ""}])
    assert (
        "1 of 15 files do not exist" in text
        and "gone.png (line 16)" in text
        and "relative to the table" in text
    )


@pytest.mark.parametrize("file", ["../outside.png", "/etc/hostname", "pictures/../../x.png"])
def test_a_path_that_leaves_the_folder(tmp_path: Path, lines: Lines, file: str) -> None:
    text = refused(tmp_path, [*lines, {"file": file, "label": "a", "split": ""}])
    assert f"line 16 names {file!r}, which is outside the table's folder" in text


@pytest.mark.parametrize(("label", "split"), [("b", "train"), ("a", "test"), ("", "unlabelled")])
def test_one_file_twice(tmp_path: Path, lines: Lines, label: str, split: str) -> None:
    text = refused(
        tmp_path, [*lines, {"file": "pictures/../pictures/03.png", "label": label, "split": split}]
    )
    assert "pictures/03.png stands in line 5" in text and "in line 16" in text and "label 'a'" in text


def test_the_same_line_twice_is_one_image(tmp_path: Path, lines: Lines) -> None:
    assert data.describe(write(tmp_path / "t.csv", [*lines, lines[0]])).train_per_class == (4, 3)


def test_a_label_that_only_testing_uses(tmp_path: Path, lines: Lines) -> None:
    changed = [{**line, "label": "c"} if line["split"] == "test" else line for line in lines]
    assert "label 'c' (line 11) is used in test but not in train, which has a, b" in refused(
        tmp_path, changed
    )


def test_splits_that_cannot_be(tmp_path: Path, lines: Lines) -> None:
    text = refused(tmp_path, [{**lines[0], "split": "tset"}, *lines[1:]])
    assert "line 2: unknown split 'tset'. Did you mean 'test'?" in text
    text = refused(tmp_path, [*lines[:-1], {**lines[-1], "split": "valid"}])
    assert "is for valid but has no label" in text


def test_too_few_classes_or_labels(tmp_path: Path, lines: Lines) -> None:
    assert "has no labelled training image" in refused(
        tmp_path, [{**line, "label": "", "split": ""} for line in lines]
    )
    assert "has one class, 'a'" in refused(tmp_path, [{**line, "label": "a"} for line in lines])
    assert "line 2 has no file" in refused(tmp_path, [{**lines[0], "file": ""}, *lines[1:]])


def test_a_table_that_cannot_be_read(tmp_path: Path) -> None:
    assert "does not exist. Give it as table:FILE" in message(data.describe, f"table:{tmp_path / 'no.csv'}")
    assert "is not a file" in message(data.describe, f"table:{tmp_path}")
    assert "names no table" in message(data.describe, "table:")
    for name, content in (("a.csv", b""), ("b.csv", b"file,label\n\xff\xfe,a\n"), ("c.parquet", b"PAR1")):
        (tmp_path / name).write_bytes(content)
        text = message(data.describe, f"table:{tmp_path / name}")
        assert name in text and "cannot be read" in text and "UTF-8" in text


# ---- metadata.csv


def test_metadata_in_an_image_folder(tmp_path: Path) -> None:
    for part, count in (("train", 6), ("test", 2)):
        folder = tmp_path / "flat" / part
        names = images(folder, count)
        rows = [{"file_name": f, "label": "ab"[i % 2]} for i, f in enumerate(names)]
        write(folder / "metadata.csv", rows)
    info = data.describe(f"folder:{tmp_path / 'flat'}")
    assert (info.train_per_class, info.test_per_class) == ((3, 3), (1, 1))


def test_metadata_beside_the_parts(tmp_path: Path) -> None:
    names = [f"train/{f}" for f in images(tmp_path / "train", 6)] + [
        f"test/{f}" for f in images(tmp_path / "test", 2)
    ]
    rows = [{"file_name": f, "label": "ab"[i % 2]} for i, f in enumerate(names)]
    write(tmp_path / "metadata.csv", rows)
    info = data.describe(f"folder:{tmp_path}")
    assert (info.train_per_class, info.test_per_class) == ((3, 3), (1, 1))


def test_other_metadata_is_no_list_of_images(folder: Path) -> None:
    (folder / "metadata.csv").write_text("file_name,caption\nx.png,a cat\n")
    assert data.describe(f"folder:{folder}").train_per_class == (3, 4)
