"""`data.balance_batches`: each class is as frequent as the others among the labelled images of the steps."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from ssl_core.methods.base import Progress
from ssl_core.training.rng import Balanced, Shuffled
from ssl_core.training.run import Run
from ssl_core.training.step import _batch
from tests.tiny import assert_same_bits, everything, finish, make_config, make_data, make_run, same_bits

LABELS = torch.tensor([0] * 7 + [1] * 2 + [2])


@pytest.mark.parametrize("size", [1, 3, 4, 7, 30])
def test_each_round_has_one_item_of_each_class(size: int) -> None:
    order = Balanced(LABELS, seed=5)
    sequence = torch.cat([order.batch(index, size) for index in range(42 * 3 // size + 1)])[: 42 * 3]
    for round_ in LABELS[sequence].reshape(-1, 3).tolist():
        assert sorted(round_) == [0, 1, 2]
    # 42 rounds: each of the 7 images of class 0 six times, each of the 2 of class 1 21 times.
    used = Counter(sequence.tolist())
    assert [used[item] for item in range(10)] == [6] * 7 + [21] * 2 + [42]


@pytest.mark.parametrize("size", [1, 4, 5, 16])
def test_a_batch_alone_is_that_of_the_sequence(size: int) -> None:
    order = Balanced(LABELS, seed=5)
    sequence = [order.batch(index, size) for index in range(9)]
    for index in (5, 8, 0, 3):
        assert torch.equal(Balanced(LABELS, seed=5).batch(index, size), sequence[index])
        assert torch.equal(order.batch(index, size), sequence[index])


def test_rounds_and_classes_are_shuffled_by_the_seed() -> None:
    one, other = (Balanced(LABELS, seed).batch(0, 60) for seed in (5, 6))
    assert not torch.equal(one, other) and not torch.equal(LABELS[one], LABELS[other])
    firsts = {tuple(row) for row in LABELS[one].reshape(-1, 3).tolist()}
    assert len(firsts) > 1


def unequal_run(*, balanced: bool, **fields: Any) -> Run:
    """A run with 8, 3 and 1 labelled images of its three classes."""
    data = make_data()
    base = make_run("fixmatch", data=data)
    free = np.setdiff1d(base.split.unlabelled, base.split.valid)
    chosen = [free[data.labels[free] == c][:n] for c, n in enumerate((8, 3, 1))]
    split = dataclasses.replace(base.split, labelled=np.sort(np.concatenate(chosen)))
    config = make_config(
        "fixmatch", data, split_of={"balance_batches": balanced}, batch_size=6, epochs=3, **fields
    )
    return Run(config, data, split)


def batch_at(run: Run, step: int) -> Any:
    return _batch(run, Progress(step=step, total_steps=9, step_in_epoch=0, epoch=2, ssl_epoch=1))


def test_unequal_classes_are_drawn_alike() -> None:
    run, plain = unequal_run(balanced=True), unequal_run(balanced=False)
    for step in range(6):
        assert batch_at(run, step).labels.bincount(minlength=3).tolist() == [2, 2, 2]
    drawn = torch.cat([batch_at(plain, step).labels for step in range(6)])
    assert drawn.bincount(minlength=3).tolist() == [24, 9, 3]


def test_the_option_changes_no_other_stream() -> None:
    run, plain = unequal_run(balanced=True), unequal_run(balanced=False)
    assert_same_bits(run.network.state_dict(), plain.network.state_dict())
    for step in range(4):
        one, other = batch_at(run, step), batch_at(plain, step)
        assert torch.equal(one.indices, other.indices)
        assert_same_bits(dict(one.views), dict(other.views))
        assert not torch.equal(one.labels, other.labels)


def test_off_is_the_order_of_before() -> None:
    assert isinstance(unequal_run(balanced=False).labelled_rows.order, Shuffled)
    one, other = make_run("fixmatch"), make_run("fixmatch", split_of={"balance_batches": False})
    finish(one), finish(other)
    assert_same_bits(everything(one), everything(other))


def test_a_run_that_goes_on_has_the_same_bits() -> None:
    straight, first = unequal_run(balanced=True), unequal_run(balanced=True)
    finish(straight)
    finish(first, until=1)
    again = unequal_run(balanced=True)
    again.load_state(first.state())
    finish(again)
    assert_same_bits(everything(again), everything(straight))
    plain = unequal_run(balanced=False)
    finish(plain)
    assert not same_bits(plain.state()["network"], straight.state()["network"])
