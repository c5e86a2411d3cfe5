"""Predicting a pool until an epoch's draws are covered: the stopping rule, and the estimate of |X| with its error."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import statistics
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_core.augment import randaugment
from ssl_core.config import from_document
from ssl_core.methods.base import Progress, Relabel, Setup
from ssl_core.methods.pseudo_label import PseudoLabelState
from ssl_core.methods.sampled_pool import (
    LEAST,
    Sampled,
    at_most,
    images_of_a_step,
    predict_sampled,
    rounded,
    standard_error,
    step_size,
)
from ssl_core.price import measure
from ssl_core.training import compile as compiled
from ssl_core.training.run import Run
from tests.tiny import assert_same_bits, everything, finish, make_data, make_run, same_bits, trained


def setup_of(*, labelled: int, batch_size: int, mu: int) -> Setup:
    return Setup(
        num_classes=3,
        num_images=9999,
        labelled=labelled,
        unlabelled=9999,
        batch_size=batch_size,
        mu=mu,
    )


def sampled(order: Tensor, accepted: Tensor, setup: Setup, steps: int) -> tuple[Sampled, list[int]]:
    """The pass over a pool of which these places are accepted, and the sizes of its blocks."""
    blocks: list[int] = []

    def judge(places: Tensor) -> tuple[Tensor, Tensor]:
        blocks.append(len(places))
        return places % 3, accepted[places]

    return predict_sampled(order, judge, setup, steps), blocks


def orders(n: int, count: int) -> list[Tensor]:
    return [torch.randperm(n, generator=torch.Generator().manual_seed(seed)) for seed in range(count)]


@pytest.mark.parametrize("truly", [0, 1, 4, 9, 10])
def test_over_every_sample_the_estimate_has_no_bias_and_the_error_that_is_stated(truly: int) -> None:
    """By brute force: all samples of K = 4 of 10 images."""
    n, steps, setup = 10, 2, setup_of(labelled=10, batch_size=2, mu=2)
    assert at_most(n, setup, steps) == 4
    accepted = torch.arange(n) < truly
    totals, squares = [], []
    for chosen in itertools.combinations(range(n), 4):
        rest = [place for place in range(n) if place not in chosen]
        found, _ = sampled(torch.tensor([*chosen, *rest]), accepted, setup, steps)
        totals.append(found.total)
        squares.append(standard_error(n, 4, int(accepted[list(chosen)].sum())) ** 2)
    p = truly / n
    stated = n * (n - 4) / (n - 1) * n * p * (1 - p) / 4
    assert statistics.fmean(totals) == pytest.approx(truly)
    assert statistics.pvariance(totals) == pytest.approx(stated)
    assert statistics.fmean(squares) == pytest.approx(stated)


def test_the_standard_error_of_a_whole_pool_is_none_and_of_one_image_unknown() -> None:
    assert standard_error(7, 7, 3) == 0.0
    assert math.isnan(standard_error(7, 1, 1))


@pytest.mark.parametrize("truly", [0, 6, 14, 30, 90, 400, 999])
def test_the_draws_of_an_epoch_are_covered_and_hardly_more_is_predicted(truly: int) -> None:
    n, steps, setup = 1000, 10, setup_of(labelled=100, batch_size=4, mu=3)
    accepted = torch.arange(n) < truly
    for order in orders(n, 30):
        found, blocks = sampled(order, accepted, setup, steps)
        size = images_of_a_step(found.total, setup.labelled, setup.batch_size, setup.mu)
        k, right = len(found.places), int(found.accepted.sum())
        assert right >= steps * size or k == n
        assert found.places.tolist() == sorted(order[:k].tolist())
        assert torch.equal(found.accepted, accepted[found.places])
        assert torch.equal(found.labels, found.places % 3)
        assert sum(blocks) == k and all(block >= min(LEAST, n - k) for block in blocks[1:-1])
        if truly >= 400:  # the cap of mu * B a step, 120 an epoch, is met before K = 400
            assert size == setup.mu * setup.batch_size and k <= 400
        if truly == 0:
            assert k == 400 and size == 0


def test_where_the_cap_ends_the_pass_the_estimate_is_too_large_by_the_share_that_is_stated() -> None:
    n, truly, steps, setup = 4000, 2000, 4, setup_of(labelled=50, batch_size=8, mu=1)
    accepted, enough = torch.arange(n) < truly, 32
    totals = [sampled(order, accepted, setup, steps)[0].total for order in orders(n, 2000)]
    error = statistics.stdev(totals) / math.sqrt(len(totals))
    bias = statistics.fmean(totals) / truly - 1
    assert -3 * error / truly < bias < 0.5 / enough + 3 * error / truly


def test_at_most_as_many_as_tell_the_size_of_a_step() -> None:
    setup = setup_of(labelled=4000, batch_size=32, mu=7)
    assert at_most(42_000, setup, 16) == 5376
    assert at_most(3584, setup, 16) == 3584  # an epoch can draw them all
    assert at_most(42_000, setup, 300) == 42_000


def large(pool: str, **fields: Any) -> Run:
    """A run whose pool of 228 images is far more than an epoch draws: 3 steps of up to 8."""
    parameters = {"pool": pool, "threshold": 0.4, **fields.pop("parameters", {})}
    return make_run("pseudo_label", data=make_data(per_class=80), parameters=parameters, lr=0.1, **fields)


def predictions(run: Run) -> list[list[int]]:
    """Let a run train; which images its method had predicted before each epoch."""
    seen: list[list[int]] = []
    kind: Any = type(run.method)

    class Spy(kind):  # type: ignore[misc]
        def start_epoch(self, config: Any, state: Any, relabel: Relabel) -> Any:
            asked: list[int] = []

            def predict(indices: Tensor) -> Tensor:
                asked.extend(indices.tolist())
                return relabel.predict(indices)

            fields = {name: getattr(relabel, name) for name in relabel.__dataclass_fields__}
            found = super().start_epoch(config, state, Relabel(**{**fields, "predict": predict}))
            seen.append(asked)
            return found

    run.method = Spy()
    finish(run)
    return seen


def test_a_run_predicts_a_fresh_sample_before_each_epoch_and_draws_from_it_alone() -> None:
    run = large("sampled")
    pool = set(run.unlabelled.tolist()) - set(run.labelled.tolist())
    seen = predictions(run)
    assert len(seen) == 3 and all(len(asked) == len(set(asked)) for asked in seen)
    assert all(24 <= len(asked) < len(pool) and set(asked) <= pool for asked in seen)
    assert len({tuple(asked[:24]) for asked in seen}) == 3
    for report, asked in zip(run.history[1:], seen, strict=True):
        assert report.metrics["ssl/pool_predicted"] == len(asked) / len(pool)
        assert sum(report.classes["accepted"]) == round(report.metrics["ssl/mask_rate"] * len(asked))
    assert set(run.method_state.indices.tolist()) <= set(seen[-1])


def test_a_run_on_a_sample_resumes_at_every_epoch_to_the_same_bits() -> None:
    whole, states = large("sampled"), []
    for epoch in range(1, 4):
        finish(whole, until=epoch)
        states.append(copy.deepcopy(whole.state()))
    finish(whole)
    for state in states:
        resumed = large("sampled")
        resumed.load_state(state)
        finish(resumed)
        assert_same_bits(everything(resumed), everything(whole))


@pytest.mark.parametrize(
    ("why", "fields"),
    [
        ("an epoch can draw the whole pool", {"steps_per_epoch": 29}),
        ("accumulate predicts all", {"parameters": {"accumulate": True}}),
    ],
)
def test_sampled_is_all_bit_for_bit(why: str, fields: dict[str, Any]) -> None:
    runs = [large(pool, epochs=3, **copy.deepcopy(fields)) for pool in ("sampled", "all")]
    for run in runs:
        finish(run)
        assert "ssl/pool_predicted" not in run.history[-1].metrics, why
    assert_same_bits(trained(runs[0]), trained(runs[1]))


def test_sampled_trains_on_other_images_than_all() -> None:
    runs = [large(pool) for pool in ("sampled", "all")]
    for run in runs:
        finish(run)
    assert not same_bits(trained(runs[0]), trained(runs[1]))


def test_accumulating_leaves_the_choice_of_a_pool_without_effect() -> None:
    document = {"method": "pseudo_label", "pseudo_label": {"accumulate": True}}
    config = from_document(document)
    method = make_run("pseudo_label").method
    assert "pseudo_label.accumulate = true" in method.idle(config.parameters)["pool"]


def test_a_checkpoint_of_a_version_without_an_estimate_continues() -> None:
    state = PseudoLabelState(indices=torch.arange(5), targets=torch.zeros(5, dtype=torch.int64))
    assert state.total == 5.0


def test_the_price_counts_the_images_that_are_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssl_core.price._seconds", lambda run, action: (action(), 1.0)[1])
    prices = {pool: measure(large(pool, labels=60)) for pool in ("all", "sampled")}
    run = large("all", labels=60)
    n, valid = len(run.unlabelled), len(run.valid)
    each = 1 / min(valid, run.config.eval_batch_size)
    assert prices["all"].epoch == pytest.approx(3 + (valid + n) * each)
    first = math.ceil(3 * 4 * n / 60)
    assert first < n and prices["sampled"].epoch == pytest.approx(3 + (valid + first) * each)


def test_sizes_of_three_binary_digits() -> None:
    assert [rounded(n) for n in range(9)] == list(range(9))
    assert [rounded(n) for n in range(9, 22)] == [10, 10, 12, 12, 14, 14, 16, 16, 16, 20, 20, 20, 20]
    assert all(abs(rounded(n) - n) <= n / 9 for n in range(1, 5000))
    sizes = sorted({rounded(n) for n in range(64, 449)})
    assert sizes == [64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448]


def test_a_compiled_run_has_few_sizes_of_a_step_and_any_other_run_the_exact_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact = setup_of(labelled=100, batch_size=15, mu=3)
    few = dataclasses.replace(exact, few_sizes=True)
    sizes = [
        (step_size(accepted, exact), step_size(accepted, few)) for accepted in (0, 20, 60, 170, 290, 9999)
    ]
    assert sizes == [
        (0, 0),
        (3, 3),
        (9, 10),
        (26, 28),
        (44, 45),
        (45, 45),
    ]  # 45 is the most that there may be
    monkeypatch.setattr(compiled, "network", lambda network: network)
    monkeypatch.setattr(compiled, "strong_views", lambda: randaugment.apply)
    monkeypatch.setattr(compiled, "begin_step", lambda: None)
    run, plain = (make_run("pseudo_label", compile=how, batch_size=9) for how in (True, False))
    assert run.setup.few_sizes and not plain.setup.few_sizes
    state = PseudoLabelState(torch.arange(30), torch.zeros(30, dtype=torch.int64), total=6.0)
    progress = Progress(step=9, total_steps=12, step_in_epoch=1, epoch=2, ssl_epoch=1)
    drawn = [
        each.method.draw(each.config.parameters, state, each.setup, progress, 3).indices
        for each in (run, plain)
    ]
    assert [len(indices) for indices in drawn] == [10, 9]
    (report, *_) = finish(run)  # and it trains with them
    assert report.epoch == 1 and run.epoch == 4
