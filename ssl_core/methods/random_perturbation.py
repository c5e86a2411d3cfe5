"""Random perturbation training: VAT without its search for a direction (Miyato et al. 2018, the baseline "RPT").

    d    ~ N(0, I), scaled to |d| = 1
    loss = mean_B CE(p(labelled), label) + alpha * mean_U KL(sg p(x) || p(x + eps * d))

The difference to VAT is what the adversarial direction gains. It is VAT with `iterations: 0`, and is computed by it.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from ssl_core.methods.base import LossOutput, Method, Panel, Scene, Step
from ssl_core.methods.vat import METHOD as VAT
from ssl_core.methods.vat import VATConfig
from ssl_core.schema import MethodConfig


class RandomPerturbationConfig(MethodConfig):
    """Parameters of random perturbation training."""

    eps: float = Field(
        10.0,
        gt=0,
        le=1e3,
        description="size of the perturbation, L2 norm in the normalised input's units (report, section 2.4, "
        "for vat, whose baseline this is)",
    )
    alpha: float = Field(
        1.0,
        ge=0,
        le=1e3,
        description="weight of the divergence beside the cross-entropy, no unit; 0: off (takerum/vat_tf: 1)",
    )


def as_vat(config: RandomPerturbationConfig) -> VATConfig:
    """The parameters of VAT that do the same; xi has no effect."""
    return VATConfig(eps=config.eps, alpha=config.alpha, iterations=0)


class RandomPerturbation(Method[RandomPerturbationConfig, None]):
    """VAT in a random direction."""

    name = "random_perturbation"
    summary = "the same prediction in random directions: the baseline of vat (Miyato et al. 2018)"
    Config = RandomPerturbationConfig
    warmup_share = VAT.warmup_share
    unlabelled_views = VAT.unlabelled_views

    def idle(self, config: RandomPerturbationConfig) -> Mapping[str, str]:
        return {"eps": "random_perturbation.alpha = 0"} if config.alpha == 0 else {}

    def compute_loss(self, config: RandomPerturbationConfig, step: Step[None]) -> LossOutput[None]:
        """VAT's loss along a random direction."""
        return VAT.compute_loss(as_vat(config), step)

    def picture(self, config: RandomPerturbationConfig, scene: Scene) -> tuple[Panel, ...]:
        """As vat's."""
        return VAT.picture(as_vat(config), scene)


METHOD = RandomPerturbation()
