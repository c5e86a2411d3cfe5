"""Several views of a kind, the averaged network inside a step, weighed pseudo-labels, and a method's own mu."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_core.augment import randaugment
from ssl_core.config import resolve
from ssl_core.methods.base import Batch, LossOutput, PseudoLabels, Step, counted_views
from ssl_core.methods.supervised import Supervised
from ssl_core.methods.views import view_names
from ssl_core.schema import MethodConfig, RunConfig
from ssl_core.system.errors import ConfigError
from ssl_core.training.loop import run_epochs
from ssl_core.training.monitors import EpochMonitor
from ssl_core.training.run import Run
from tests.tiny import assert_same_bits, finish, info_of, make_config, make_data, make_run, same_bits, trained


class Looking(Supervised):
    """Supervised training that looks at views, and keeps every batch."""

    def __init__(self, counts: Any, shares: bool = False, reads: str = "") -> None:
        self.counts, self.shares, self.reads = counts, shares, reads
        self.batches: list[Batch] = []

    def views(self, config: MethodConfig) -> Mapping[str, int]:
        return self.counts  # type: ignore[no-any-return]

    def shares_crop(self, config: MethodConfig) -> bool:
        return self.shares

    def compute_loss(self, config: MethodConfig, step: Step[None]) -> LossOutput[None]:
        self.batches.append(step.batch)
        if self.reads:
            step.batch.views[self.reads].sum()
        return super().compute_loss(config, step)


def run_of(method: Looking) -> Run:
    run = make_run(epochs=1)
    run.method = method
    return run


def batches_of(counts: Mapping[str, int], **options: Any) -> list[Batch]:
    method = Looking(counts, **options)
    finish(run_of(method))
    return method.batches


def test_names_of_views() -> None:
    assert view_names("weak", 0) == ()
    assert view_names("weak", 1) == ("weak",)
    assert view_names("strong", 3) == ("strong", "strong2", "strong3")


def test_further_views_change_no_other_view() -> None:
    one, several = batches_of({"weak": 1, "strong": 1}), batches_of({"weak": 3, "strong": 2})
    assert len(one) == len(several) == 3
    for a, b in zip(one, several, strict=True):
        assert list(b.views) == ["weak", "weak2", "weak3", "strong", "strong2"]
        for name in ("weak", "strong"):
            assert torch.equal(a.views[name], b.views[name]), name
        assert torch.equal(a.labelled, b.labelled) and torch.equal(a.indices, b.indices)
        assert a.geometry is not None and b.geometry is not None
        assert torch.equal(a.geometry.affine, b.geometry.affine)  # of the first strong view
        views = list(b.views.values())
        assert all(not torch.equal(x, y) for n, x in enumerate(views) for y in views[:n])
        assert [len(b.views_of(kind)) for kind in ("weak", "strong")] == [3, 2]
        assert torch.equal(b.views_of("strong")[1], b.views["strong2"])


def test_strong_views_that_share_the_crop_share_that_of_the_first_weak_view(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    apply = randaugment.apply
    monkeypatch.setattr(randaugment, "apply", lambda base, draws: (base, apply(base, draws)[1]))
    for batch in batches_of({"weak": 2, "strong": 2}, shares=True):
        assert torch.equal(batch.views["strong2"], batch.views["weak"])
    for batch in batches_of({"weak": 1, "strong": 2}):
        assert not torch.equal(batch.views["strong2"], batch.views["strong"])


@pytest.mark.parametrize("counts", [{"weaker": 1}, {"weak": 0}, {"weak": 1.5}, ("weak",), None])
def test_views_that_there_are_not_are_refused_by_name(counts: Any) -> None:
    with pytest.raises(ConfigError, match=r"method 'supervised': views\(\) returned .*a count from 1"):
        counted_views(Looking(counts), MethodConfig())


def test_a_view_that_was_not_asked_for_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="reads the view 'strong', but the step has 'weak'"):
        finish(run_of(Looking({"weak": 1}, reads="strong")))


def test_memory_advice_and_images_a_second_count_the_views_that_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ssl_core.system import memory

    asked: list[int] = []
    in_step = memory.in_step

    def noted(config: RunConfig, views: int) -> tuple[str, str]:
        asked.append(views)
        return in_step(config, views)

    monkeypatch.setattr(memory, "in_step", noted)
    run = run_of(Looking({"weak": 2, "strong": 4}))
    (report,) = run_epochs(run)
    assert asked == [6]
    images = report.metrics["images_per_second"] * report.metrics["time/epoch_seconds"]
    assert images == pytest.approx(3 * (4 + 6 * 8))


def images_of(run: Run, count: int = 5) -> Tensor:
    return run.normalise(run.images[:count])


def test_the_averaged_network_changes_nothing_and_gives_no_gradient() -> None:
    run = make_run("supervised", precision="float64")
    finish(run, until=2)
    before = trained(run)
    images = images_of(run)
    outputs = [run.averaged(images, batch_statistics=each).logits for each in (False, True)]
    assert_same_bits(trained(run), before)
    assert not run.ema.network.training
    assert not any(m.training for m in run.ema.network.modules())
    assert not any(output.requires_grad for output in outputs)
    assert torch.equal(outputs[0], run.evaluated(run.images[:5]))
    assert not same_bits(outputs[0], outputs[1])


def test_the_averaged_network_with_batch_statistics_is_the_network_with_averaged_weights() -> None:
    run, other = make_run(precision="float64"), make_run(precision="float64")
    finish(run, until=2)
    averaged = run.ema.network.state_dict()
    other.network.load_state_dict(averaged)
    other.network.train()
    images = images_of(run)
    expected = other.forward(images, update_statistics=False).logits
    torch.testing.assert_close(run.averaged(images, batch_statistics=True).logits, expected)


def test_the_averaged_network_has_the_running_statistics_of_now() -> None:
    run = make_run(precision="float64")
    images = images_of(run)
    before = run.averaged(images).logits
    run.network.train()
    run.forward(images)  # moves them
    after = run.averaged(images).logits
    assert not torch.equal(before, after)
    assert torch.equal(run.ema.network.bn.running_mean, run.network.bn.running_mean)  # type: ignore[arg-type]


def test_weighed_pseudo_labels() -> None:
    """Images 1 to 4 have no label; of their weights 1, 0.5, 0.25 and 0 those of the first and third are right."""
    monitor = EpochMonitor(torch.tensor([0, 1, 2, 0, 1]), torch.tensor([0]), 3)
    pseudo = PseudoLabels(
        indices=torch.arange(5),
        labels=torch.tensor([0, 1, 1, 0, 2]),
        accepted=torch.tensor([True, True, True, False, False]),
        weights=torch.tensor([1.0, 1.0, 0.5, 0.25, 0.0]),
    )
    monitor.add_pseudo_labels(pseudo)
    metrics = monitor.metrics()
    assert metrics["ssl/mask_rate"] == pytest.approx(1.75 / 4)
    assert metrics["ssl/pseudo_label_accuracy"] == pytest.approx(1.25 / 1.75)
    assert monitor.classes() == {"accepted": [0, 2, 0], "right": [0, 1, 0]}


def test_a_method_s_own_limit_of_the_gradient_gives_way_to_a_stated_one() -> None:
    data = make_data()
    assert make_config("simple", data).clip_norm == 5
    assert make_config("simple", data, clip_norm=0.5).clip_norm == 0.5
    assert make_config("mixmatch", data).clip_norm is None


def test_a_method_s_own_mu_leaves_the_number_of_steps_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    info = dataclasses.replace(info_of(make_data()), train_per_class=(20_002,) * 3)

    def resolved(**fields: Any) -> RunConfig:
        config = RunConfig(method="supervised", parameters=MethodConfig(), dataset="tiny", labels=6, **fields)
        return resolve(config, info)

    common = resolved()
    monkeypatch.setattr(Supervised, "default_mu", 1)
    own = resolved()
    assert (common.mu, own.mu) == (7, 1)
    assert own.steps_per_epoch == common.steps_per_epoch == 134  # 60 000 images in steps of 448
    given = resolved(mu=3)
    assert (given.mu, given.steps_per_epoch) == (3, 313)
