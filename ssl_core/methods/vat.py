"""Virtual adversarial training (report, section 2.2; Miyato et al. 2018).

For every unlabelled image x, power iteration finds the direction in which a small step changes the prediction most. The
network is trained to predict the same before and after that step:

    d  ~ N(0, I), scaled to |d| = 1
    d <- g / |g|,  g = grad_d KL(sg p(x) || p(x + xi * d))        `iterations` times
    r  = eps * d
    LDS  = mean_U KL(sg p(x) || p(x + r))
    loss = mean_B CE(p(labelled), label) + alpha * LDS  (+ mean_U H(p(x)), if `use_entmin`)

sg: stop-gradient; r gets no gradient either. All norms are L2 over one image, in the normalised input's units.

With no iteration r has a random direction: random perturbation training, the baseline of Miyato et al. With alpha = 0
and `use_entmin` the loss is entropy minimisation alone (Grandvalet and Bengio 2005). Both are also methods of their
own: `random_perturbation` and `entropy_minimisation`.

Every pass uses its batch's own BatchNorm statistics, and only the pass over labelled images updates the running ones,
as in the authors' code (takerum/vat_tf, train_semisup.py). The power iteration, with its own p(x), runs in float32 or
better: p(x) and p(x + xi * d) differ so little that in bfloat16 g would be rounding noise.

Shapes: B labelled and U unlabelled images of a step, C classes; images, d, g and r (U, 3, H, W); logits (U, C).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from ssl_core import losses
from ssl_core.methods.base import Forward, LossOutput, Method, Panel, Scene, Step
from ssl_core.schema import MethodConfig
from ssl_core.system.lazy_torch import torch

EPS_SHARE = 0.05
"""eps as a share of a typical image's norm, where a configuration names no eps (docs/methods/vat.md)."""


class VATConfig(MethodConfig):
    """Parameters of virtual adversarial training. The report's (section 2.4) are the preset `report`."""

    xi: float = Field(
        0.1,
        ge=1e-6,
        le=1e3,
        description="step at which the power iteration takes its gradient, L2 norm in the normalised input's "
        "units (report, section 2.4: 10; Miyato et al. 2018: 1e-6, which float32 images hardly resolve)",
    )
    eps: float | None = Field(
        None,
        gt=0,
        le=1e3,
        description="size of the perturbation r, L2 norm in the normalised input's units; none: a twentieth of a "
        "typical image's norm (report, section 2.4: 10; takerum/vat_tf: 8 to 10, but of ZCA-whitened images)",
    )
    iterations: int = Field(
        1,
        ge=0,
        le=100,
        description="power iterations, each one more forward and backward pass; 0: random perturbation "
        "training (report, section 2.4: 5; Miyato et al. 2018: 1)",
    )
    alpha: float = Field(
        1.0,
        ge=0,
        le=1e3,
        description="weight of LDS, the cross-entropy having 1, no unit; 0: off (takerum/vat_tf: 1)",
    )
    use_entmin: bool = Field(
        False,
        description="add the mean entropy of the unlabelled predictions, with weight 1 (report, section 2.2; "
        "`vatent` of takerum/vat_tf); with alpha = 0: entropy minimisation alone",
    )


def eps_of(config: VATConfig, images: torch.Tensor) -> float:
    """eps as it was asked for, or `EPS_SHARE` of the norm that normalised images of this size have on average.

    A normalised image has values of mean 0 and variance 1, so its expected squared norm is the number of its values.

    Args:
        config: the parameters.
        images: (U, 3, H, W), of which the size counts.
    """
    return EPS_SHARE * math.sqrt(images[0].numel()) if config.eps is None else config.eps


def norms(d: torch.Tensor) -> torch.Tensor:
    """L2 norm of each image, (U, 3, H, W) to (U, 1, 1, 1)."""
    return d.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()


def scaled_to_one(d: torch.Tensor) -> torch.Tensor:
    """Each image divided by its L2 norm: (U, 3, H, W) to the same.

    It is divided by its largest absolute value first, because squares of tiny gradients would underflow.
    """
    d = d / d.abs().amax(dim=(1, 2, 3), keepdim=True)
    return d / norms(d)


