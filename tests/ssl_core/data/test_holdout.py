"""Test images held out where a data set has none: by class and pixels alone, recorded, copies kept together."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_core.data import datasets as data
from ssl_core.data.options import DEFAULT_TEST_SHARE, Options
from ssl_core.data.splits.holdout import Holdout, Membership, hold_out
from tests.ssl_core.data.helpers import all_files, message, picture, write_folder

Hashes = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


def hashes_of(*pictures: object) -> Hashes:
    digests = [hashlib.sha256(repr(one).encode()).digest()[:16] for one in pictures]
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 16)


def held(
    pictures: list[object],
    labels: list[int],
    *,
    groups: list[str] | None = None,
    share: float = 0.2,
    keep: int = 2,
    recorded: Membership | None = None,
) -> Holdout:
    names = groups or [""] * len(labels)
    integers = np.asarray(labels, dtype=np.int64)
    return hold_out("ab", integers, hashes_of(*pictures), names, share, keep=keep, recorded=recorded)


def test_the_share_is_about_what_was_asked_for() -> None:
    labels = [k % 2 for k in range(4000)]
    test = held(list(range(4000)), labels).test
    for label in (0, 1):  # 400 of 2000 each, within four standard deviations
        assert abs(sum(labels[i] == label for i in test) - 400) < 4 * np.sqrt(2000 * 0.2 * 0.8)


def test_membership_hangs_on_class_and_pixels_alone() -> None:
    pictures, labels = list(range(400)), [k % 2 for k in range(400)]
    before = {pictures[i] for i in held(pictures, labels).test}
    order = np.random.default_rng(0).permutation(400)
    shuffled = held([pictures[i] for i in order], [labels[i] for i in order])
    assert {pictures[order[i]] for i in shuffled.test} == before
    fewer = held(pictures[:100], labels[:100])
    assert {pictures[i] for i in fewer.test} == {p for p in before if p < 100}
    swapped = held(pictures, [1 - label for label in labels])
    assert {pictures[i] for i in swapped.test} != before


@pytest.mark.parametrize("added", [1, 10, 300])
@pytest.mark.parametrize("first", [6, 20, 200])
def test_added_images_move_none_into_training(first: int, added: int) -> None:
    pictures, labels = list(range(first)), [k % 2 for k in range(first)]
    before = held(pictures, labels)
    more = list(range(first + added))
    after = held(more, [k % 2 for k in more], recorded=before.membership)
    assert set(before.test) <= set(after.test)
    again = held(more, [k % 2 for k in more], recorded=after.membership)
    assert again.test.tolist() == after.test.tolist() and again.membership == after.membership


def test_images_that_were_taken_away_stay_in_the_record() -> None:
    pictures, labels = list(range(60)), [k % 2 for k in range(60)]
    before = held(pictures, labels)
    without = held(pictures[:6], labels[:6], recorded=before.membership)
    back = held(pictures, labels, recorded=without.membership)
    assert back.test.tolist() == before.test.tolist() and back.membership == before.membership


def test_a_recorded_image_stays_under_another_label_and_share() -> None:
    before = held(list(range(60)), [k % 2 for k in range(60)])
    changed = held(list(range(60)), [0] * 40 + [1] * 20, share=0.5, recorded=before.membership)
    assert set(before.test) <= set(changed.test) and changed.membership.share == 0.2


@pytest.mark.parametrize("share", [0.001, 0.2, 0.999])
def test_every_class_gives_one_and_keeps_two(share: float) -> None:
    labels = [0] * 3 + [1] * 40
    test = held(list(range(43)), labels, share=share).test
    counts = np.bincount(np.asarray(labels)[test], minlength=2)
    assert counts[0] == 1 and 1 <= counts[1] <= 38


def test_a_class_that_is_too_small_is_refused() -> None:
    text = message(held, [1, 2, 3, 4, 5], [0, 0, 1, 1, 1])
    assert "class 'a' has 2 labelled images, but 3 are needed" in text and "Label more images of 'a'" in text
    text = message(held, [1, 1, 1, 4, 5, 6], [0, 0, 0, 1, 1, 1])
    assert "class 'a' has 3 labelled images (1 without copies and groups), but 3 are needed" in text


def test_copies_share_a_part() -> None:
    pictures = [k // 3 for k in range(300)]  # three copies of each, in both classes
    found = held(list(pictures), [k % 2 for k in range(300)])
    inside = {pictures[i] for i in found.test}
    assert sorted(found.test) == [k for k in range(300) if pictures[k] in inside]


def test_unlabelled_copies_and_members_of_a_group_leave_the_unlabelled_images() -> None:
    pictures = [*range(60), *range(60), 100, 101]
    labels = [k % 2 for k in range(60)] + [-1] * 62
    groups = [""] * 120 + ["", ""]
    found = held(list(pictures), labels, groups=groups)
    assert found.excluded.tolist() == [i + 60 for i in found.test]
    groups[int(found.test[0])] = groups[120] = "patient"
    regrouped = held(list(pictures), labels, groups=groups)
    assert (120 in regrouped.excluded) == (int(found.test[0]) in regrouped.test)


def test_a_group_is_in_one_part_and_stays_there() -> None:
    groups = [f"p{k // 5}" for k in range(200)]
    labels = [k % 2 for k in range(200)]
    found = held(list(range(200)), labels, groups=groups)
    inside = {groups[i] for i in found.test}
    assert sorted(found.test) == [k for k in range(200) if groups[k] in inside]
    more = held(list(range(210)), [k % 2 for k in range(210)], groups=groups + ["p0"] * 5 + ["p9"] * 5)
    assert inside == {(groups + ["p0"] * 5 + ["p9"] * 5)[i] for i in more.test}


def test_the_record_is_plain_data() -> None:
    held_out = held(list(range(60)), [k % 2 for k in range(60)])
    found = held_out.membership
    assert Membership.of(json.loads(json.dumps(found.document()))) == found
    assert sum(len(hashes) for hashes in found.test.values()) == len(
        held(list(range(60)), [k % 2 for k in range(60)]).test
    )
    other = held(list(range(61)), [k % 2 for k in range(60)] + [0], recorded=None, share=0.5).membership
    assert found.digest != other.digest
    for wrong in ({}, [], {**found.document(), "format": 1}, {**found.document(), "test": {"a": ["xyz"]}}):
        assert "home/test.json: the record of test images cannot be read" in message(
            Membership.of, wrong, where="home/test.json"
        )


# ---- in a folder


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Forty of each, no test/."""
    path = write_folder(tmp_path / "pets", {"cat": 40, "dog": 40})
    shutil.rmtree(path / "test")
    return path


