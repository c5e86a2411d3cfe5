"""Pseudo-labelling: what is accepted, how much of it a step takes, and what the monitors say of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from ssl_core.methods.base import Batch, LossOutput, Progress, PseudoLabels, Relabel, Setup, Step
from ssl_core.methods.pseudo_label import PseudoLabelConfig, PseudoLabelState, select
from ssl_core.methods.sampled_pool import images_of_a_step
from ssl_core.registry import get_method
from ssl_core.training.monitors import MAX_CLASSES_SHOWN, EpochMonitor
from ssl_core.training.run import Run
from tests.tiny import assert_same_bits, finish, make_data, make_run, trained

METHOD = get_method("pseudo_label")
PROGRESS = Progress(step=0, total_steps=10, step_in_epoch=0, epoch=1, ssl_epoch=1)


def test_statistics_of_labelled_images_come_from_a_pass_of_their_own() -> None:
    """The loss is that of two passes, and BatchNorm's running statistics are those of the labelled one alone."""
    found: dict[str, Any] = {}
    for statistics in ("all", "labelled"):
        run = make_run("pseudo_label", precision="float64", parameters={"statistics": statistics})
        run.network.train()
        generator = torch.Generator().manual_seed(0)
        labelled, weak = (torch.randn(n, 3, 8, 8, generator=generator, dtype=torch.float64) for n in (4, 6))
        labels, targets = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 1, 0, 2, 0, 1])
        batch = Batch(
            labelled=labelled, labels=labels, indices=torch.arange(6), views={"weak": weak}, targets=targets
        )
        buffers = {name: b.clone() for name, b in run.network.named_buffers()}
        logits = [run.network(part).logits for part in (labelled, weak)]
        joint = run.network(torch.cat([labelled, weak])).logits
        rows = joint if statistics == "all" else torch.cat(logits)
        expected = functional.cross_entropy(rows, torch.cat([labels, targets]))
        run.network.load_state_dict(run.network.state_dict() | buffers)
        step = Step(run.forward, batch, run.method_state, PROGRESS, generator)
        output = METHOD.compute_loss(run.config.parameters, step)
        assert output.total.item() == pytest.approx(expected.item(), rel=1e-12)
        moved = {name: b.clone() for name, b in run.network.named_buffers()}
        run.network.load_state_dict(run.network.state_dict() | buffers)
        run.network(labelled if statistics == "labelled" else torch.cat([labelled, weak]))
        for name, buffer in run.network.named_buffers():
            assert torch.equal(buffer, moved[name]), name
        found[statistics] = output.total.item()
    assert found["all"] != found["labelled"]


def test_confidence_must_exceed_the_threshold() -> None:
    probabilities = torch.tensor([[0.75, 0.25], [0.25, 0.75], [0.76, 0.24], [0.5, 0.5]])
    predicted, accepted = select(probabilities, 0.75)
    assert accepted.tolist() == [False, False, True, False]
    assert predicted[:3].tolist() == [0, 1, 0] and predicted.dtype == torch.int64


def test_a_threshold_of_one_accepts_nothing() -> None:
    assert select(torch.eye(3), 1.0)[1].tolist() == [False] * 3


def test_nan_is_never_accepted() -> None:
    nan = float("nan")
    _, accepted = select(torch.tensor([[nan, nan], [nan, 1.0], [0.99, nan], [0.99, 0.01]]), 0.5)
    assert accepted.tolist() == [False, False, False, True]


@pytest.mark.parametrize(
    ("accepted", "labelled", "batch_size", "mu", "expected"),
    [
        (0, 100, 16, 3, 0),
        (100, 100, 16, 3, 16),  # as many pseudo-labels as labels: as many images of each
        (50, 100, 16, 3, 8),
        (20, 100, 16, 3, 3),  # 3.2
        (3, 100, 16, 3, 0),  # 0.48
        (4, 100, 16, 3, 1),  # 0.64
        (299, 100, 16, 3, 48),  # 47.84
        (100_000, 100, 16, 3, 48),  # capped at mu * B
        (46_000 - 4000, 4000, 64, 7, 448),
        (7, 6, 4, 2, 5),  # 4.67
    ],
)
def test_images_of_a_step_by_hand(
    accepted: int, labelled: int, batch_size: int, mu: int, expected: int
) -> None:
    assert images_of_a_step(accepted, labelled, batch_size, mu) == expected


POOL = torch.tensor([2, 3, 5, 8, 13])


