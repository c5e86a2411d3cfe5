"""Virtual adversarial training: the power iteration against exact Hessians, and the loss against slow loops."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from search_spaces import load_space
from ssl_core.config import from_document, resolve
from ssl_core.data.datasets import Dataset, describe, load_train
from ssl_core.losses import entropy, kl_divergence
from ssl_core.methods.base import Batch, LossOutput, Progress, Step
from ssl_core.methods.vat import (
    EPS_SHARE,
    VATConfig,
    adversarial_direction,
    eps_of,
    in_full_precision,
    norms,
    scaled_to_one,
)
from ssl_core.networks.base import NetworkOutput
from ssl_core.registry import get_method
from ssl_core.system.errors import ConfigError, NonFiniteError
from ssl_core.training import checkpoint
from ssl_core.training.result import split_of
from ssl_core.training.run import Run
from tests.tiny import assert_same_bits, everything, finish, make_run, same_bits, trained

METHOD = get_method("vat")
PROGRESS = Progress(step=0, total_steps=10, step_in_epoch=0, epoch=2, ssl_epoch=1)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=dtype)


def output_of(logits: Tensor) -> NetworkOutput:
    return NetworkOutput(logits, logits[:, :, None, None])


class Smooth(nn.Module):
    """Two tanh layers on small images: everywhere differentiable, and no image knows of the others."""

    def __init__(self, side: int = 3, classes: int = 4, seed: int = 0) -> None:
        super().__init__()
        n = 3 * side * side
        self.first = nn.Parameter(normal(n, 12, seed=seed) / math.sqrt(n))
        self.second = nn.Parameter(normal(12, 12, seed=seed + 1) / math.sqrt(12))
        self.last = nn.Parameter(2 * normal(12, classes, seed=seed + 2) / math.sqrt(12))

    def logits(self, images: Tensor) -> Tensor:
        hidden = torch.tanh(torch.tanh(images.flatten(1) @ self.first) @ self.second)
        return hidden @ self.last

    def forward(
        self, images: Tensor, *, update_statistics: bool = True, full_precision: bool = False
    ) -> NetworkOutput:
        return output_of(self.logits(images))


def batch_of(labelled: Tensor, unlabelled: Tensor, classes: int = 3) -> Batch:
    labels = torch.arange(len(labelled)) % classes
    return Batch(labelled, labels, torch.arange(len(unlabelled)), {"weak": unlabelled})


def loss_of(forward: Any, batch: Batch, seed: int = 0, **parameters: Any) -> LossOutput[None]:
    step = Step(forward, batch, None, PROGRESS, seeded(seed))
    return METHOD.compute_loss(VATConfig(**parameters), step)


# The two losses


def test_divergence_and_entropy_by_hand() -> None:
    p = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.75, 0.0]], dtype=torch.float64)
    q = torch.tensor([[0.25, 0.5, 0.25], [0.25, 0.75, 0.0]], dtype=torch.float64)
    each = kl_divergence(torch.log(p + 1e-300), torch.log(q + 1e-300))
    assert each.tolist() == pytest.approx([0.5 * math.log(2), 0.0], abs=1e-15)
    expected = [math.log(2), -0.25 * math.log(0.25) - 0.75 * math.log(0.75)]
    assert entropy(torch.log(p + 1e-300)).tolist() == pytest.approx(expected, rel=1e-14)
    assert entropy(torch.zeros(1, 7)).item() == pytest.approx(math.log(7), rel=1e-6)
    reverse = kl_divergence(torch.log(q[:1] + 1e-300), torch.log(p[:1] + 1e-300)).item()
    assert reverse > 100  # the order matters: q has a class that p excludes


def test_divergence_and_entropy_are_one_value_an_image_and_survive_extreme_logits() -> None:
    extreme = torch.tensor([[1e4, -1e4], [0.0, 0.0]])
    for each in (entropy(extreme), kl_divergence(extreme, extreme)):
        assert each.shape == (2,) and bool(torch.isfinite(each).all()) and each[0] == 0
    assert entropy(extreme.bfloat16()).dtype == torch.float32
    assert kl_divergence(extreme.bfloat16(), extreme.bfloat16()).dtype == torch.float32
    assert (
        entropy(torch.zeros(0, 3)).shape == kl_divergence(torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0,)
    )


# The direction


@pytest.mark.parametrize("size", [1e-42, 1e-30, 1.0, 1e30])
def test_scaling_to_one_neither_underflows_nor_overflows(size: float) -> None:
    d = normal(4, 3, 5, 5, dtype=torch.float32)
    scaled = scaled_to_one(d * size)
    torch.testing.assert_close(norms(scaled).flatten(), torch.ones(4))
    cosine = (scaled * d).sum(dim=(1, 2, 3)) / norms(d).flatten()
    assert float(cosine.min()) > 0.999


def quadratic_setting(seed: int) -> tuple[Smooth, Tensor, Tensor]:
    """A network, images, and the exact Hessian of KL(p(x) || p(x + r)) at r = 0 of each: (U, n, n)."""
    network, images = Smooth(seed=seed), normal(4, 3, 3, 3, seed=seed + 50)
    hessians = []
    for image in images:
        clean = network.logits(image[None]).detach()

        def divergence(r: Tensor, image: Tensor = image, clean: Tensor = clean) -> Tensor:
            return kl_divergence(clean, network.logits((image + r.view_as(image))[None])).sum()

        zero = torch.zeros(image.numel(), dtype=torch.float64)
        hessians.append(torch.autograd.functional.hessian(divergence, zero))
    return network, images, torch.stack(hessians)


@pytest.mark.parametrize("seed", [0, 10])
@pytest.mark.parametrize("xi", [1e-3, 1e-5])
def test_in_the_quadratic_regime_it_is_the_dominant_eigenvector_of_the_exact_hessian(
    seed: int, xi: float
) -> None:
    network, images, hessians = quadratic_setting(seed)
    values, vectors = torch.linalg.eigh(hessians)
    assert float((values[:, -2] / values[:, -1]).max()) < 0.95  # there is a dominant one
    d = adversarial_direction(network, images, normal(4, 3, 3, 3, seed=seed + 1), xi=xi, iterations=150)
    cosine = (d.flatten(1) * vectors[:, :, -1]).sum(dim=1).abs()
    assert float(cosine.min()) > 0.999, cosine
    # and the loss is the second-order one: eps^2 / 2 times the largest eigenvalue
    eps = 1e-3
    lds = kl_divergence(network.logits(images), network.logits(images + eps * d))
    torch.testing.assert_close(lds, eps**2 / 2 * values[:, -1], rtol=2e-2, atol=0)


@pytest.mark.parametrize("seed", range(5))
def test_in_the_quadratic_regime_more_iterations_never_lower_the_divergence(seed: int) -> None:
    network, images, noise = Smooth(seed=seed), normal(6, 3, 3, 3, seed=20), normal(6, 3, 3, 3, seed=seed)
    means = []
    for iterations in range(12):
        d = adversarial_direction(network, images, noise, xi=1e-4, iterations=iterations)
        means.append(kl_divergence(network.logits(images), network.logits(images + 1e-3 * d)).mean().item())
    assert all(later >= earlier * (1 - 1e-4) for earlier, later in itertools.pairwise(means)), means
    assert means[1] > 1.5 * means[0] and means[5] > means[1]


@pytest.mark.parametrize("xi", [1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0])
def test_single_precision_finds_the_direction_of_double_precision(xi: float) -> None:
    single, double = make_run("vat"), make_run("vat", precision="float64")
    images, noise = normal(8, 3, 8, 8, seed=1), normal(8, 3, 8, 8, seed=2)
    exact = adversarial_direction(double.forward, images, noise, xi=xi, iterations=1)
    found = adversarial_direction(single.forward, images.float(), noise.float(), xi=xi, iterations=1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(norms(found).flatten(), torch.ones(8))
    cosine = (found * exact).sum(dim=(1, 2, 3))
    assert float(cosine.mean()) > (0.95 if xi < 1e-3 else 0.99), cosine  # at random: 0.07


def test_no_iteration_is_the_random_direction_scaled() -> None:
    def forward(*_: Any, **__: Any) -> Any:
        raise AssertionError("there is nothing to ask the network for")

    noise = normal(5, 3, 4, 4)
    d = adversarial_direction(forward, torch.zeros_like(noise), noise, xi=1.0, iterations=0)
    expected = torch.stack(
        [image / math.sqrt(sum(v * v for v in image.flatten().tolist())) for image in noise]
    )
    torch.testing.assert_close(d, expected, rtol=1e-12, atol=0)


def test_a_tiny_gradient_does_not_underflow() -> None:
    """The second class has probability 1e-26, so the gradient's squares are below every float32."""
    weight = normal(3 * 4 * 4, dtype=torch.float32) / 7

    def forward(images: Tensor, **_: Any) -> NetworkOutput:
        rest = images.flatten(1) @ weight
        return output_of(torch.stack([torch.zeros_like(rest), rest - 60], dim=1))

    images, noise = normal(5, 3, 4, 4, dtype=torch.float32), normal(5, 3, 4, 4, seed=1, dtype=torch.float32)
    d = adversarial_direction(forward, images, noise, xi=1.0, iterations=1)
    cosine = d.flatten(1) @ weight / weight.norm()
    torch.testing.assert_close(cosine.abs(), torch.ones(5))