def files(rows: object) -> set[str]:
    return set(rows.files)  # type: ignore[attr-defined]


@pytest.mark.parametrize("cached", [False, True])
def test_a_folder_without_test(pets: Path, tmp_path: Path, cached: bool) -> None:
    name, cache = f"folder:{pets}", tmp_path / "cache" if cached else None
    train, test = data.load_train(name, cache=cache), data.load_test(name, cache=cache)
    assert train.rows is not None and test.rows is not None and not train.is_plain
    assert files(train.rows).isdisjoint(files(test.rows))
    assert len(train.labels) + len(test.labels) == 80
    for rows, images, labels in (
        (train.rows, train.images, train.labels),
        (test.rows, test.images, test.labels),
    ):
        for file, image, label in zip(rows.files, images, labels, strict=True):
            np.testing.assert_array_equal(image, np.asarray(Image.open(pets / file)))
            assert file.startswith(f"train/{train.classes[label]}/")
    (note,) = [note for note in train.facts.notes if "there is no test/" in note]
    assert (
        f"{len(test.labels)} of 80 labelled images" in note
        and f"data.test_share: {DEFAULT_TEST_SHARE}" in note
    )
    pixels = train.images.reshape(-1, 3) / 255
    np.testing.assert_allclose(train.mean, pixels.mean(axis=0), rtol=1e-9)  # test images count for nothing
    if cache is not None:
        assert isinstance(train.images, np.memmap) and isinstance(test.images, np.memmap)
        assert len(all_files(cache)) == 12  # two entries with four files each, and a second name of each


def test_neither_size_nor_name_nor_format_moves_an_image(pets: Path) -> None:
    before = data.load_test(f"folder:{pets}")
    assert before.rows is not None
    resized = data.load_test(f"folder:{pets}", image_size=12)
    assert resized.rows is not None and resized.rows.files == before.rows.files
    for file in list((pets / "train").rglob("*.png")):
        Image.open(file).save(file.with_name(f"new-{file.stem}.bmp"))
        file.unlink()
    after = data.load_test(f"folder:{pets}")
    np.testing.assert_array_equal(np.unique(after.images, axis=0), np.unique(before.images, axis=0))


def test_the_record_of_an_earlier_study_is_kept(pets: Path, tmp_path: Path) -> None:
    name, cache = f"folder:{pets}", tmp_path / "cache"
    record = data.membership_of(data.load_train(name, cache=cache))
    assert record is not None
    first = data.load_test(name, cache=cache)
    for i in range(30):
        picture(5000 + i).save(pets / "train" / "cat" / f"new{i}.png")
    later = data.load_train(name, cache=cache, membership=record, options=Options(test_share=0.6))
    test = data.load_test(name, cache=cache, membership=record, options=Options(test_share=0.6))
    assert first.rows is not None and test.rows is not None and later.rows is not None
    assert files(first.rows) <= files(test.rows) and files(test.rows).isdisjoint(files(later.rows))
    grown = data.membership_of(later)
    assert grown is not None and grown.share == record.share
    assert sum(map(len, grown.test.values())) == len(test.labels)