def relabelled(state: PseudoLabelState, rows: list[list[float]], *, accumulate: bool) -> dict[int, int]:
    """X after one more epoch whose predictions for the pool are these, as index to class."""
    config = PseudoLabelConfig(threshold=0.6, accumulate=accumulate)

    def predict(indices: torch.Tensor) -> torch.Tensor:
        assert torch.equal(indices, POOL)
        return torch.tensor(rows)

    new, pseudo = METHOD.start_epoch(config, state, Relabel(pool=POOL, predict=predict, progress=PROGRESS))
    assert torch.equal(pseudo.indices, POOL)
    assert torch.equal(pseudo.indices[pseudo.accepted], new.indices)
    assert torch.equal(pseudo.labels[pseudo.accepted], new.targets)
    state.indices, state.targets = new.indices, new.targets
    assert new.indices.tolist() == sorted(new.indices.tolist())
    return dict(zip(new.indices.tolist(), new.targets.tolist(), strict=True))


def empty_state() -> PseudoLabelState:
    state = METHOD.init_state(
        PseudoLabelConfig(), Setup(num_classes=2, num_images=20, labelled=4, unlabelled=9, batch_size=2, mu=2)
    )
    assert isinstance(state, PseudoLabelState) and len(state.indices) == 0
    return state


FIRST = [[0.9, 0.1], [0.5, 0.5], [0.1, 0.9], [0.4, 0.6], [0.3, 0.7]]
SECOND = [[0.2, 0.8], [0.3, 0.7], [0.55, 0.45], [0.5, 0.5], [0.5, 0.5]]


def test_pseudo_labels_are_rebuilt_every_epoch() -> None:
    state = empty_state()
    assert relabelled(state, FIRST, accumulate=False) == {2: 0, 5: 1, 13: 1}
    assert relabelled(state, SECOND, accumulate=False) == {2: 1, 3: 1}
    assert relabelled(state, [[0.5, 0.5]] * 5, accumulate=False) == {}


def test_accumulating_keeps_what_was_accepted_until_something_newer_is() -> None:
    state = empty_state()
    assert relabelled(state, FIRST, accumulate=True) == {2: 0, 5: 1, 13: 1}
    # 2 is accepted anew as another class, 3 is new, 5 and 13 are unsure now and keep what they had
    assert relabelled(state, SECOND, accumulate=True) == {2: 1, 3: 1, 5: 1, 13: 1}
    assert relabelled(state, [[0.5, 0.5]] * 5, accumulate=True) == {2: 1, 3: 1, 5: 1, 13: 1}


@pytest.mark.parametrize(("step", "expected"), [(0, 5), (1, 5), (2, 5)])
def test_a_step_draws_its_share_of_x_with_its_pseudo_labels(step: int, expected: int) -> None:
    state = PseudoLabelState(indices=torch.arange(10, 17), targets=torch.arange(7) % 3)  # |X| = 7, |L| = 6
    setup = Setup(num_classes=3, num_images=42, labelled=6, unlabelled=36, batch_size=4, mu=2)
    progress = dataclasses.replace(PROGRESS, step_in_epoch=step, step=step)
    drawn = METHOD.draw(PseudoLabelConfig(), state, setup, progress, 0)
    assert drawn is not None and len(drawn.indices) == expected  # round(4 * 7 / 6)
    assert drawn.targets.tolist() == [(i - 10) % 3 for i in drawn.indices.tolist()]


def test_an_epoch_goes_over_x_in_passes() -> None:
    state = PseudoLabelState(indices=torch.arange(10, 17), targets=torch.zeros(7, dtype=torch.int64))
    setup = Setup(num_classes=3, num_images=42, labelled=6, unlabelled=36, batch_size=4, mu=2)

    def sequence(epoch: int) -> list[int]:
        drawn = []
        for step in range(7):
            progress = Progress(step=99 + step, total_steps=200, step_in_epoch=step, epoch=epoch, ssl_epoch=1)
            drawn += METHOD.draw(PseudoLabelConfig(), state, setup, progress, 0).indices.tolist()  # type: ignore[union-attr]
        return drawn

    first = sequence(1)
    assert len(first) == 7 * 5
    assert all(sorted(first[i : i + 7]) == list(range(10, 17)) for i in range(0, 35, 7))
    assert first != sequence(2)


