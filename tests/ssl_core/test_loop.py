"""The loop: the invariants of training that no method and no watcher may break, and what it reports."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ssl_core.augment import randaugment
from ssl_core.methods.base import Batch, LossOutput, Step
from ssl_core.methods.supervised import Supervised
from ssl_core.schema import MethodConfig
from ssl_core.system.errors import NonFiniteError
from ssl_core.training import step
from ssl_core.training.finite import FiniteGuard
from ssl_core.training.loop import run_epochs
from ssl_core.training.run import Run
from tests.tiny import (
    METHODS,
    assert_same_bits,
    everything,
    finish,
    make_data,
    make_run,
    method_named,
    same_bits,
    trained,
)

# Invariant 5: the warm-up is blind.


def states_of(run: Run, epochs: int) -> list[dict[str, Any]]:
    """What training has made after each of the first epochs."""
    states = []
    for epoch in range(1, epochs + 1):
        finish(run, until=epoch)
        states.append(trained(run))
    return states


def test_a_warm_up_passes_through_the_states_of_every_shorter_and_longer_one() -> None:
    longest = states_of(make_run("pseudo_label", epochs=5, warmup_epochs=4), 4)
    for warmup in (1, 2, 3):
        shorter = states_of(make_run("pseudo_label", epochs=5, warmup_epochs=warmup), warmup + 1)
        assert_same_bits(shorter[:warmup], longest[:warmup])
        assert not same_bits(shorter[warmup], longest[warmup])  # there the method has begun


@pytest.mark.parametrize("parameters", [{"threshold": 0.9}, {"threshold": 0.4, "accumulate": True}])
def test_a_warm_up_does_not_depend_on_the_method_s_parameters(parameters: dict[str, Any]) -> None:
    one = make_run("pseudo_label", warmup_epochs=2)
    other = make_run("pseudo_label", warmup_epochs=2, parameters=parameters)
    assert_same_bits(states_of(one, 2), states_of(other, 2))


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"attention_fixmatch"}))
def test_every_method_s_warm_up_is_the_supervised_run(name: str) -> None:
    # A method may clip gradients where nobody says so, and then does in its warm-up.
    supervised = states_of(make_run("supervised", clip_norm=method_named(name).default_clip_norm), 2)
    assert_same_bits(states_of(make_run(name, warmup_epochs=2), 2), supervised)


def test_with_a_head_the_warm_up_is_blind_to_the_method_but_not_the_supervised_run() -> None:
    head = states_of(make_run("attention_fixmatch", warmup_epochs=2), 2)
    other = {"threshold": 0.7, "lambda_att": 3.0, "lambda_u": 0.5, "align": "none", "diversity_weight": 0.0}
    assert_same_bits(states_of(make_run("attention_fixmatch", warmup_epochs=2, parameters=other), 2), head)
    supervised = states_of(make_run("supervised"), 2)[-1]["network"]
    assert not torch.equal(head[-1]["network"]["stem.weight"], supervised["stem.weight"])
    plain = {"maps": 0, "lambda_att": 0.0, "diversity_weight": 0.0}
    without = states_of(make_run("attention_fixmatch", warmup_epochs=2, parameters=plain), 2)
    assert_same_bits(without[-1]["network"], supervised)


@pytest.mark.parametrize("field", ["lr", "weight_decay", "momentum", "ema_decay", "bn_momentum", "seed"])
def test_what_a_warm_up_does_depend_on_changes_it(field: str) -> None:
    value = 4 if field == "seed" else 0.07
    one = states_of(make_run("pseudo_label"), 1)
    assert not same_bits(one, states_of(make_run("pseudo_label", **{field: value}), 1))


# Invariant 4: random streams are separate.


def labelled_batches(run: Run) -> list[Tensor]:
    """The labelled images of every step, as the network sees them."""
    seen: list[Tensor] = []
    forward, size = run.forward, run.setup.batch_size

    def keeping(images: Tensor, **options: Any) -> Any:
        seen.append(images[:size].clone())
        return forward(images, **options)

    run.forward = keeping  # type: ignore[method-assign]
    finish(run)
    return seen


def test_drawing_unlabelled_images_leaves_the_labelled_ones_as_they_are() -> None:
    supervised = labelled_batches(make_run("supervised"))
    pseudo = labelled_batches(make_run("pseudo_label"))
    assert len(supervised) == len(pseudo) == 12
    assert all(torch.equal(a, b) for a, b in zip(supervised, pseudo, strict=True))
    assert not torch.equal(supervised[0], supervised[1])


class Viewing(Supervised):
    """Supervised training that looks at unlabelled views, and keeps every batch."""

    def __init__(self, views: tuple[str, ...], shares: bool = False) -> None:
        self.unlabelled_views, self.shares, self.batches = views, shares, []  # type: ignore[misc]

    def shares_crop(self, config: Any) -> bool:
        return self.shares

    def compute_loss(self, config: MethodConfig, step: Step[None]) -> LossOutput[None]:
        self.batches.append(step.batch)
        return super().compute_loss(config, step)


def batches_of(*args: Any) -> list[Batch]:
    run = make_run(epochs=2)
    run.method = Viewing(*args)
    finish(run)
    return run.method.batches


def test_views_of_unlabelled_images_do_not_disturb_each_other_or_the_labelled_one() -> None:
    none, weak = batches_of(()), batches_of(("weak",))
    both, shared = batches_of(("weak", "strong")), batches_of(("weak", "strong"), True)
    assert len(none) == 6
    for n, w, b, s in zip(none, weak, both, shared, strict=True):
        assert all(torch.equal(n.labelled, other.labelled) for other in (w, b, s))
        assert all(torch.equal(w.indices, other.indices) for other in (b, s))
        assert all(torch.equal(w.views["weak"], other.views["weak"]) for other in (b, s))
        assert not torch.equal(b.views["strong"], s.views["strong"])  # another crop
        assert b.geometry is not None and s.geometry is not None and w.geometry is None
        assert torch.equal(b.geometry.affine, s.geometry.affine)  # the same operations
        assert w.views.keys() == {"weak"} and b.views.keys() == {"weak", "strong"} and n.views == {}


def test_a_step_takes_mu_times_b_unlabelled_images_in_passes_over_u() -> None:
    batches = batches_of(("weak",))
    assert [len(batch.indices) for batch in batches] == [8] * 6
    run = make_run()
    drawn = torch.cat([batch.indices for batch in batches])
    assert sorted(drawn[:36].tolist()) == run.split.unlabelled.tolist()  # labelled ones included
    assert set(run.split.labelled.tolist()) <= set(drawn.tolist())


def test_no_unlabelled_image_is_fetched_during_the_warm_up() -> None:
    run = make_run(epochs=2, warmup_epochs=1)
    run.method = Viewing(("weak",))
    run.method.has_warmup = True  # type: ignore[misc]
    finish(run)
    metrics = [report.metrics for report in run.history]
    images = [m["images_per_second"] * m["time/epoch_seconds"] for m in metrics]
    assert images == pytest.approx([3 * 4, 3 * (4 + 8)])
    assert len(run.method.batches) == 3  # the warm-up's step is the supervised one


@pytest.mark.parametrize("shares", [False, True])
def test_the_strong_view_starts_from_the_weak_one_only_where_the_method_asks(
    shares: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = randaugment.apply
    monkeypatch.setattr(randaugment, "apply", lambda images, draws: (images, apply(images, draws)[1]))
    for batch in batches_of(("weak", "strong"), shares):
        assert torch.equal(batch.views["weak"], batch.views["strong"]) == shares


def test_the_training_seed_moves_neither_split_nor_labels_and_the_split_s_seeds_not_the_weights() -> None:
    one, other = make_run(seed=1), make_run(seed=2)
    assert one.split.hash == other.split.hash
    moved = make_run(seed=1, split_of={"split_seed": 5})
    assert moved.split.hash != one.split.hash
    assert_same_bits(trained(one), trained(moved))


# Invariant 3: the same bits.


@pytest.mark.parametrize("method", ["supervised", "pseudo_label"])
@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16"])
def test_two_runs_have_the_same_bits(method: str, precision: str) -> None:
    one = make_run(method, precision=precision, epochs=2, steps_per_epoch=2)
    other = make_run(method, precision=precision, epochs=2, steps_per_epoch=2)
    finish(one)
    finish(other)
    assert_same_bits(everything(one), everything(other))
    dtype = torch.float64 if precision == "float64" else torch.float32
    assert {p.dtype for p in one.network.parameters()} == {dtype}


def test_another_seed_gives_other_bits() -> None:
    one, other = make_run(seed=1, epochs=1), make_run(seed=2, epochs=1)
    assert not same_bits(trained(one), trained(other))


def test_stopping_early_follows_the_schedule_of_the_whole_run() -> None:
    whole, stopped = make_run("pseudo_label"), make_run("pseudo_label", stop_after_epoch=2)
    finish(whole, until=2)
    assert [r.epoch for r in finish(stopped)] == [1, 2]
    assert_same_bits(trained(whole), trained(stopped))


def test_a_run_that_was_stopped_early_can_be_carried_further() -> None:
    stopped, whole = make_run("pseudo_label", stop_after_epoch=2), make_run("pseudo_label")
    finish(stopped)
    finish(whole)
    carried = make_run("pseudo_label")
    carried.load_state(stopped.state())
    assert [r.epoch for r in finish(carried)] == [3, 4]
    assert_same_bits(trained(carried), trained(whole))


def test_a_finished_run_has_nothing_left_to_do() -> None:
    run = make_run()
    finish(run)
    before = everything(run)
    assert finish(run) == []
    assert_same_bits(everything(run), before)


def test_a_state_goes_on_where_the_images_have_moved() -> None:
    run = make_run("pseudo_label")
    state = run.state()
    state["config"] = state["config"] | {"dataset": "folder:/elsewhere/images"}
    run.load_state(state)
    assert [r.epoch for r in run.history] == [r["epoch"] for r in state["history"]]
    state["split_hash"] = "of other images"
    with pytest.raises(ValueError, match="checkpoint of split of other images"):
        run.load_state(state)


def test_a_state_of_another_configuration_is_refused_naming_what_differs() -> None:
    state = make_run("pseudo_label").state()
    with pytest.raises(ValueError, match=r"another configuration: lr, pseudo_label differ"):
        make_run("pseudo_label", lr=0.1, parameters={"threshold": 0.5}).load_state(state)


def test_a_state_of_another_split_is_refused() -> None:
    state = make_run().state()
    with pytest.raises(ValueError, match="checkpoint of split"):
        make_run(split_of={"label_seed": 1}).load_state(state)


# Invariant 2: validation images are never trained on.


@pytest.mark.parametrize("method", ["supervised", "pseudo_label"])
def test_no_validation_image_is_in_any_batch(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    weak_pixels = step._weak_pixels

    def noted(run: Run, fetched: tuple[Tensor, Tensor], *rest: Any) -> tuple[Tensor, ...]:
        images, chosen = fetched
        assert images is run.images
        taken.extend(chosen.flatten().tolist())
        return weak_pixels(run, fetched, *rest)

    monkeypatch.setattr(step, "_weak_pixels", noted)
    run = make_run(method, epochs=6, parameters={"threshold": 0.34} if method == "pseudo_label" else {})
    finish(run)
    assert len(taken) >= 6 * 3 * 4
    assert not set(taken) & set(run.split.valid.tolist())
    if method == "supervised":
        assert set(taken) == set(run.split.labelled.tolist())
    else:
        assert set(taken) > set(run.split.labelled.tolist())


def with_images(run: Run, indices: np.ndarray) -> Any:
    """The run's data with other pixels in some images."""
    images = run.data.images.copy()
    images[indices] = 255 - images[indices]
    return dataclasses.replace(run.data, images=images)