def test_validation_images_of_the_data_sets_own_are_no_test_images(pets: Path) -> None:
    for i in range(5):
        for name in ("cat", "dog"):
            (pets / "valid" / name).mkdir(parents=True, exist_ok=True)
            picture(3000 + i).save(pets / "valid" / name / f"{i}.png")
    train, test = data.load_train(f"folder:{pets}"), data.load_test(f"folder:{pets}")
    assert train.rows is not None and test.rows is not None
    assert train.rows.roles.count("valid") == 10
    assert not any(file.startswith("valid/") for file in test.rows.files)


def test_unlabelled_copies_of_test_images_leave_training(folder: Path, tmp_path: Path) -> None:
    (folder / "unlabelled").mkdir()
    for i in range(3):
        picture(400 + i).save(folder / "unlabelled" / f"{i}.png")
    shutil.copy(folder / "test/cat/000.png", folder / "unlabelled/copy.png")
    Image.open(folder / "test/dog/001.png").save(folder / "unlabelled/copy.bmp")
    shutil.copy(folder / "train/dog/001.png", folder / "unlabelled/labelled.png")  # may stay
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        train = data.load_train(f"folder:{folder}", cache=cache)
        assert train.rows is not None
        assert [f for f in train.rows.files if f.startswith("unlabelled")] == [
            f"unlabelled/{name}.png" for name in ("0", "1", "2", "labelled")
        ]
        assert train.facts.copies_left_out == 2
        assert any(
            note.startswith("left out as copies of test images") and "2 unlabelled images" in note
            for note in train.facts.notes
        )


def test_classes_too_small_for_the_parts_are_told_before_decoding(pets: Path) -> None:
    for file in sorted((pets / "train" / "dog").iterdir())[2:]:
        file.unlink()
    text = message(data.describe, f"folder:{pets}")
    assert "class 'dog' has 2 labelled training images, but 3 are needed" in text
    assert "one each for training, valid, test" in text and "valid/ and test/ of your own" in text


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 3.0])
def test_a_share_out_of_range(share: float) -> None:
    assert f"data.test_share = {share}" in message(Options, test_share=share)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.7])
def test_a_record_gives_the_same_test_images_again(share: float) -> None:
    """Whatever the rule, `keep` and an earlier record had to say."""
    for seed in range(20):
        random = np.random.default_rng(seed)
        pictures: list[object] = [(seed, int(n)) for n in random.integers(0, 30, 40)]
        labels = (np.arange(40) % 3 - 1).tolist()  # a third without a label
        groups = [random.choice(["", "", "", "p", "q"]) for _ in range(40)]
        first = held(pictures[:30], labels[:30], groups=groups[:30], share=share)
        for earlier in (None, first.membership):
            grown = held(pictures, labels, groups=groups, share=share, recorded=earlier)
            again = held(pictures, labels, groups=groups, share=0.5, recorded=grown.membership)
            assert again.membership == grown.membership
            np.testing.assert_array_equal(again.test, grown.test)
            np.testing.assert_array_equal(again.excluded, grown.excluded)
        # An added file moves no test image into training.
        grown = held(pictures, labels, groups=groups, share=share, recorded=first.membership)
        assert set(first.test) <= set(grown.test)


def test_images_are_decoded_once_whether_or_not_there_is_a_record(tmp_path: Path) -> None:
    path, cache = write_folder(tmp_path / "f", {"a": 12, "b": 12}), tmp_path / "cache"
    shutil.rmtree(path / "test")
    name = f"folder:{path}"
    first = data.load_train(name, cache=cache)
    record = data.membership_of(first)
    size = sum(file.stat().st_size for file in cache.rglob("*.npy") if not file.parent.is_symlink())
    calls: list[int] = []
    again = data.load_train(name, cache=cache, membership=record, progress=lambda done, _: calls.append(done))
    assert again.fingerprint == first.fingerprint and calls == []
    test = data.load_test(name, cache=cache, membership=record, progress=lambda done, _: calls.append(done))
    np.testing.assert_array_equal(test.images, data.load_test(name, cache=cache).images)
    assert calls == []
    entries = {folder.resolve() for folder in cache.iterdir() if folder.is_dir()}
    assert sum(file.stat().st_size for entry in entries for file in entry.rglob("*.npy")) == size
    # What the record leads to is damaged: it is decoded anew.
    for file in cache.rglob("train_images.npy"):
        file.write_bytes(b"")
    fresh = data.load_train(name, cache=cache, membership=record, progress=lambda n, _: calls.append(n))
    assert calls and fresh.fingerprint == first.fingerprint
