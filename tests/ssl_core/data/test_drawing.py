"""The split of any data set."""

from __future__ import annotations

import hashlib
import warnings
from typing import Any

import numpy as np
import pytest

from ssl_core.data.datasets import Dataset, Split, draw_split
from ssl_core.data.part import Rows
from ssl_core.data.splits.drawing import Drawn, Wanted, draw, proportional
from tests.ssl_core.data.helpers import message

LABELS = np.random.default_rng(3).permutation(np.repeat(np.arange(3), (40, 50, 60))).astype(np.int64)


def dataset(
    labels: Any,
    *,
    pictures: Any = None,
    groups: list[str] | None = None,
    roles: list[str] | None = None,
) -> Dataset:
    labels = np.asarray(labels, dtype=np.int64)
    count = len(labels)
    shown = range(count) if pictures is None else pictures
    digests = b"".join(hashlib.sha256(b"%d" % one).digest()[:16] for one in shown)
    rows = Rows(
        tuple(f"{i}.png" for i in range(count)),
        np.frombuffer(digests, dtype=np.uint8).reshape(-1, 16),
        tuple(groups or [""] * count),
        tuple(roles or ["unlabelled" if label < 0 else "train" for label in labels]),
    )
    images = np.zeros((count, 8, 8, 3), dtype=np.uint8)
    zero = (0.0, 0.0, 0.0)
    return Dataset("pets", images, labels, tuple("abc"), "f", zero, zero, True, rows, is_plain=False)


def parts(drawn: Drawn) -> tuple[set[int], set[int], set[int]]:
    split = drawn.split
    for indices in (split.labelled, split.valid, split.unlabelled):
        assert indices.dtype == np.int64 and (np.diff(indices) > 0).all()
    return set(split.labelled), set(split.valid), set(split.unlabelled)


def as_before(**how: int) -> Split:
    return draw_split(LABELS, 3, **{"split_seed": 1, "label_seed": 2, **how}, fingerprint="f")  # type: ignore[arg-type]