def test_where_nothing_changes_the_prediction_the_direction_stays_as_it_was() -> None:
    noise = normal(3, 3, 4, 4)
    depends = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)  # the second image's logits are constants

    def forward(images: Tensor, **_: Any) -> NetworkOutput:
        return output_of(images.flatten(1)[:, :3] * depends[:, None])

    d = adversarial_direction(forward, normal(3, 3, 4, 4, seed=1), noise, xi=1.0, iterations=2)
    torch.testing.assert_close(norms(d).flatten(), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(d[1], scaled_to_one(noise)[1])
    assert bool((d[[0, 2]].flatten(1)[:, 3:] == 0).all())


def test_a_gradient_that_is_not_finite_is_not_covered_up() -> None:
    images = normal(2, 3, 3, 3)
    images[1] = math.nan
    d = adversarial_direction(Smooth(), images, normal(2, 3, 3, 3), xi=1.0, iterations=1)
    assert bool(torch.isfinite(d[0]).all()) and bool(d[1].isnan().all())


def test_the_direction_goes_with_the_image_and_its_noise() -> None:
    run = make_run("vat", precision="float64")
    images, noise, order = normal(6, 3, 8, 8), normal(6, 3, 8, 8, seed=1), torch.tensor([3, 0, 5, 1, 4, 2])
    plain = adversarial_direction(run.forward, images, noise, xi=0.1, iterations=3)
    permuted = adversarial_direction(run.forward, images[order], noise[order], xi=0.1, iterations=3)
    torch.testing.assert_close(permuted, plain[order], rtol=1e-6, atol=1e-9)


# What it leaves alone


def spied(run: Run) -> tuple[Any, list[dict[str, Any]]]:
    """The run's forward, and a record of its calls: images, options, whether buffers moved, types inside."""
    calls: list[dict[str, Any]] = []
    types: set[torch.dtype] = set()
    for module in run.network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda _module, _inputs, output: types.add(output.dtype))

    def forward(images: Tensor, **options: Any) -> NetworkOutput:
        types.clear()
        before = {key: value.clone() for key, value in run.network.named_buffers()}
        output = run.forward(images, **options)
        after = dict(run.network.named_buffers())
        moved = any(not torch.equal(before[key], after[key]) for key in before)
        calls.append(
            {
                "images": images.detach(),
                "moved": moved,
                "types": set(types),
                "logits": output.logits,
                **options,
            }
        )
        return output

    return forward, calls


