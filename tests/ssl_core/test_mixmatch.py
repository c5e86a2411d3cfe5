"""MixMatch: the Beta draws, who is mixed with whom, what is learnt from it, and which statistics move."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_core.config import from_document
from ssl_core.losses import soft_cross_entropy
from ssl_core.methods.base import Batch, Progress, Step
from ssl_core.methods.mixmatch import MixMatchConfig, beta_draws, partners
from ssl_core.networks.wide_resnet import NetworkOutput
from ssl_core.registry import get_method
from ssl_core.system.errors import ConfigError
from tests.matching import check_resumption, digits_run, leaf

METHOD = get_method("mixmatch")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("a", [0.1, 0.75, 3.0])
def test_beta_draws_have_the_moments_of_beta_and_leave_the_global_generator_alone(a: float) -> None:
    before = torch.get_rng_state()
    drawn = beta_draws((20_000,), a, seeded(0))
    assert torch.equal(before, torch.get_rng_state())
    assert drawn.dtype == torch.float64 and drawn.min() >= 0 and drawn.max() <= 1
    variance = 1 / (4 * (2 * a + 1))
    assert drawn.mean().item() == pytest.approx(0.5, abs=5 * (variance / 20_000) ** 0.5)
    assert drawn.var().item() == pytest.approx(variance, rel=0.05)
    assert torch.equal(drawn, beta_draws((20_000,), a, seeded(0)))


def test_partners_are_a_permutation_that_does_not_depend_on_the_order_of_the_rows() -> None:
    first, second = torch.rand((2, 50), generator=seeded(1))
    found = partners(first, second)
    assert sorted(found.tolist()) == list(range(50))
    order = torch.randperm(50, generator=seeded(2))
    place = order.argsort()
    assert torch.equal(partners(first[order], second[order]), place[found[order]])


def test_every_permutation_of_three_rows_is_as_likely() -> None:
    draws = torch.rand((6000, 2, 3), generator=seeded(3))
    found = [tuple(partners(one, other).tolist()) for one, other in draws]
    counts = [found.count(each) for each in sorted(set(found))]
    assert len(counts) == 6 and all(850 < count < 1150 for count in counts)


def step_of(forward: Any, weak: Tensor, weak2: Tensor, labelled: Tensor, labels: list[int]) -> Step[None]:
    batch = Batch(labelled, torch.tensor(labels), torch.arange(len(weak)), {"weak": weak, "weak2": weak2})
    progress = Progress(step=9, total_steps=10, step_in_epoch=0, epoch=1, ssl_epoch=1)
    return Step(forward, batch, None, progress, seeded(5))


def test_a_network_that_reads_off_the_labels_makes_the_soft_targets_visible() -> None:
    """Images whose pixel c is the probability of class c: mixing image and label must stay the same mixture."""
    random = torch.rand((6, 3), generator=seeded(7), dtype=torch.float64)
    unlabelled = random / random.sum(dim=1, keepdim=True)
    labels = torch.eye(3, dtype=torch.float64)[[0, 1, 2, 0]]
    passes: list[tuple[Tensor, bool]] = []

    def forward(images: Tensor, *, update_statistics: bool = True, **_: Any) -> NetworkOutput:
        passes.append((images.flatten(1), update_statistics))
        return NetworkOutput(images.flatten(1).clamp(min=1e-300).log(), torch.empty(0))

    def as_images(rows: Tensor) -> Tensor:
        return rows[:, :, None, None].clone()

    step = step_of(forward, as_images(unlabelled), as_images(unlabelled), as_images(labels), [0, 1, 2, 0])
    output = METHOD.compute_loss(MixMatchConfig(temperature=1.0), step)
    # with T = 1 the guess of an image is the image itself, so that prediction and target are equal after mixing
    assert output.terms["loss_unsupervised"].item() == pytest.approx(0, abs=1e-20)
    assert [flag for _, flag in passes] == [False, False, True, False, False]
    mixed = torch.cat([rows for rows, _ in passes[2:]])
    assert [len(rows) for rows, _ in passes[2:]] == [4, 6, 6]
    originals = torch.cat([labels, unlabelled, unlabelled])
    assert not torch.allclose(mixed, originals)
    assert not torch.allclose(mixed[4:10], mixed[10:])  # the two views of an image have draws of their own
    own = soft_cross_entropy(mixed[:4].clamp(min=1e-300).log(), mixed[:4]).mean()
    assert output.terms["loss_supervised"].item() == pytest.approx(own.item(), rel=1e-12)


def test_guesses_are_sharpened_means_without_a_gradient() -> None:
    given = [leaf([[0.0, 1.0], [2.0, 0.0]]), leaf([[1.0, 0.0], [2.0, 0.0]])]
    answers = iter([*given, *(leaf(torch.zeros(n, 2)) for n in (1, 2, 2))])

    def forward(images: Tensor, **_: Any) -> NetworkOutput:
        return NetworkOutput(next(answers), torch.empty(0))

    images = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
    output = METHOD.compute_loss(MixMatchConfig(), step_of(forward, images, images, images[:1], [0]))
    odds = torch.tensor(2.0, dtype=torch.float64).exp()
    sharp = (odds**2 / (odds**2 + 1)).item()
    assert output.terms["guess_confidence"].item() == pytest.approx((0.5 + sharp) / 2, rel=1e-12)
    output.total.backward()  # type: ignore[no-untyped-call]
    assert all(each.grad is None for each in given)


def test_with_weight_0_the_mixed_labelled_images_are_what_is_left() -> None:
    answers = [leaf([[0.3, 0.1]]), leaf([[0.5, 0.0]] * 2), leaf([[0.0, 0.5]] * 2)]
    queue = iter([*(leaf(torch.zeros(2, 2)) for _ in range(2)), *answers])

    def forward(images: Tensor, **_: Any) -> NetworkOutput:
        return NetworkOutput(next(queue), torch.empty(0))

    images = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
    output = METHOD.compute_loss(
        MixMatchConfig(lambda_u=0), step_of(forward, images, images, images[:1], [0])
    )
    assert output.total.item() == output.terms["loss_supervised"].item()
    output.total.backward()  # type: ignore[no-untyped-call]
    assert bool(answers[0].grad.any()) and not any(each.grad.any() for each in answers[1:])  # type: ignore[union-attr]


def test_fewer_unlabelled_images_than_a_batch_are_refused_in_one_message() -> None:
    with pytest.raises(
        ConfigError, match=r"batch_size = 1600: mixmatch needs .* Take a batch_size of at most \d+"
    ):
        digits_run("mixmatch", batch_size=1600)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": 0.0}, r"mixmatch\.temperature = 0.0: .*greater than 0"),
        ({"beta": 0.0}, r"mixmatch\.beta = 0.0: .*greater than 0"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_document({"method": "mixmatch", "mixmatch": values})


def test_idle_parameters() -> None:
    assert METHOD.idle(MixMatchConfig()) == {}
    assert METHOD.idle(MixMatchConfig(lambda_u=0)).keys() == {"ramp"}


def test_runs_on_digits_resume_bit_for_bit(tmp_path: Path) -> None:
    metrics = check_resumption(tmp_path, "mixmatch")[-1].metrics
    assert metrics["train/ramp"] == 1 and metrics["train/loss_unsupervised"] > 0
    assert metrics["ssl/mask_rate"] == 1