def test_other_validation_images_change_no_bit_of_training() -> None:
    run = make_run("pseudo_label")
    valid = make_run("pseudo_label", data=with_images(run, run.split.valid))
    unlabelled = make_run(
        "pseudo_label", data=with_images(run, np.setdiff1d(run.split.unlabelled, run.split.labelled))
    )
    for each in (run, valid, unlabelled):
        finish(each)
    assert_same_bits(trained(valid), trained(run))
    assert valid.history[-1].metrics["val/loss"] != run.history[-1].metrics["val/loss"]
    assert not same_bits(trained(unlabelled), trained(run))  # so the comparison can fail


def test_the_true_labels_of_unlabelled_images_change_no_bit_of_training() -> None:
    run = make_run("pseudo_label")
    hidden = np.setdiff1d(run.split.unlabelled, run.split.labelled)
    labels = run.data.labels.copy()
    labels[hidden] = (labels[hidden] + 1) % 3
    other = Run(run.config, dataclasses.replace(run.data, labels=labels), run.split)
    finish(run)
    finish(other)
    assert_same_bits(trained(other), trained(run))
    accuracy = "ssl/pseudo_label_accuracy"
    assert (
        other.history[-1].metrics[accuracy] != run.history[-1].metrics[accuracy]
    )  # a monitor, and only that