def tiny_batch(run: Run) -> Batch:
    return batch_of(normal(4, 3, 8, 8, dtype=run.dtype), normal(8, 3, 8, 8, seed=1, dtype=run.dtype))


@pytest.mark.parametrize("use_entmin", [False, True])
def test_only_the_labelled_pass_moves_batchnorm(use_entmin: bool) -> None:
    run, alone = make_run("vat"), make_run("vat")
    forward, calls = spied(run)
    batch = tiny_batch(run)
    loss_of(forward, batch, iterations=3, use_entmin=use_entmin).total.backward()
    assert [call["moved"] for call in calls] == [True] + [False] * (1 + 3 + 1)  # one p(x) for both uses
    assert torch.equal(calls[0]["images"], batch.labelled)
    assert all(call["update_statistics"] is False for call in calls[1:])
    alone.forward(batch.labelled)
    assert_same_bits(dict(run.network.named_buffers()), dict(alone.network.named_buffers()))
    assert all(module.training for module in run.network.modules())


def test_the_power_iteration_touches_no_parameter_gradient() -> None:
    run = make_run("vat")
    batch = tiny_batch(run)
    for parameter in run.network.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    images = batch.views["weak"]
    adversarial_direction(run.forward, images, torch.ones_like(images), xi=1.0, iterations=2)
    loss_of(run.forward, batch, iterations=2)
    assert all(p.grad is not None and bool((p.grad == 7).all()) for p in run.network.parameters())
    assert all(p.requires_grad for p in run.network.parameters())