def spied(run: Run) -> dict[str, Any]:
    """Let a run train, and keep what its method was given and made at the start of every epoch."""
    seen: dict[str, Any] = {"pools": [], "states": [], "probabilities": [], "expected": []}

    class Spy(type(METHOD)):  # type: ignore[misc]
        def start_epoch(self, config: Any, state: Any, relabel: Relabel) -> Any:
            probabilities = relabel.predict(relabel.pool)
            with torch.no_grad():
                assert not run.ema.network.training
                plain = np.array(run.data.images[relabel.pool.numpy()]) / 255
                plain = (plain - np.array(run.data.mean)) / np.array(run.data.std)
                images = torch.tensor(plain.transpose(0, 3, 1, 2), dtype=run.dtype)
                seen["expected"].append(run.ema.network(images).logits.softmax(dim=1))
            new, pseudo = super().start_epoch(config, state, relabel)
            seen["pools"].append(relabel.pool)
            seen["probabilities"].append(probabilities)
            seen["states"].append(new)
            return new, pseudo

    run.method = Spy()
    finish(run)
    return seen


def test_x_holds_neither_labelled_nor_validation_images() -> None:
    run = make_run("pseudo_label", parameters={"threshold": 0.34})
    seen = spied(run)
    allowed = set(range(42)) - set(run.split.valid.tolist()) - set(run.split.labelled.tolist())
    assert len(seen["states"]) == 3  # every epoch after the warm-up
    for pool, state in zip(seen["pools"], seen["states"], strict=True):
        assert pool.tolist() == sorted(allowed) and len(pool) == 30
        assert len(state.indices) > 0 and set(state.indices.tolist()) <= allowed


def test_relabelling_uses_the_average_in_evaluation_mode_on_images_as_they_are() -> None:
    seen = spied(make_run("pseudo_label", precision="float64", eval_batch_size=7))
    for probabilities, expected, state in zip(
        seen["probabilities"], seen["expected"], seen["states"], strict=True
    ):
        torch.testing.assert_close(probabilities, expected, rtol=0, atol=1e-10)
        confidence = expected.max(dim=1).values
        assert len(state.indices) == int((confidence > 0.4).sum())


def test_x_is_rebuilt_in_every_epoch_of_a_run() -> None:
    seen = spied(make_run("pseudo_label", parameters={"threshold": 0.4}, lr=0.1))
    selections = [state.indices.tolist() for state in seen["states"]]
    for state, pool, probabilities in zip(seen["states"], seen["pools"], seen["probabilities"], strict=True):
        predicted, accepted = select(probabilities, 0.4)
        assert state.indices.tolist() == pool[accepted].tolist()
        assert state.targets.tolist() == predicted[accepted].tolist()
    assert len({tuple(selection) for selection in selections}) > 1


def test_where_nothing_is_accepted_the_run_is_the_supervised_one_bit_for_bit() -> None:
    pseudo = make_run("pseudo_label", parameters={"threshold": 1.0})
    supervised = make_run("supervised")
    finish(pseudo)
    finish(supervised)
    assert_same_bits(trained(pseudo), trained(supervised))
    assert "train/loss_unsupervised" not in pseudo.history[-1].metrics
    assert pseudo.history[-1].metrics["ssl/mask_rate"] == 0.0
    assert "ssl/pseudo_label_accuracy" not in pseudo.history[-1].metrics


def test_a_pseudo_label_counts_as_much_as_a_label() -> None:
    """The union's average by hand: 2 labelled and 3 pseudo-labelled images, 5 terms of one fifth."""
    run = make_run("pseudo_label", precision="float64")
    images = torch.randn(5, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0, 1])
    batch = Batch(
        labelled=images[:2],
        labels=labels[:2],
        indices=torch.arange(3),
        views={"weak": images[2:]},
        targets=labels[2:],
    )
    step = Step(run.forward, batch, run.method_state, PROGRESS, torch.Generator())
    output = METHOD.compute_loss(PseudoLabelConfig(), step)
    each = [
        -float(functional.log_softmax(row, dim=0)[label])
        for row, label in zip(run.network(images).logits.detach(), labels.tolist(), strict=True)
    ]
    assert output.total.item() == pytest.approx(sum(each) / 5, rel=1e-12)
    assert output.terms["loss_supervised"].item() == pytest.approx(sum(each[:2]) / 2, rel=1e-12)
    assert output.terms["loss_unsupervised"].item() == pytest.approx(sum(each[2:]) / 3, rel=1e-12)