# Invariant 6: epochs are comparable.


def test_epochs_count_from_one_and_the_method_s_from_the_end_of_the_warm_up() -> None:
    reports = finish(make_run("pseudo_label", epochs=5, warmup_epochs=2))
    assert [r.epoch for r in reports] == [1, 2, 3, 4, 5]
    assert [r.ssl_epoch for r in reports] == [None, None, 1, 2, 3]


def test_without_a_warm_up_the_method_starts_at_once() -> None:
    reports = finish(make_run("pseudo_label", epochs=2, warmup_epochs=0))
    assert [r.ssl_epoch for r in reports] == [1, 2]
    assert "ssl/mask_rate" in reports[0].metrics


@pytest.mark.parametrize("warmup", [0, 3])
def test_supervised_has_no_warm_up_whatever_it_is_told(warmup: int) -> None:
    reports = finish(make_run("supervised", warmup_epochs=warmup))
    assert [r.ssl_epoch for r in reports] == [r.epoch for r in reports] == [1, 2, 3, 4]


def test_an_epoch_is_the_same_number_of_steps_for_every_method() -> None:
    assert len(labelled_batches(make_run("supervised", epochs=2, steps_per_epoch=5))) == 10
    assert len(labelled_batches(make_run("pseudo_label", epochs=2, steps_per_epoch=5))) == 10