def test_under_bfloat16_the_power_iteration_runs_in_float32() -> None:
    run = make_run("vat", precision="bfloat16")
    forward, calls = spied(run)
    output = loss_of(forward, tiny_batch(run), iterations=2, use_entmin=True)
    inside = [call for call in calls if call.get("full_precision")]
    assert len(inside) == 1 + 2  # its own p(x) and both iterations
    assert all(call["types"] == {torch.float32} and call["logits"].dtype == torch.float32 for call in inside)
    others = [call for call in calls if not call.get("full_precision")]
    assert len(others) == 3 and all(call["types"] == {torch.bfloat16} for call in others)
    assert output.total.dtype == torch.float32
    output.total.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in run.network.parameters())


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_prediction_that_is_there_already_gives_the_same_direction(precision: str) -> None:
    run = make_run("vat", precision=precision)
    images = tiny_batch(run).views["weak"]
    noise = normal(*images.shape, seed=3, dtype=run.dtype)
    clean = run.forward(images, update_statistics=False).logits
    assert in_full_precision(clean) and not in_full_precision(clean.bfloat16())
    ways = (
        adversarial_direction(run.forward, images, noise, xi=1.0, iterations=2, clean=c)
        for c in (None, clean)
    )
    assert torch.equal(*ways)


@pytest.mark.parametrize("use_entmin", [False, True])
def test_no_gradient_flows_into_the_targets(use_entmin: bool) -> None:
    """Each pass gives logits of its own that remember their gradient."""
    passes = [normal(n, 3, seed=seed).requires_grad_() for seed, n in enumerate((4, 6, 6))]
    remaining = iter(passes)
    batch = batch_of(normal(4, 3, 4, 4), normal(6, 3, 4, 4))
    output = loss_of(lambda *_, **__: output_of(next(remaining)), batch, iterations=0, use_entmin=use_entmin)
    output.total.backward()  # type: ignore[no-untyped-call]
    labelled, clean, perturbed = passes
    assert labelled.grad is not None and perturbed.grad is not None
    p, q = clean.detach().softmax(dim=1), perturbed.detach().softmax(dim=1)
    torch.testing.assert_close(perturbed.grad, (q - p) / 6)  # the gradient of KL(p || q), p held
    if use_entmin:  # the entropy's alone
        expected = -p * (p.log() + entropy(clean.detach())[:, None]) / 6
        assert clean.grad is not None
        torch.testing.assert_close(clean.grad, expected)
    else:
        assert clean.grad is None


# The loss


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("parameters", [{}, {"xi": 1e-4, "eps": 0.01}, {"iterations": 0, "eps": 30.0}])
def test_the_perturbation_of_every_image_has_length_eps(
    dtype: torch.dtype, parameters: dict[str, Any]
) -> None:
    run = make_run("vat", precision=str(dtype).removeprefix("torch."))
    forward, calls = spied(run)
    batch = tiny_batch(run)
    loss_of(forward, batch, **parameters)
    r = (calls[-1]["images"].double() - batch.views["weak"].double()).flatten(1)
    length = parameters.get("eps", EPS_SHARE * math.sqrt(3 * 8 * 8))
    expected = torch.full((8,), float(length), dtype=torch.float64)
    torch.testing.assert_close(
        r.norm(dim=1), expected, rtol=1e-4 if dtype == torch.float32 else 1e-12, atol=0
    )


@pytest.mark.parametrize("side", [8, 32])
def test_the_default_length_goes_with_the_image_s_size(side: int) -> None:
    images = normal(5, 3, side, side)
    shares = eps_of(VATConfig(), images) / norms(images)
    assert shares.flatten().tolist() == pytest.approx([EPS_SHARE] * 5, rel=0.25 if side == 8 else 0.05)
    assert eps_of(VATConfig(eps=4.0), images) == 4.0


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(v - max(values)) for v in values]
    return [power / sum(powers) for power in powers]


