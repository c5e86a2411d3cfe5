"""Pseudo-labelling with a per-epoch rebuild (report, section 2.1; Lee 2013).

After a warm-up on labelled images, every epoch begins with one pass of the evaluated (EMA) model over the images
without a label, un-augmented. It gives

    X = {(u_i, argmax_c p_ic) : max_c p_ic > tau}

and the epoch trains on the labelled images and X together: a step draws B labelled images and
min(mu*B, round(B*|X| / |L|)) images of X, and averages the cross-entropy over all of them. This samples the union of
both, with at most mu*B images of X a step. A compiled run rounds the number to one of few (`sampled_pool.step_size`).

The report's algorithm rebuilds X every epoch, its text "accumulates" it; `accumulate` does what the text says.

With `pool: sampled` the pass ends as soon as it has found as many images of X as the epoch draws, and |X| is estimated
(`ssl_core.methods.sampled_pool`).

All images of a step go through the network in one pass, so that BatchNorm sees the union, as the loss does. With
`statistics: labelled` there are two passes, each with its batch's statistics, of which the labelled one alone moves the
running statistics, as in google-research/fixmatch (pseudo_label.py) and USB.

Shapes: B labelled images of a step, m images of X of a step, n images without a label, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ssl_core import losses
from ssl_core.methods.base import Draw, LossOutput, Method, Progress, PseudoLabels, Relabel, Setup, Step
from ssl_core.methods.sampled_pool import Sampled, at_most, predict_sampled, step_size
from ssl_core.schema import MethodConfig
from ssl_core.system.lazy_torch import torch

if TYPE_CHECKING:
    from ssl_core.training.rng import Shuffled


class PseudoLabelConfig(MethodConfig):
    """Parameters of pseudo-labelling."""

    threshold: float = Field(
        0.95, gt=0, le=1, description="tau, confidence above which a prediction is accepted (report, table 1)"
    )
    accumulate: bool = Field(
        False, description="keep accepted pseudo-labels in later epochs, as the report's text says"
    )
    statistics: Literal["all", "labelled"] = Field(
        "all",
        description="which images move BatchNorm's running statistics: all of a step, in one pass; or the labelled "
        "ones, the others having a pass of their own (google-research/fixmatch, USB)",
    )
    pool: Literal["all", "sampled"] = Field(
        "all",
        description="which images are predicted before an epoch: all that have no label; or as many, in random order, "
        "as it takes to find those that the epoch draws (`accumulate` keeps all)",
    )


@dataclass
class PseudoLabelState:
    """X: indices into the training images and their pseudo-labels, both (x,) int64, sorted by index.

    `total` is |X|: x where the whole pool was predicted, else its estimate.
    """

    indices: torch.Tensor
    targets: torch.Tensor
    total: float | None = None

    def __post_init__(self) -> None:
        if self.total is None:  # a checkpoint of a version without `pool`
            self.total = float(len(self.indices))


def select(probabilities: torch.Tensor, threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Predicted class and whether it is accepted: (n, C) to (n,) int64 and (n,) bool.

    The comparison is strict, as in the report's algorithm; NaN is never accepted.
    """
    confidence, predicted = probabilities.max(dim=1)
    return predicted, confidence > threshold


@lru_cache(maxsize=4)  # permuting X at every step of an epoch would take longer than drawing from it
def _order(n: int, seed: int, epoch: int) -> Shuffled:
    """The order of |X| = n images in an epoch."""
    from ssl_core.training.rng import Shuffled  # delayed: it loads torch

    return Shuffled(n, seed, "order/unlabelled", epoch)


def _samples(config: PseudoLabelConfig) -> bool:
    return config.pool == "sampled" and not config.accumulate


