"""MixMatch (Berthelot et al. 2019, arXiv:1905.02249): guessed labels, and all images mixed with each other.

    q_i  = sharpen((p(y | weak_1(u_i)) + p(y | weak_2(u_i))) / 2, T), no gradient     sharpen: p^(1/T), normalised
    rows = labelled images with their labels (one-hot), weak_1(u_i) with q_i, weak_2(u_i) with q_i
    lam  ~ Beta(a, a) for each row, then max(lam, 1 - lam)
    row' = lam * row + (1 - lam) * row of a random permutation of all rows            both image and label
    loss = mean_B CE(p(labelled'), label') + w(t) * mean_2U 1/C sum_c (p(unlabelled')_c - q'_c)^2

w(t) is a linear ramp from 0 to `lambda_u` over a share of the run. The guesses use the network as it is, with batch
statistics. Labelled rows, first and second views have a pass each; only that over the labelled rows updates BatchNorm's
running statistics. The mixing is for each image, as in google-research/mixmatch; USB draws one lam for a batch.

There is no mask: every image counts from the start, by its guessed label. With weight 0 the labelled images are still
mixed with others.

Shapes: B labelled images of a step, U = mu * B unlabelled images of a step, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from ssl_core import losses
from ssl_core.methods.base import LossOutput, Method, PseudoLabels, Setup, Step
from ssl_core.methods.running import linear_ramp
from ssl_core.schema import MethodConfig
from ssl_core.system.errors import ConfigError
from ssl_core.system.lazy_torch import torch


class MixMatchConfig(MethodConfig):
    """Parameters of MixMatch."""

    lambda_u: float = Field(
        75.0,
        ge=0,
        le=1e5,
        description="weight of the unlabelled loss at the end of the ramp, of a squared error that is a mean over "
        "classes, too (Berthelot et al. 2019 on CIFAR-10: 75; on CIFAR-100: 150)",
    )
    beta: float = Field(
        0.75,
        gt=0,
        le=100,
        description="a of Beta(a, a), how much is mixed (Berthelot et al. 2019: 0.75; USB: 0.5)",
    )
    temperature: float = Field(
        0.5, gt=0, le=1, description="T, sharpens the guessed label; 1: as it is (Berthelot et al. 2019: 0.5)"
    )
    ramp: float = Field(
        0.4, ge=0, le=1, description="share of the run's steps over which the weight grows from 0 (USB: 0.4)"
    )


def beta_draws(shape: tuple[int, ...], a: float, generator: torch.Generator) -> torch.Tensor:
    """Beta(a, a) from a generator, float64 on its device: g1 / (g1 + g2) of two gamma draws.

    torch.distributions draws from the global generator alone.
    """
    concentration = torch.full((*shape, 2), a, dtype=torch.float64, device=generator.device)
    gammas = torch._standard_gamma(concentration, generator=generator)
    return gammas[..., 0] / gammas.sum(dim=-1)


def partners(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """A random permutation, (n,) int64, from two random numbers for each row, (n,) each.

    The row whose first number has rank r is mixed with the row whose second one has. So a row's partner depends on the
    rows' numbers and not on their order.
    """
    return second.argsort()[first.argsort().argsort()]


class MixMatch(Method[MixMatchConfig, None]):
    """Guessed labels on mixed images."""

    name = "mixmatch"
    summary = "mixes labelled images with unlabelled ones and their guessed labels (Berthelot et al. 2019)"
    Config = MixMatchConfig
    warmup_share = 0.0  # the ramp takes its place
    default_mu = 1

    def views(self, config: MixMatchConfig) -> Mapping[str, int]:
        return {"weak": 2}

    def idle(self, config: MixMatchConfig) -> Mapping[str, str]:
        return {"ramp": "mixmatch.lambda_u = 0"} if config.lambda_u == 0 else {}

    def init_state(self, config: MixMatchConfig, setup: Setup) -> None:
        """No state; a look at the numbers of images.

        Raises:
            ConfigError: fewer unlabelled images than a batch has, of which a row would be mixed with itself.
        """
        if setup.unlabelled < setup.batch_size:
            raise ConfigError(
                f"batch_size = {setup.batch_size}: mixmatch needs at least as many unlabelled images as a step "
                f"has labelled ones, and there are {setup.unlabelled}. Take a batch_size of at most {setup.unlabelled}."
            )

    def compute_loss(self, config: MixMatchConfig, step: Step[None]) -> LossOutput[None]:
        """Soft cross-entropy on mixed labelled rows, squared error on mixed unlabelled ones."""
        batch, views = step.batch, step.batch.views_of("weak")
        with torch.no_grad():
            guesses = [
                losses.probabilities(step.forward(view, update_statistics=False).logits) for view in views
            ]
            guess = losses.sharpened((guesses[0] + guesses[1]) / 2, config.temperature)
            images, targets = self._mixed(config, step, guess)
        parts = torch.split(images, [len(batch.labels), *map(len, views)])
        logits = [step.forward(part, update_statistics=n == 0).logits for n, part in enumerate(parts)]

        size = len(batch.labels)
        supervised = losses.soft_cross_entropy(logits[0], targets[:size]).mean()
        unsupervised = losses.squared_error(
            losses.probabilities(torch.cat(logits[1:])), targets[size:]
        ).mean()
        ramp = linear_ramp(step.progress, config.ramp)
        everything = torch.ones_like(batch.indices, dtype=torch.bool)
        return LossOutput(
            total=supervised + config.lambda_u * ramp * unsupervised,
            terms={
                "loss_supervised": supervised,
                "loss_unsupervised": unsupervised,
                "ramp": supervised.new_full((), ramp),
                "guess_confidence": guess.amax(dim=1).mean(),
            },
            pseudo=PseudoLabels(indices=batch.indices, labels=guess.argmax(dim=1), accepted=everything),
        )

    @staticmethod
    def _mixed(
        config: MixMatchConfig, step: Step[None], guess: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All rows mixed: labelled images, first and second views, (B + 2U, 3, H, W); and their labels, (B + 2U, C)."""
        batch = step.batch
        labels = torch.nn.functional.one_hot(batch.labels, guess.shape[1]).to(guess.dtype)
        images = torch.cat([batch.labelled, *batch.views_of("weak")])
        targets = torch.cat([labels, guess, guess])
        # A row of random numbers for each image, so that an image keeps its own wherever it is in the batch.
        counts = [(len(batch.labels), 1), (len(batch.indices), 2)]
        device, generator = images.device, step.generator
        ranks = torch.cat(
            [
                torch.rand((n, k, 2), generator=generator, device=device).transpose(0, 1).flatten(0, 1)
                for n, k in counts
            ]
        )
        lam = torch.cat([beta_draws((n, k), config.beta, generator).T.flatten() for n, k in counts])
        lam = torch.maximum(lam, 1 - lam).to(images.dtype)[:, None]
        other = partners(ranks[:, 0], ranks[:, 1])
        mixed = images.lerp(images[other], 1 - lam[:, :, None, None])
        return mixed, targets.lerp(targets[other], (1 - lam).to(targets.dtype))


METHOD = MixMatch()