def slow_loss(
    weight: np.ndarray[Any, Any], batch: Batch, noise: Tensor, config: VATConfig
) -> tuple[float, float, float]:
    """Cross-entropy, LDS and entropy of logits = weight x, one image at a time and without autograd: there
    grad_d KL(p || q(x + xi d)) = xi weight^T (q - p)."""

    def predict(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.array(softmax([float(row @ x) for row in weight]))

    supervised = lds = conditional = 0.0
    for image, label in zip(batch.labelled, batch.labels.tolist(), strict=True):
        supervised -= math.log(predict(image.flatten().numpy())[label]) / len(batch.labels)
    for image, start in zip(batch.views["weak"], noise, strict=True):
        x, d = image.flatten().numpy(), start.flatten().numpy()
        d, p = d / math.sqrt(float(d @ d)), predict(x)
        for _ in range(config.iterations):
            gradient = config.xi * weight.T @ (predict(x + config.xi * d) - p)
            d = gradient / math.sqrt(float(gradient @ gradient))
        q = predict(x + (config.eps or 0.05 * math.sqrt(len(x))) * d)
        lds += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / len(noise)
        conditional -= sum(a * math.log(a) for a in p) / len(noise)
    return supervised, lds, conditional


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"xi": 0.01, "eps": 2.0, "iterations": 1, "alpha": 0.3},
        {"iterations": 0, "eps": 5.0},
        {"xi": 1.0, "eps": 3.0, "iterations": 4, "alpha": 2.0, "use_entmin": True},
        {"alpha": 0.0, "use_entmin": True},
        {"alpha": 0.0},
    ],
)
def test_the_loss_is_that_of_a_slow_loop_over_images(parameters: dict[str, Any]) -> None:
    weight = normal(3, 3 * 4 * 4, seed=5) / 7
    batch, config = batch_of(normal(4, 3, 4, 4), normal(6, 3, 4, 4, seed=1)), VATConfig(**parameters)
    output = loss_of(lambda x, **_: output_of(x.flatten(1) @ weight.T), batch, seed=9, **parameters)
    noise = normal(6, 3, 4, 4, seed=9)
    supervised, lds, conditional = slow_loss(weight.numpy(), batch, noise, config)
    expected = {"loss_supervised": supervised}
    if config.alpha > 0:
        lengths = [math.sqrt(float((image**2).sum())) for image in batch.views["weak"]]
        share = sum((config.eps or 0.05 * math.sqrt(48)) / length for length in lengths) / 6
        expected |= {"loss_unsupervised": lds, "vat_eps_share": share}  # LDS without its weight
    if config.use_entmin:
        expected |= {"loss_entropy": conditional}
    assert {name: term.item() for name, term in output.terms.items()} == pytest.approx(expected, rel=1e-6)
    total = supervised + config.alpha * lds + config.use_entmin * conditional
    assert output.total.item() == pytest.approx(total, rel=1e-6)


def test_alpha_0_with_entropy_is_entropy_minimisation_alone() -> None:
    run = make_run("vat", precision="float64")
    batch = tiny_batch(run)
    forward, calls = spied(run)
    output = loss_of(forward, batch, alpha=0.0, use_entmin=True)
    assert len(calls) == 2  # no power iteration to pay for
    found = torch.autograd.grad(output.total, list(run.network.parameters()))
    labelled, unlabelled = (run.network(images).logits for images in (batch.labelled, batch.views["weak"]))
    p = unlabelled.softmax(dim=1)
    expected = functional.cross_entropy(labelled, batch.labels) - (p * p.log()).sum(dim=1).mean()
    assert output.total.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(found, torch.autograd.grad(expected, list(run.network.parameters())))


def test_alpha_0_without_entropy_is_the_supervised_run_bit_for_bit() -> None:
    off, supervised = make_run("vat", parameters={"alpha": 0.0}), make_run("supervised")
    finish(off)
    finish(supervised)
    assert_same_bits(trained(off), trained(supervised))


@pytest.mark.parametrize(
    ("name", "parameters", "of_vat"),
    [
        ("random_perturbation", {"eps": 3.0, "alpha": 0.7}, {"iterations": 0, "eps": 3.0, "alpha": 0.7}),
        ("random_perturbation", {}, {"iterations": 0, "eps": 10.0}),
        ("entropy_minimisation", {}, {"alpha": 0.0, "use_entmin": True}),
    ],
)
def test_the_baselines_with_names_of_their_own_are_vats_bit_for_bit(
    name: str, parameters: dict[str, Any], of_vat: dict[str, Any]
) -> None:
    named, setting = make_run(name, parameters=parameters), make_run("vat", parameters=of_vat)
    finish(named)
    finish(setting)
    assert_same_bits(trained(named), trained(setting))
    assert not same_bits(trained(named), trained(make_run("supervised")))