class PseudoLabel(Method[PseudoLabelConfig, PseudoLabelState]):
    """Pseudo-labelling, rebuilt each epoch."""

    name = "pseudo_label"
    summary = "trains on its own confident predictions, made anew every epoch (report, section 2.1)"
    Config = PseudoLabelConfig
    warmup_share = 10 / 300  # report, section 2.4
    relabels = True
    unlabelled_views = ("weak",)

    def idle(self, config: PseudoLabelConfig) -> Mapping[str, str]:
        idle = {"accumulate": "pseudo_label.threshold = 1"} if config.threshold == 1 else {}
        return idle | ({"pool": "pseudo_label.accumulate = true"} if config.accumulate else {})

    def predicted(self, config: PseudoLabelConfig, pool: int, setup: Setup, steps: int) -> int:
        """With `pool: sampled`, as many as tell the size of a step."""
        return at_most(pool, setup, steps) if _samples(config) else pool

    def init_state(self, config: PseudoLabelConfig, setup: Setup) -> PseudoLabelState:
        empty = torch.empty(0, dtype=torch.int64)
        return PseudoLabelState(indices=empty, targets=empty.clone())

    def start_epoch(
        self, config: PseudoLabelConfig, state: PseudoLabelState, relabel: Relabel
    ) -> tuple[PseudoLabelState, PseudoLabels]:
        """Predict the pool again; with `accumulate` an earlier pseudo-label stays until a newer one is accepted."""
        if _samples(config) and relabel.draws < len(relabel.pool):
            return self._sampled(config, relabel)
        predicted, accepted = select(relabel.predict(relabel.pool), config.threshold)
        predicted, accepted = predicted.cpu(), accepted.cpu()
        if config.accumulate:
            place = torch.searchsorted(relabel.pool, state.indices)
            stays = torch.zeros_like(accepted)
            stays[place] = True
            stays &= ~accepted
            earlier = torch.zeros_like(predicted)
            earlier[place] = state.targets
            predicted = torch.where(stays, earlier, predicted)
            accepted = accepted | stays
        state = PseudoLabelState(indices=relabel.pool[accepted], targets=predicted[accepted])
        return state, PseudoLabels(indices=relabel.pool, labels=predicted, accepted=accepted)

    def _sampled(self, config: PseudoLabelConfig, relabel: Relabel) -> tuple[PseudoLabelState, PseudoLabels]:
        """Predict the pool until the draws of an epoch are covered."""
        assert relabel.setup is not None and relabel.generator is not None

        def judge(places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            predicted, accepted = select(relabel.predict(relabel.pool[places]), config.threshold)
            return predicted.cpu(), accepted.cpu()

        order = torch.randperm(len(relabel.pool), generator=relabel.generator)
        found: Sampled = predict_sampled(order, judge, relabel.setup, relabel.steps)
        indices = relabel.pool[found.places]
        state = PseudoLabelState(
            indices=indices[found.accepted], targets=found.labels[found.accepted], total=found.total
        )
        pseudo = PseudoLabels(indices, found.labels, found.accepted, pool=len(relabel.pool))
        return state, pseudo

    def draw(
        self, config: PseudoLabelConfig, state: PseudoLabelState, setup: Setup, progress: Progress, seed: int
    ) -> Draw:
        """Accepted images of a step, shuffled anew each epoch; none where none was accepted."""
        assert state.total is not None
        size = step_size(state.total, setup)
        if size == 0:
            return Draw(indices=state.indices[:0], targets=state.targets[:0])
        chosen = _order(len(state.indices), seed, progress.epoch).batch(progress.step_in_epoch, size)
        return Draw(indices=state.indices[chosen], targets=state.targets[chosen])

    def compute_loss(
        self, config: PseudoLabelConfig, step: Step[PseudoLabelState]
    ) -> LossOutput[PseudoLabelState]:
        """Cross-entropy on labelled images and on accepted ones with their pseudo-labels."""
        batch = step.batch
        assert batch.targets is not None
        weak = batch.views["weak"]
        if config.statistics == "all" or not len(weak):
            logits = step.forward(torch.cat([batch.labelled, weak])).logits
        else:
            of_labelled = step.forward(batch.labelled).logits
            logits = torch.cat([of_labelled, step.forward(weak, update_statistics=False).logits])
        each = losses.cross_entropy(logits, torch.cat([batch.labels, batch.targets]))
        supervised, unsupervised = each[: len(batch.labels)], each[len(batch.labels) :]
        terms: dict[str, torch.Tensor] = {"loss_supervised": supervised.mean()}
        if len(unsupervised):
            terms["loss_unsupervised"] = unsupervised.mean()
        return LossOutput(total=each.mean(), terms=terms, state=step.state)


METHOD = PseudoLabel()