@pytest.mark.parametrize(("labelled", "valid"), [(12, 9), (60, 60), (3, 3), (9, 60)])
def test_balanced_numbers_without_ties_give_the_split_of_the_simulated_protocol(
    labelled: int, valid: int
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn = draw(dataset(LABELS), Wanted(labelled=labelled, valid=valid, split_seed=1, label_seed=2))
    expected = as_before(labelled=labelled, valid=valid)
    for name in ("labelled", "valid", "unlabelled"):
        np.testing.assert_array_equal(getattr(drawn.split, name), getattr(expected, name))
    assert drawn.split.hash == expected.hash and drawn.notes == []


REAL = np.concatenate([LABELS, np.full(70, -1)])


def test_the_real_protocol_uses_every_label() -> None:
    labelled, valid, unlabelled = parts(draw(dataset(REAL), Wanted()))
    assert labelled | valid == set(range(150)) and not labelled & valid
    assert unlabelled == set(range(220)) - valid
    assert np.bincount(REAL[sorted(valid)]).tolist() == [8, 10, 12]  # a fifth of each class


def test_fewer_labels_hide_the_others() -> None:
    every, some = parts(draw(dataset(REAL), Wanted())), parts(draw(dataset(REAL), Wanted(labelled=30)))
    assert some[1] == every[1] and some[2] == every[2] and some[0] < every[0]
    assert np.bincount(REAL[sorted(some[0])]).tolist() == [10, 10, 10]


def test_the_seeds_are_separate() -> None:
    first, second = (
        draw(dataset(REAL), Wanted(labelled=30)),
        draw(dataset(REAL), Wanted(labelled=30, label_seed=1)),
    )
    assert parts(first)[1:] == parts(second)[1:] and parts(first)[0] != parts(second)[0]
    assert parts(draw(dataset(REAL), Wanted(split_seed=1)))[1] != parts(first)[1]
    assert len({first.split.hash, second.split.hash, draw(dataset(REAL), Wanted()).split.hash}) == 3


def test_a_count_wins_over_the_share() -> None:
    drawn = draw(dataset(REAL), Wanted(valid=6, valid_share=0.5))
    assert np.bincount(REAL[drawn.split.valid]).tolist() == [2, 2, 2]
    assert not any("valid_share" in note for note in drawn.notes)


@pytest.mark.parametrize("share", [0.001, 0.5, 0.9])
def test_at_least_one_of_each_class(share: float) -> None:
    labels = [0] * 12 + [1] * 60 + [2] * 400
    valid = draw(dataset(labels), Wanted(valid_share=share)).split.valid
    expected = [max(1, round(share * n)) for n in (12, 60, 400)]
    assert np.bincount(np.asarray(labels)[valid]).tolist() == expected


def test_a_share_that_leaves_a_class_empty_is_refused() -> None:
    text = message(draw, dataset([0] * 3 + [1] * 60 + [2] * 60), Wanted(valid_share=0.9))
    assert "data.valid_share = 0.9 takes 3 of the 3 labelled images of class 'a'" in text


def test_the_split_of_shares_is_told() -> None:
    (note,) = draw(dataset(REAL), Wanted()).notes
    assert "there is no valid/: 30 of 150 labelled images" in note and "data.valid_share: 0.2" in note


# ---- validation images of the data set's own

OWN = np.concatenate([REAL, np.repeat(np.arange(3), (5, 6, 7))])
ROLES = ["train"] * 150 + ["unlabelled"] * 70 + ["valid"] * 18


def test_validation_images_of_the_data_sets_own_are_all_used() -> None:
    drawn = draw(dataset(OWN, roles=ROLES), Wanted())
    labelled, valid, unlabelled = parts(drawn)
    assert valid == set(range(220, 238)) and labelled == set(range(150)) and unlabelled == set(range(220))
    assert drawn.notes == []


def test_or_as_many_as_are_asked_for() -> None:
    labelled, valid, unlabelled = parts(draw(dataset(OWN, roles=ROLES), Wanted(valid=9)))
    assert np.bincount(OWN[sorted(valid)]).tolist() == [3, 3, 3] and valid < set(range(220, 238))
    assert unlabelled == set(range(220)) and labelled == set(range(150))
    assert "can give 18" in message(draw, dataset(OWN, roles=ROLES), Wanted(valid=21))


def test_copies_of_them_leave_the_other_parts() -> None:
    pictures = list(range(238))
    pictures[220], pictures[221] = pictures[0], pictures[200]
    labelled, _, unlabelled = parts(draw(dataset(OWN, roles=ROLES, pictures=pictures), Wanted()))
    assert 0 not in labelled | unlabelled and 200 not in unlabelled


# ---- copies and groups


def test_unlabelled_copies_of_validation_images_leave_the_unlabelled_ones() -> None:
    pictures = [*range(150), *range(70)]
    drawn = draw(dataset(REAL, pictures=pictures), Wanted())
    _, valid, unlabelled = parts(drawn)
    gone = {i + 150 for i in valid if i < 70}
    assert gone and unlabelled == set(range(220)) - valid - gone
    assert any(
        f"copies of validation images, or of their group: {len(gone)} unlabelled" in note
        for note in drawn.notes
    )


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_never_torn_apart(seed: int) -> None:
    random = np.random.default_rng(seed)
    groups = [f"p{k}" for k in random.integers(0, 40, 220)]
    labelled, valid, unlabelled = parts(draw(dataset(REAL, groups=groups), Wanted(split_seed=seed)))
    inside = {groups[i] for i in valid}
    assert all(groups[i] not in inside for i in labelled | unlabelled)
    counts = np.bincount(REAL[sorted(valid)], minlength=3)
    assert (counts > 0).all() and np.abs(counts - (8, 10, 12)).max() <= 6  # a group is a handful of images
    assert (np.bincount(REAL[sorted(labelled)], minlength=3) > 0).all()
    assert labelled | valid == set(range(150))


def test_one_group_for_a_class_is_refused() -> None:
    labels = [0] * 10 + [1] * 10 + [2] * 10
    groups = ["p"] * 10 + [f"q{k}" for k in range(20)]
    text = message(draw, dataset(labels, groups=groups), Wanted())
    assert "class 'a' of 'pets' has 10 labelled images in 1 group that must stay together" in text


def test_a_class_of_large_groups_gives_its_smallest() -> None:
    labels = [0] * 30 + [1] * 10 + [2] * 10
    groups = ["p"] * 12 + ["q"] * 8 + ["r"] * 10 + [""] * 20
    _, valid, _ = parts(draw(dataset(labels, groups=groups), Wanted(valid_share=0.1)))
    assert {i for i in valid if labels[i] == 0} == set(range(12, 20))


def test_a_group_over_all_classes_leaves_something_for_training() -> None:
    labels = [0, 1, 2] * 10
    groups = ["big"] * 24 + [f"q{k}" for k in range(6)]
    labelled, valid, _ = parts(draw(dataset(labels, groups=groups), Wanted(valid_share=0.2)))
    assert valid <= set(range(24, 30)) and set(range(24)) <= labelled


# ---- unequal classes

UNEQUAL = [0] * 60 + [1] * 12 + [2] * 600


def test_unequal_classes_are_drawn_in_proportion_and_that_is_told() -> None:
    drawn = draw(dataset(UNEQUAL), Wanted(labelled=200, valid=12))
    counts = np.bincount(np.asarray(UNEQUAL)[drawn.split.labelled]).tolist()
    assert counts == proportional(200, [56, 8, 596]) and sum(counts) == 200
    (note,) = drawn.notes
    assert "200 labelled images are drawn in proportion" in note and "data.split: proportional" in note


def test_balanced_where_every_class_can_give_as_much() -> None:
    drawn = draw(dataset(UNEQUAL), Wanted(labelled=24, valid=12))
    assert np.bincount(np.asarray(UNEQUAL)[drawn.split.labelled]).tolist() == [8, 8, 8] and drawn.notes == []


def test_the_mode_can_be_told() -> None:
    drawn = draw(dataset(UNEQUAL), Wanted(labelled=24, valid=12, mode="proportional"))
    assert np.bincount(np.asarray(UNEQUAL)[drawn.split.labelled]).tolist() == proportional(24, [59, 11, 590])
    text = message(draw, dataset(UNEQUAL), Wanted(labelled=200, valid=12, mode="balanced"))
    assert (
        "cannot be balanced" in text and "class 'b' can give 8" in text and "multiple of 3 up to 24" in text
    )


@pytest.mark.parametrize(
    ("wanted", "fact"),
    [
        (Wanted(labelled=2), "number of labelled images 2 is less than one for each of the 3 classes"),
        (Wanted(valid=2), "number of validation images 2 is less than one"),
        (Wanted(labelled=700), "number of labelled images 700: 'pets' can give 538"),
    ],
)
def test_numbers_that_cannot_be_given(wanted: Wanted, fact: str) -> None:
    assert fact in message(draw, dataset(UNEQUAL), wanted)


def test_a_large_validation_set_is_warned_about() -> None:
    with pytest.warns(UserWarning, match=r"validation set \(30 images\).*labelled set \(3\)"):
        draw(dataset(REAL), Wanted(labelled=3, valid=30))


@pytest.mark.parametrize("seed", range(30))
def test_shares_in_proportion(seed: int) -> None:
    random = np.random.default_rng(seed)
    available = random.integers(1, 100, int(random.integers(1, 9))).tolist()
    number = int(random.integers(len(available), sum(available) + 1))
    counts = proportional(number, available)
    assert sum(counts) == number
    for count, n in zip(counts, available, strict=True):
        assert 1 <= count <= n
        exact = number * n / sum(available)
        # Whatever is at least one each can take from others by no more than the number of classes.
        assert count - exact <= 1 or count == 1
        assert exact - count <= len(available)


def test_proportional_by_hand() -> None:
    assert proportional(10, [50, 30, 20]) == [5, 3, 2]
    assert proportional(5, [98, 1, 1]) == [3, 1, 1]
    assert proportional(4, [1, 1, 1, 1]) == [1, 1, 1, 1]
    assert proportional(8, [3, 3, 3]) == [3, 3, 2]