# Configuration, search space and a run on real images


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("xi", 0.0),
        ("xi", -1.0),
        ("xi", 1e4),
        ("xi", "10"),
        ("xi", math.nan),
        ("eps", 0.0),
        ("eps", -8.0),
        ("eps", math.inf),
        ("iterations", -1),
        ("iterations", 1.5),
        ("iterations", True),
        ("iterations", 101),
        ("alpha", -0.1),
        ("alpha", None),
        ("use_entmin", 1),
        ("use_entmin", "false"),
        ("epsilon", 8.0),
    ],
)
def test_bad_parameters_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"vat.{name}") as caught:
        from_document({"method": "vat", "vat": {name: value}})
    assert repr(value) in str(caught.value) or "vat.eps" in str(caught.value)


@pytest.mark.parametrize("xi", [1e-6, 1e-4, 10, 1000])
def test_every_xi_from_the_paper_s_up_is_accepted(xi: float) -> None:
    assert from_document({"method": "vat", "vat": {"xi": xi}}).parameters.xi == xi  # type: ignore[attr-defined]


def test_every_parameter_says_its_source_and_norms_their_unit() -> None:
    for name, field in VATConfig.model_fields.items():
        text = field.description or ""
        assert "report" in text or "vat_tf" in text, name
        assert ("L2 norm in the normalised input's units" in text) == (name in ("xi", "eps"))


def test_the_search_starts_from_the_report_s_settings() -> None:
    space = load_space("vat", "wide")
    overrides = space.resolve(space.baseline, 300)
    assert overrides.pop("warmup_epochs") == 35
    assert (overrides.pop("lr"), overrides.pop("weight_decay")) == (0.03, 5e-4)
    assert overrides.pop("schedule") == "fixmatch"
    report = VATConfig(**METHOD.presets["report"])
    assert (report.xi, report.eps, report.iterations) == (10, 10, 5)  # section 2.4
    assert overrides == {f"vat.{name}": value for name, value in report.model_dump().items()}
    assert list(load_space("vat").baseline) == ["vat.xi", "vat.eps", "vat.iterations", "warmup_share"]
    xi = load_space("vat").distributions(300)["vat.xi"]
    assert (xi.low, xi.high, xi.log) == (1e-4, 10.0, True)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_train("digits")


def digits_run(data: Dataset, parameters: dict[str, Any]) -> Run:
    document = {
        "method": "vat",
        "vat": parameters,
        "labels": 20,
        "epochs": 3,
        "steps_per_epoch": 2,
        "warmup_epochs": 1,
        "batch_size": 8,
        "mu": 2,
        "precision": "float32",
        "device": "cpu",
        "threads": 1,
    }
    config = resolve(from_document(document), describe("digits"))
    return Run(config, data, split_of(config, data))


def test_a_run_on_digits_and_its_resumption(digits: Dataset, tmp_path: Path) -> None:
    parameters = {"iterations": 2, "use_entmin": True, "eps": 10.0}
    whole = digits_run(digits, parameters)
    reports = []
    for epoch in range(1, 4):
        reports += finish(whole, until=epoch)
        checkpoint.save(tmp_path, epoch, whole.state(), keep=9)
    terms = {"train/loss_unsupervised", "train/loss_entropy", "train/vat_eps_share"}
    assert not terms & reports[0].metrics.keys()  # the warm-up is blind
    for report in reports[1:]:
        assert terms <= report.metrics.keys()
        assert all(math.isfinite(value) for value in report.metrics.values())
        assert 0.2 < report.metrics["train/vat_eps_share"] < 0.5  # 16x16x3 values of unit variance: norm 28
    for stop in (1, 2):
        resumed = digits_run(digits, parameters)
        resumed.load_state(checkpoint.read(checkpoint.path_of(tmp_path, stop)))
        finish(resumed)
        assert_same_bits(everything(resumed), everything(whole))


def test_a_loss_that_is_not_finite_stops_the_run_before_the_update(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("vat", parameters={"iterations": 1})
    finish(run, until=1)
    before = copy.deepcopy(trained(run)["network"])
    normalise = run.normalise
    monkeypatch.setattr(  # unlabelled batches have 8 images
        run, "normalise", lambda images: normalise(images) * (math.nan if len(images) == 8 else 1)
    )
    with pytest.raises(NonFiniteError, match=r"loss_unsupervised.*step 3 .*vat.*xi"):
        finish(run)
    after = trained(run)["network"]
    assert all(torch.equal(before[key], after[key]) for key, _ in run.network.named_parameters())


def test_the_noise_is_the_generator_s() -> None:
    run = make_run("vat", precision="float64")
    batch = tiny_batch(run)
    losses = [loss_of(run.forward, batch, seed=seed, iterations=1).total.item() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