def test_the_reported_learning_rate_is_that_of_the_epoch_s_last_step() -> None:
    reports = finish(make_run(lr=0.02))  # 4 epochs of 3 steps
    expected = [0.02 * np.cos(7 * np.pi * step / (16 * 12)) for step in (2, 5, 8, 11)]
    assert [r.metrics["lr"] for r in reports] == pytest.approx(expected, rel=1e-12)


def test_the_optimiser_steps_with_the_scheduled_learning_rate() -> None:
    run, used = make_run(lr=0.02), []
    step = run.optimizer.step

    def noted(*args: Any, **options: Any) -> Any:
        used.append([group["lr"] for group in run.optimizer.param_groups])
        return step(*args, **options)

    run.optimizer.step = noted  # type: ignore[method-assign]
    finish(run)
    expected = [0.02 * np.cos(7 * np.pi * k / (16 * 12)) for k in range(12)]
    assert [rates[0] for rates in used] == pytest.approx(expected, rel=1e-12)
    assert all(len(set(rates)) == 1 for rates in used)


# Reports.


@pytest.fixture(scope="module")
def watched() -> tuple[Run, list[Any]]:
    run = make_run("pseudo_label", lr=0.1, precision="float64", eval_batch_size=4)
    return run, finish(run)


def test_validation_is_that_of_the_average_computed_independently(watched: tuple[Run, list[Any]]) -> None:
    run, reports = watched
    pixels = run.data.images[run.split.valid] / 255
    images = torch.tensor(((pixels - run.data.mean) / run.data.std).transpose(0, 3, 1, 2))
    labels = torch.tensor(run.data.labels[run.split.valid])
    with torch.no_grad():
        logits = run.ema.network(images).logits
        training = run.network.eval()(images).logits
    run.network.train()
    wrong = sum(int(row.argmax() != label) for row, label in zip(logits, labels, strict=True))
    assert reports[-1].metrics["val/error"] == 100 * wrong / 6
    assert reports[-1].metrics["val/loss"] == pytest.approx(
        functional.cross_entropy(logits, labels).item(), rel=1e-9
    )
    assert reports[-1].metrics["val/loss"] != pytest.approx(functional.cross_entropy(training, labels).item())


