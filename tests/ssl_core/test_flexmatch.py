"""FlexMatch: thresholds per class by hand over several steps, and the memory that they come from."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_core.config import from_document
from ssl_core.methods.base import Setup
from ssl_core.methods.fixmatch import FixMatchConfig
from ssl_core.methods.flexmatch import (
    NEVER,
    FlexMatchConfig,
    FlexMatchState,
    learning_status,
    remember,
    thresholds,
)
from ssl_core.registry import get_method
from ssl_core.system.errors import ConfigError
from tests.matching import check_resumption, compute, digits_run, leaf, normal
from tests.tiny import finish

METHOD = get_method("flexmatch")


def logits_of(*rows: tuple[int, float], classes: int = 3) -> Tensor:
    """A row of logits for each (class, confidence)."""
    made = []
    for label, confidence in rows:
        rest = math.log((1 - confidence) / (classes - 1))
        made.append([math.log(confidence) if c == label else rest for c in range(classes)])
    return leaf(made)


def test_defaults_and_first_state() -> None:
    assert FlexMatchConfig() == FlexMatchConfig(threshold=0.95, lambda_u=1.0)
    assert METHOD.warmup_share == 0 and METHOD.unlabelled_views == ("weak", "strong")
    setup = Setup(num_classes=3, num_images=8, labelled=3, unlabelled=6, batch_size=2, mu=2)
    state = METHOD.init_state(FlexMatchConfig(), setup)
    assert state.last.tolist() == [-1] * 8 and state.last.dtype == torch.int64 and state.unlabelled == 6


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": 0.0}, r"flexmatch\.threshold = 0\.0: .*greater than 0"),
        ({"threshold": 2}, r"flexmatch\.threshold = 2: .*less than or equal to 1"),
        ({"lambda_u": -1}, r"flexmatch\.lambda_u = -1: .*greater than or equal to 0"),
        ({"lambda_u": True}, r"flexmatch\.lambda_u = True: .*number"),
    ],
)
def test_bad_parameters_are_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_document({"method": "flexmatch", "flexmatch": values})


@pytest.mark.parametrize(
    ("last", "unlabelled", "expected"),
    [
        ([-1, -1, -1, -1], 4, [0, 0, 0]),  # nothing yet
        ([0, -1, -1, -1], 4, [1 / 3, 0, 0]),  # three never: they are the largest group
        ([0, 0, 1, -1], 4, [1, 1 / 2, 0]),  # class 0 is
        ([0, 0, 1, -1, -1, -1], 4, [1, 1 / 2, 0]),  # two images that are not in U
        ([2, 2, 2, 2], 4, [0, 0, 1]),  # all are one class
        ([0, 1, 2, 0, 1, 2], 6, [1, 1, 1]),
    ],
)
def test_learning_status_by_hand(last: list[int], unlabelled: int, expected: list[float]) -> None:
    status = learning_status(torch.tensor(last), unlabelled, 3)
    assert status.tolist() == pytest.approx(expected, rel=1e-14)


def test_the_convex_mapping_by_hand() -> None:
    status = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    assert thresholds(status, 0.9).tolist() == pytest.approx([0, 0.9 / 7, 0.3, 0.9], rel=1e-14)


def test_memory_keeps_the_last_confident_prediction() -> None:
    last = torch.tensor([2, -1, 0, -1])
    new = remember(last, torch.tensor([0, 1, 2]), torch.tensor([1, 2, 1]), torch.tensor([True, True, False]))
    assert new.tolist() == [1, 2, 0, -1]
    assert last.tolist() == [2, -1, 0, -1]


def test_an_image_twice_in_a_step_does_not_depend_on_the_order() -> None:
    last = torch.full((3,), 2)
    indices, predicted = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 1, 0, 1, 1, 0])
    confident = torch.tensor([True, False, True, True, False, False])
    for order in torch.stack([torch.arange(6), torch.arange(5, -1, -1)]):
        new = remember(last, indices[order], predicted[order], confident[order])
        assert new.tolist() == [0, 1, 2]  # the confident one, the higher class, the old one


def test_nothing_waits_for_the_device() -> None:
    """Tensors without values refuse whatever would have to know one."""
    last = torch.full((9,), NEVER, device="meta")
    places, flags = torch.zeros(4, dtype=torch.int64, device="meta"), torch.ones(4, device="meta") > 0
    new = remember(last, places, places, flags)
    assert thresholds(learning_status(new, 9, 3), 0.95)[places].shape == (4,)
    with pytest.raises(RuntimeError, match="meta"):
        new.max().item()


def test_thresholds_by_hand_over_several_steps() -> None:
    """Six images in U (2 to 7), three classes, tau 0.8."""
    config, state = FlexMatchConfig(threshold=0.8), FlexMatchState(torch.full((8,), NEVER), 6)

    def step(indices: list[int], *rows: tuple[int, float]) -> tuple[list[bool], float, float]:
        nonlocal state
        weak = logits_of(*rows)
        parts = leaf(torch.zeros(1, 3)), weak, leaf(torch.zeros_like(weak))
        output = compute("flexmatch", config, parts, [0], indices=indices, state=state)
        state = output.state
        assert output.pseudo is not None
        share = output.pseudo.accepted.sum().item() / len(indices)
        assert output.terms["loss_unsupervised"].item() == pytest.approx(share * math.log(3), rel=1e-12)
        mean, lowest = (output.terms[name].item() for name in ("threshold_mean", "threshold_lowest"))
        return output.pseudo.accepted.tolist(), mean, lowest

    # Never confident: every threshold is 0 and every image counts. 2 and 3 become class 0.
    assert step([2, 3, 4], (0, 0.9), (0, 0.8001), (1, 0.5)) == ([True] * 3, 0, 0)
    assert state.last.tolist() == [-1, -1, 0, 0, -1, -1, -1, -1]
    # sigma = 2, 0, 0 and 4 never: beta_0 = 2/4, T_0 = 0.8 * 0.5 / 1.5 = 0.2667, below any maximum of three.
    accepted, mean, lowest = step([4, 5, 6], (0, 0.4), (1, 0.9), (0, 0.85))
    assert accepted == [True] * 3 and (mean, lowest) == (pytest.approx(0.8 / 9, rel=1e-12), 0)
    assert state.last.tolist() == [-1, -1, 0, 0, -1, 1, 0, -1]
    # sigma = 3, 1, 0 and 2 never: beta = 1, 1/3, 0; T = 0.8, 0.8 / 5, 0.
    accepted, mean, lowest = step([4, 7, 2, 3], (0, 0.79), (1, 0.4), (2, 0.81), (0, 0.82))
    assert accepted == [False, True, True, True]
    assert (mean, lowest) == (pytest.approx((0.8 + 0.16) / 3, rel=1e-12), 0)
    assert state.last.tolist() == [-1, -1, 2, 0, -1, 1, 0, -1]
    # sigma = 2, 1, 1 and 2 never: beta = 1, 1/2, 1/2; T = 0.8, 0.8 / 3, 0.8 / 3.
    accepted, mean, lowest = step([4, 5], (0, 0.7), (2, 0.7))
    assert accepted == [False, True]
    assert (mean, lowest) == (
        pytest.approx(0.8 * (1 + 2 / 3) / 3, rel=1e-12),
        pytest.approx(0.8 / 3, rel=1e-12),
    )
    assert state.last.tolist() == [-1, -1, 2, 0, -1, 1, 0, -1] and state.unlabelled == 6


def test_many_random_steps_equal_a_slow_count() -> None:
    draw, config = random.Random(0), FlexMatchConfig(threshold=0.6)
    state, memory = FlexMatchState(torch.full((20,), NEVER), 15), dict.fromkeys(range(15), NEVER)
    accepted_in_all = 0
    for number in range(40):
        indices = draw.sample(range(15), 6)
        weak, strong = leaf(1.5 * normal(6, 4, seed=number)), leaf(normal(6, 4, seed=99 + number))
        output = compute(
            "flexmatch", config, (leaf(torch.zeros(1, 4)), weak, strong), [0], indices=indices, state=state
        )
        state, counts = output.state, list(memory.values())
        expected = 0.0
        for i, row, other in zip(indices, weak.softmax(1).tolist(), strong.softmax(1).tolist(), strict=True):
            label = row.index(max(row))
            largest = max(counts.count(c) for c in (-1, 0, 1, 2, 3))
            beta = counts.count(label) / largest
            if max(row) >= 0.6 * beta / (2 - beta):
                expected -= math.log(other[label]) / 6
                accepted_in_all += 1
            if max(row) >= 0.6:
                memory[i] = label
        assert output.terms["loss_unsupervised"].item() == pytest.approx(expected, rel=1e-9)
        assert state.last[:15].tolist() == list(memory.values())
    assert 100 < accepted_in_all < 230


def test_where_all_classes_are_learnt_alike_it_is_fixmatch() -> None:
    weak, strong = leaf(2 * normal(12, 3)), leaf(normal(12, 3, seed=1))
    parts = leaf(normal(3, 3, seed=2)), weak, strong
    state = FlexMatchState(torch.arange(12) % 3, 12)
    flex = compute("flexmatch", FlexMatchConfig(threshold=0.6), parts, [0, 1, 2], state=state)
    fix = compute("fixmatch", FixMatchConfig(threshold=0.6), parts, [0, 1, 2])
    assert flex.pseudo is not None and fix.pseudo is not None
    assert 0 < fix.pseudo.accepted.sum() < 12
    assert torch.equal(flex.pseudo.accepted, fix.pseudo.accepted) and torch.equal(flex.total, fix.total)


def test_targets_get_no_gradient_and_weight_0_switches_off() -> None:
    for lambda_u in (1.0, 0.0):
        labelled, weak, strong = leaf(normal(3, 3)), leaf(normal(8, 3, seed=1)), leaf(normal(8, 3, seed=2))
        state = FlexMatchState(torch.full((8,), NEVER), 8)
        config = FlexMatchConfig(lambda_u=lambda_u)
        output = compute("flexmatch", config, (labelled, weak, strong), [0, 1, 2], state=state)
        output.total.backward()
        assert weak.grad is None or not weak.grad.any()
        assert strong.grad is not None and bool(strong.grad.any()) == (lambda_u > 0)


def test_runs_on_digits_resume_bit_for_bit_with_their_memory(tmp_path: Path) -> None:
    parameters = {"threshold": 0.2}  # an untrained network of ten classes is that sure at times
    reports = check_resumption(tmp_path, "flexmatch", flexmatch=parameters)
    assert reports[-1].metrics["train/threshold_mean"] > 0
    run = digits_run("flexmatch", flexmatch=parameters)
    finish(run)
    last = run.state()["method"]["last"]
    assert last.dtype == torch.int64 and len(last) == len(run.labels)
    remembered = (last != NEVER).nonzero().flatten()
    assert 0 < len(remembered) <= 24 and not torch.isin(remembered, run.valid).any()


def test_early_on_every_image_counts() -> None:
    run = digits_run("flexmatch")  # at 0.95 nothing is confident in six steps
    metrics = finish(run)[-1].metrics
    assert metrics["ssl/mask_rate"] == 1.0 and metrics["train/threshold_mean"] == 0.0
