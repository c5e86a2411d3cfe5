"""Folds: the labelled and validation images of a split, divided anew."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from ssl_core.config import from_document
from ssl_core.data.datasets import Dataset, Split
from ssl_core.data.splits.drawing import Wanted, split_for
from ssl_core.data.splits.folds import folded
from ssl_core.preparation import prepare
from ssl_core.system.errors import ConfigError
from tests.ssl_core.data.helpers import message
from tests.ssl_core.data.test_drawing import dataset

WANTED = Wanted(labelled=30, valid=30)


def labels_of(*per_class: int, unlabelled: int = 0) -> list[int]:
    return [c for c, count in enumerate(per_class) for _ in range(count)] + [-1] * unlabelled


def plain() -> Dataset:
    return dataset(labels_of(40, 30, 20))


def folds(data: Dataset, wanted: Wanted, number: int) -> list[Split]:
    first = split_for(data, wanted).split
    return [folded(data, first, wanted, fold) for fold in range(number)]


def test_fold_0_is_the_split_itself() -> None:
    data = plain()
    first = split_for(data, WANTED).split
    assert folded(data, first, WANTED, 0) is first


def test_a_fold_divides_the_same_images_and_keeps_the_numbers_of_each_class() -> None:
    data = plain()
    first, *others = folds(data, WANTED, 4)
    pool = set(first.labelled) | set(first.valid)
    for split in others:
        assert set(split.labelled) | set(split.valid) == pool and not set(split.labelled) & set(split.valid)
        for part, before in ((split.labelled, first.labelled), (split.valid, first.valid)):
            assert (np.diff(part) > 0).all() and part.dtype == np.int64
            np.testing.assert_array_equal(np.bincount(data.labels[part]), np.bincount(data.labels[before]))
        # What is neither labelled nor for validation stays unlabelled.
        assert set(split.unlabelled) == set(range(90)) - set(split.valid)
    assert len({split.hash for split in (first, *others)}) == 4


def test_as_many_of_both_swap_places_every_second_fold() -> None:
    first, second, third, fourth = folds(plain(), WANTED, 4)
    np.testing.assert_array_equal(second.labelled, first.valid)
    np.testing.assert_array_equal(second.valid, first.labelled)
    np.testing.assert_array_equal(fourth.labelled, third.valid)
    assert set(third.valid) & set(first.valid) and set(third.valid) & set(second.valid)


def test_a_fifth_for_validation_gives_five_fold_cross_validation() -> None:
    drawn = folds(plain(), Wanted(labelled=48, valid=12), 5)
    seen = np.concatenate([split.valid for split in drawn])
    assert len(set(seen)) == len(seen) == 60


def test_a_fold_depends_on_the_seeds_and_itself_alone() -> None:
    data = plain()
    one, again = folds(data, WANTED, 4), folds(data, WANTED, 3)
    assert [split.hash for split in one[:3]] == [split.hash for split in again]
    moved = folds(data, Wanted(labelled=30, valid=30, label_seed=1), 3)
    assert not {split.hash for split in one} & {split.hash for split in moved}


@pytest.mark.parametrize("seed", range(5))
def test_groups_and_copies_stay_together_in_every_fold(seed: int) -> None:
    groups = [f"g{i // 3}" for i in range(60)] + [""] * 8
    pictures = [*range(60), 0, 1, 2, 3, *range(60, 64)]  # four unlabelled images are copies of labelled ones
    data = dataset(labels_of(20, 20, 20, unlabelled=8), pictures=pictures, groups=groups)
    drawn = folds(data, Wanted(valid_share=0.3, split_seed=seed), 4)
    for split in drawn:
        inside = {groups[i] for i in split.valid}
        assert not inside & {groups[i] for i in split.labelled}
        assert sorted([*split.labelled, *split.valid]) == list(range(60))
        tied = {i for i in range(60, 64) if groups[pictures[i]] in inside}
        assert set(split.unlabelled) == set(range(68)) - set(split.valid) - tied
    for one, other in pairwise(drawn):
        assert one.hash != other.hash


def test_validation_images_of_the_users_own_are_not_trained_on() -> None:
    labels = labels_of(10, 10, 10) * 2
    data = dataset(labels, roles=["train"] * 30 + ["valid"] * 30)
    split = split_for(data, Wanted()).split
    text = message(folded, data, split, Wanted(), 1)
    assert "validation images of its own" in text and "--folds" in text and "train/" in text


def test_a_class_that_cannot_be_divided_is_refused() -> None:
    labels, wanted = labels_of(4, 4, 4, unlabelled=2), Wanted(valid=6)
    split = split_for(dataset(labels), wanted).split
    tied = dataset(labels, groups=["a"] * 4 + [""] * 10)
    assert "class 'a' of 'pets' cannot be divided anew" in message(folded, tied, split, wanted, 1)


def test_a_run_s_configuration_names_its_fold() -> None:
    document = {"method": "supervised", "dataset": "digits", "labels": 50, "data": {"image_size": 8}}
    config, data, first = prepare(document)
    other, _, second = prepare({**document, "data": {"image_size": 8, "fold": 1}})
    assert "fold" not in config.document()["data"] and other.document()["data"]["fold"] == 1
    assert first.hash == split_for(data, Wanted(labelled=50, valid=50)).split.hash
    np.testing.assert_array_equal(second.valid, first.labelled)
    assert prepare(other)[2].hash == second.hash
    refit, both = {"refit": True}, np.sort(np.concatenate([first.labelled, first.valid]))
    np.testing.assert_array_equal(prepare(other.model_copy(update=refit))[2].labelled, both)


def test_a_fold_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.fold = -1"):
        from_document({"method": "supervised", "data": {"fold": -1}})