def test_the_evaluated_model_has_the_batchnorm_statistics_of_the_network_under_training() -> None:
    run = make_run()
    for epoch in (1, 2):
        finish(run, until=epoch)
        one, other = dict(run.network.named_buffers()), dict(run.ema.network.named_buffers())
        assert_same_bits(one, other)
        assert int(one["bn.num_batches_tracked"]) == 3 * epoch


def test_every_metric_is_a_plain_finite_number(watched: tuple[Run, list[Any]]) -> None:
    run, reports = watched
    for report in reports:
        assert all(type(value) is float and np.isfinite(value) for value in report.metrics.values())
        assert {"val/error", "val/loss", "train/loss", "train/loss_supervised", "lr"} <= report.metrics.keys()
    assert "train/loss_unsupervised" not in reports[0].metrics
    assert {"train/loss_unsupervised", "ssl/mask_rate", "ssl/pseudo_label_accuracy"} <= reports[
        -1
    ].metrics.keys()
    assert run.history == reports


def test_images_per_second_counts_labelled_and_unlabelled_images(watched: tuple[Run, list[Any]]) -> None:
    _, reports = watched
    for report in reports:
        m = report.metrics
        images = m["images_per_second"] * m["time/epoch_seconds"]
        if report.ssl_epoch is None:
            assert images == pytest.approx(3 * 4)
        else:
            accepted = round(m["ssl/mask_rate"] * 30)
            assert images == pytest.approx(3 * (4 + min(8, round(4 * accepted / 6))))


def test_train_yields_as_it_goes() -> None:
    run = make_run()
    reports: Iterator[Any] = run_epochs(run)
    assert run.epoch == 0
    assert next(reports).epoch == run.epoch == 1
    assert next(reports).epoch == run.epoch == 2


# Invariant 8: a fault is never silent.


class Breaks(Supervised):
    """Supervised training that goes wrong at step 4."""

    kind: ClassVar[str]

    def compute_loss(self, config: MethodConfig, step: Step[None]) -> LossOutput[None]:
        output = super().compute_loss(config, step)
        loss, terms = output.total, dict(output.terms)
        if step.progress.step == 4:
            if self.kind == "term":
                terms["loss_unsupervised"] = loss * torch.nan
                loss = loss + terms["loss_unsupervised"]
            elif self.kind == "total":
                loss = loss * torch.inf
            else:  # a finite loss, and an infinite derivative: that of sqrt at 0
                loss = loss + torch.sqrt(loss - loss.detach())
        return LossOutput(total=loss, terms=terms)


