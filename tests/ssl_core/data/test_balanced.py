"""The balanced split of images that all have labels."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from ssl_core.data import datasets as data
from tests.ssl_core.data.helpers import message


def info(*per_class: int) -> data.DatasetInfo:
    classes = ("cat", "dog", "emu")[: len(per_class)]
    return data.DatasetInfo("folder:pets", classes, per_class, 8, "wrn-28-2", None, flip=True)


@pytest.mark.parametrize(
    ("labelled", "valid", "facts"),
    [
        (0, 30, ["labelled images 0 is not positive", "multiples of 3", "for example 3"]),
        (30, -3, ["validation images -3 is not positive", "multiples of 3"]),
        (31, 30, ["labelled images 31 is not a multiple of the 3 classes", "30 or 33", "folder:pets"]),
        (30, 2, ["validation images 2 is not a multiple of the 3 classes", "example 3"]),
        (120, 30, ["120 labelled and 30 validation", "150", "130 training images"]),
        (60, 60, ["class 'dog'", "30 training images", "40 of each", "20 labelled and 20", "90 together"]),
        (60, 33, ["class 'dog'", "31 of each"]),
    ],
)
def test_counts_that_cannot_be_drawn(labelled: int, valid: int, facts: list[str]) -> None:
    text = message(data.check_counts, info(50, 30, 50), labelled=labelled, valid=valid)
    for fact in facts:
        assert fact in text


def test_counts_that_just_fit_are_accepted() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.check_counts(info(50, 30, 50), labelled=60, valid=30)
        data.check_counts(info(50, 30, 50), labelled=45, valid=45)


def test_a_validation_set_larger_than_the_labelled_one_is_warned_about() -> None:
    with pytest.warns(UserWarning, match=r"validation set \(60 images\).*labelled set \(30\)") as caught:
        data.check_counts(info(50, 50, 50), labelled=30, valid=60)
    assert len(caught) == 1 and caught[0].filename == __file__


LABELS = np.random.default_rng(3).permutation(np.repeat(np.arange(3), (40, 50, 60))).astype(np.int64)


def draw(labels: np.ndarray[Any, Any] = LABELS, **changes: Any) -> data.Split:
    arguments: dict[str, Any] = {"labelled": 12, "valid": 9, "split_seed": 1, "label_seed": 2}
    return data.draw_split(labels, 3, **{**arguments, "fingerprint": "abc", **changes})


def test_split_is_balanced_disjoint_and_complete() -> None:
    split = draw()
    np.testing.assert_array_equal(np.bincount(LABELS[split.labelled]), [4, 4, 4])
    np.testing.assert_array_equal(np.bincount(LABELS[split.valid]), [3, 3, 3])
    everything = set(range(len(LABELS)))
    assert set(split.unlabelled) == everything - set(split.valid)
    assert set(split.labelled) <= set(split.unlabelled)
    assert len(split.unlabelled) == len(LABELS) - 9
    for indices in (split.labelled, split.valid, split.unlabelled):
        assert indices.dtype == np.int64
        assert (np.diff(indices) > 0).all()


def test_split_that_uses_every_image_of_a_class() -> None:
    split = draw(labelled=60, valid=60)
    assert set(split.labelled).isdisjoint(split.valid)
    smallest = set(np.flatnonzero(LABELS == 0))
    assert smallest <= set(split.labelled) | set(split.valid)


def test_label_seed_moves_the_labelled_images_alone() -> None:
    first, second = draw(label_seed=2), draw(label_seed=3)
    np.testing.assert_array_equal(first.valid, second.valid)
    np.testing.assert_array_equal(first.unlabelled, second.unlabelled)
    assert not np.array_equal(first.labelled, second.labelled)
    assert not np.array_equal(draw(split_seed=8).valid, first.valid)


def test_equal_seeds_are_separate_streams() -> None:
    # Were the two purposes or the classes one stream, the same positions would be drawn.
    labels = np.repeat(np.arange(3), 50).astype(np.int64)
    split = draw(labels, labelled=60, valid=60, split_seed=5, label_seed=5)
    positions = {tuple(split.valid[labels[split.valid] == c] - 50 * c) for c in range(3)}
    assert len(positions) == 3
    # A labelled order equal to the validation order would begin right after the validation images.
    longer = draw(labels, labelled=30, valid=120, split_seed=5, label_seed=5)
    assert not set(split.labelled) <= set(longer.valid)


def test_smaller_sets_are_part_of_larger_ones() -> None:
    assert set(draw(labelled=6).labelled) < set(draw(labelled=30).labelled)
    assert set(draw(valid=6).valid) < set(draw(valid=30).valid)


def test_split_is_a_function_of_its_arguments() -> None:
    np.random.seed(0)  # noqa: NPY002 (the global generator must not matter)
    first = draw()
    np.random.seed(1)  # noqa: NPY002
    second = draw(labels=LABELS.copy())
    for name in ("labelled", "valid", "unlabelled"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert first.hash == second.hash
    assert len(first.hash) == 16 and int(first.hash, 16) >= 0


def test_hash_changes_with_everything() -> None:
    other_labels = np.roll(LABELS, 1)
    hashes = [
        draw().hash,
        draw(fingerprint="abd").hash,
        draw(split_seed=9).hash,
        draw(label_seed=9).hash,
        draw(labelled=15).hash,
        draw(valid=12).hash,
        draw(labels=other_labels).hash,
    ]
    assert len(set(hashes)) == len(hashes)


def test_split_stays_what_it_was() -> None:
    # Recorded: studies keep their split across versions. A change here breaks every exported configuration.
    split = data.draw_split(
        np.arange(20, dtype=np.int64) % 2, 2, labelled=4, valid=4, split_seed=0, label_seed=0, fingerprint="f"
    )
    assert split.valid.tolist() == [0, 5, 6, 13]
    assert split.labelled.tolist() == [8, 9, 10, 11]
    assert split.hash == "b18353cd711c5cd1"


def test_split_refuses_what_cannot_be_drawn() -> None:
    assert "class '0'" in message(draw, labelled=90, valid=45)
    assert "31 is not a multiple of the 3 classes" in message(draw, labelled=31)
    assert "0 is not positive" in message(draw, valid=0)