def test_the_monitors_equal_a_slow_count() -> None:
    random = np.random.default_rng(0)
    true = random.integers(0, 4, 50)
    labelled = random.choice(50, 12, replace=False)
    monitor = EpochMonitor(torch.from_numpy(true), torch.from_numpy(labelled), 4)
    seen = 0
    counts, right = [0] * 4, [0] * 4
    for size in (20, 7, 1):  # as when a method makes its pseudo-labels step by step, an image twice included
        indices, labels = random.integers(0, 50, size), random.integers(0, 4, size)
        accepted = random.random(size) < 0.6
        monitor.add_pseudo_labels(PseudoLabels(*map(torch.from_numpy, (indices, labels, accepted))))
        for index, label, taken in zip(indices, labels, accepted, strict=True):
            if index in labelled:
                continue
            seen += 1
            if taken:
                counts[label] += 1
                right[label] += int(true[index] == label)
    correct = sum(right)
    assert monitor.classes() == {"accepted": counts, "right": right}
    assert 0 < correct < sum(counts) < seen < 28
    expected = {f"ssl/pseudo_labels/class_{c:02d}": float(n) for c, n in enumerate(counts)}
    expected |= {f"ssl/pseudo_label_accuracy/class_{c:02d}": right[c] / n for c, n in enumerate(counts)}
    expected |= {
        "ssl/mask_rate": sum(counts) / seen,
        "ssl/pseudo_label_accuracy": correct / sum(counts),
        "ssl/pseudo_labels_largest_class": float(max(counts)),
        "ssl/pseudo_labels_smallest_class": float(min(counts)),
    }
    assert monitor.metrics() == expected


def test_a_run_s_monitors_equal_a_slow_count_over_x() -> None:
    run = make_run("pseudo_label", data=make_data(per_class=20), epochs=3, lr=0.1)
    seen = spied(run)
    for report, state in zip(run.history[1:], seen["states"], strict=True):
        pairs = list(zip(state.indices.tolist(), state.targets.tolist(), strict=True))
        correct = sum(int(run.data.labels[index] == label) for index, label in pairs)
        assert len(pairs) > 0
        assert report.metrics["ssl/mask_rate"] == len(pairs) / len(seen["pools"][0])
        assert report.metrics["ssl/pseudo_label_accuracy"] == correct / len(pairs)
        for c in range(3):
            of_class = [index for index, label in pairs if label == c]
            assert report.metrics[f"ssl/pseudo_labels/class_{c:02d}"] == len(of_class)
            assert report.classes["accepted"][c] == len(of_class)
            assert report.classes["right"][c] == sum(run.data.labels[index] == c for index in of_class)
            if not of_class:
                assert f"ssl/pseudo_label_accuracy/class_{c:02d}" not in report.metrics
    assert not any(name.startswith("ssl/") for name in run.history[0].metrics)  # the warm-up
    assert not run.history[0].classes.keys() & {"accepted", "right"}


def test_counts_of_very_many_classes_are_not_shown_one_by_one() -> None:
    for classes, shown in ((MAX_CLASSES_SHOWN, MAX_CLASSES_SHOWN), (MAX_CLASSES_SHOWN + 1, 0)):
        labels = torch.arange(classes)
        monitor = EpochMonitor(labels, torch.empty(0, dtype=torch.int64), classes)
        monitor.add_pseudo_labels(PseudoLabels(labels, labels, labels >= 0))
        metrics = monitor.metrics()
        for kind in ("pseudo_labels", "pseudo_label_accuracy"):
            assert sum(name.startswith(f"ssl/{kind}/class") for name in metrics) == shown
        assert monitor.classes() == {"accepted": [1] * classes, "right": [1] * classes}
        assert metrics["ssl/pseudo_labels_largest_class"] == 1.0


def test_terms_are_averaged_over_the_steps_that_had_them() -> None:
    monitor = EpochMonitor(torch.zeros(3, dtype=torch.int64), torch.tensor([0]), 1)
    values = [torch.tensor(v) for v in (1.0, 2.0, 6.0)]
    monitor.add(LossOutput(total=values[0], terms={"loss_supervised": values[0]}))
    monitor.add(LossOutput(total=values[1], terms={"loss_unsupervised": values[2]}))
    assert monitor.metrics() == {
        "train/loss": 1.5,
        "train/loss_supervised": 1.0,
        "train/loss_unsupervised": 6.0,
    }