@pytest.fixture(params=["read at once", "read at the epoch's end"])
def last_step(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Both ways of watching for what is not finite, that of GPUs tried on a CPU; the last step that is made
    where step 4 is a bad one, in epochs of three."""
    if request.param == "read at once":
        return 3
    monkeypatch.setattr(step, "FiniteGuard", deferred)
    return 5


def deferred(parameters: list[Any], *, at_once: bool, where: str) -> FiniteGuard:
    return FiniteGuard(parameters, at_once=False, where=where)


@pytest.mark.parametrize(
    ("kind", "named"),
    [("term", "the term loss_unsupervised"), ("total", "the loss"), ("gradient", "the gradient")],
)
def test_what_is_not_finite_stops_the_run_before_the_update(kind: str, named: str, last_step: int) -> None:
    run = make_run(lr=0.05)
    run.method = type("Broken", (Breaks,), {"kind": kind})()
    after: dict[int, Any] = {}
    update = run.ema.update

    def noted(step: int, *rest: Any) -> None:
        update(step, *rest)
        after[step] = parameters_of(run)

    run.ema.update = noted  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError, match=rf"{named} is not finite at step 4 \(epoch 2\)") as caught:
        finish(run)
    assert "lr=0.05" in str(caught.value) and "supervised" in str(caught.value)
    assert list(after) == list(range(last_step + 1))
    assert_same_bits(after[last_step], after[3])
    assert_same_bits(parameters_of(run), after[3])
    assert not same_bits(after[2], after[3])
    assert run.epoch == 1  # the epoch under way is not in the history


def test_both_ways_of_watching_train_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, at_the_end = make_run("fixmatch"), make_run("fixmatch")
    finish(at_once)
    monkeypatch.setattr(step, "FiniteGuard", deferred)
    finish(at_the_end)
    for part in ("network", "optimizer"):
        assert_same_bits(trained(at_the_end)[part], trained(at_once)[part])
    for one, other in zip(at_the_end.ema.network.parameters(), at_once.ema.network.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def parameters_of(run: Run) -> list[Tensor]:
    """Weights, their average and their momentum, as they are now."""
    weights = [*run.network.parameters(), *run.ema.network.parameters()]
    momentum = [state["momentum_buffer"] for state in run.optimizer.state.values()]
    return [tensor.detach().clone() for tensor in [*weights, *momentum]]


def test_a_weight_that_is_not_finite_is_noticed_and_named() -> None:
    run = make_run("pseudo_label")
    finish(run, until=1)
    with torch.no_grad():
        run.network.classifier.weight[0, 0] = torch.nan
    with pytest.raises(
        NonFiniteError, match=r"loss_supervised is not finite at step 3 .* pseudo_label .*threshold"
    ):
        finish(run)


def test_an_average_that_is_not_finite_after_an_epoch_is_noticed() -> None:
    run = make_run()
    finish(run, until=1)
    with torch.no_grad():
        run.ema.network.classifier.bias.fill_(torch.inf)
    with pytest.raises(NonFiniteError, match="val/loss is not finite after epoch 2"):
        finish(run)
    assert run.epoch == 1


# BatchNorm in passes whose statistics must not count.


def test_a_pass_without_statistics_leaves_buffers_alone_and_gives_the_same_output() -> None:
    run = make_run()
    run.network.train()
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    buffers = {name: b.clone() for name, b in run.network.named_buffers()}
    frozen = run.forward(images, update_statistics=False)
    assert all(torch.equal(b, buffers[name]) for name, b in run.network.named_buffers())
    usual = run.forward(images)
    assert torch.equal(frozen.logits, usual.logits)  # batch statistics in both
    assert not any(torch.equal(b, buffers[name]) for name, b in run.network.named_buffers())


def test_full_precision_is_float32_where_the_run_is_bfloat16() -> None:
    run = make_run(precision="bfloat16")
    run.network.train()
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert run.forward(images).logits.dtype == torch.bfloat16
    full = run.forward(images, full_precision=True)
    assert full.logits.dtype == torch.float32
    assert torch.equal(full.logits, make_run(precision="float32").forward(images).logits)


def test_evaluating_in_batches_of_any_size_gives_the_same_predictions() -> None:
    data = make_data()
    runs = [make_run(data=data, eval_batch_size=size, precision="float64") for size in (1, 5, 500)]
    indices = torch.tensor([7, 3, 3, 40, 0, 12, 9])
    logits = [run.evaluated_in_batches(run.images, indices) for run in runs]
    torch.testing.assert_close(logits[0], logits[2], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(logits[1], logits[2], rtol=1e-10, atol=1e-10)
    assert runs[0].evaluated_in_batches(runs[0].images, indices[:0]).shape == (0, 3)