def adversarial_direction(
    forward: Forward,
    images: torch.Tensor,
    d: torch.Tensor,
    *,
    xi: float,
    iterations: int,
    clean: torch.Tensor | None = None,
) -> torch.Tensor:
    """The direction in which each prediction changes most, by power iteration from the directions d.

    Args:
        forward: the network; its parameters' `.grad` and BatchNorm's running statistics do not change.
        images: (U, 3, H, W) in float32 or better.
        d: directions to start from, the same shape, of any length but zero.
        xi: length of the finite difference.
        iterations: their number; 0 returns d itself, scaled.
        clean: logits of the images from a pass in full precision, (U, C); None: they are computed here.

    Returns:
        (U, 3, H, W), detached, each image's L2 norm 1. An image whose gradient is zero everywhere (no change
        within xi affects its prediction) keeps its direction.
    """
    d = scaled_to_one(d.detach())
    if iterations == 0:
        return d
    if clean is None:
        with torch.no_grad():
            clean = forward(images, update_statistics=False, full_precision=True).logits
    clean = clean.detach()
    for _ in range(iterations):
        d.requires_grad_()
        perturbed = forward(images + xi * d, update_statistics=False, full_precision=True).logits
        # the sum, so that an image's gradient does not depend on the number of others
        (gradient,) = torch.autograd.grad(losses.kl_divergence(clean, perturbed).sum(), d)
        d = d.detach()
        vanished = gradient.abs().amax(dim=(1, 2, 3), keepdim=True) == 0
        d = scaled_to_one(torch.where(vanished, d, gradient))
    return d


def in_full_precision(logits: torch.Tensor) -> bool:
    """Whether an ordinary pass ran in full precision anyway.

    On a CPU every pass without bfloat16 does; a GPU may have used TF32.
    """
    return logits.device.type == "cpu" and logits.dtype in (torch.float32, torch.float64)


class VAT(Method[VATConfig, None]):
    """Virtual adversarial training, entropy minimisation and random perturbation training."""

    name = "vat"
    summary = "the same prediction in the most sensitive direction (report, section 2.2; Miyato et al. 2018)"
    Config = VATConfig
    warmup_share = 35 / 300  # report, section 2.4
    unlabelled_views = ("weak",)
    presets: ClassVar = {"report": {"xi": 10.0, "eps": 10.0, "iterations": 5}}  # section 2.4

    def idle(self, config: VATConfig) -> Mapping[str, str]:
        if config.alpha == 0:
            return dict.fromkeys(("xi", "eps", "iterations"), "vat.alpha = 0")
        return {"xi": "vat.iterations = 0"} if config.iterations == 0 else {}

    def compute_loss(self, config: VATConfig, step: Step[None]) -> LossOutput[None]:
        """Cross-entropy on labelled images, divergence along the adversarial direction, and entropy if asked for.

        Logged besides the losses: eps as a share of the images' own norm.
        """
        images = step.batch.views["weak"]
        eps = eps_of(config, images)
        total = losses.cross_entropy(step.forward(step.batch.labelled).logits, step.batch.labels).mean()
        terms = {"loss_supervised": total}
        if config.alpha == 0 and not config.use_entmin:
            return LossOutput(total=total, terms=terms)

        with torch.set_grad_enabled(config.use_entmin):  # LDS detaches it as its target
            clean = step.forward(images, update_statistics=False).logits
        if config.alpha > 0:
            noise = torch.randn(
                images.shape, generator=step.generator, dtype=images.dtype, device=images.device
            )
            d = adversarial_direction(
                step.forward,
                images,
                noise,
                xi=config.xi,
                iterations=config.iterations,
                # Where both are the same to the last bit, the power iteration uses the pass of the loss.
                clean=clean if in_full_precision(clean) else None,
            )
            perturbed = step.forward(images + eps * d, update_statistics=False).logits
            lds = losses.kl_divergence(clean.detach(), perturbed).mean()
            terms |= {"loss_unsupervised": lds, "vat_eps_share": (eps / norms(images)).mean()}
            total = total + config.alpha * lds
        if config.use_entmin:
            terms["loss_entropy"] = losses.entropy(clean).mean()
            total = total + terms["loss_entropy"]
        return LossOutput(total=total, terms=terms)

    def picture(self, config: VATConfig, scene: Scene) -> tuple[Panel, ...]:
        """Original, perturbation and perturbed images, as in the report's figure 5."""
        if config.alpha == 0:
            return ()
        x, eps = scene.images, eps_of(config, scene.images)
        noise = torch.randn(x.shape, generator=scene.generator, dtype=x.dtype, device=x.device)
        with torch.enable_grad():
            d = adversarial_direction(scene.forward, x, noise, xi=config.xi, iterations=config.iterations)
        clean, perturbed = (scene.forward(images).logits for images in (x, x + eps * d))
        before, before_right = scene.says(clean)
        after, after_right = scene.says(perturbed)
        original, moved = scene.pixels(x), scene.pixels(x + eps * d)
        shares = (eps / norms(x)).flatten().tolist()
        kl = losses.kl_divergence(clean, perturbed).tolist()
        return (
            Panel("original", "image", original.clip(0, 1), before, before_right),
            Panel(
                f"perturbation r, |r| = {eps:.3g}",
                "difference",
                moved - original,
                tuple(f"{share:.0%} of |x|, KL {each:.2g}" for share, each in zip(shares, kl, strict=True)),
            ),
            Panel("perturbed", "image", moved.clip(0, 1), after, after_right),
        )


METHOD = VAT()
