"""Mean Teacher (Tarvainen and Valpola 2017, arXiv:1703.01780): two views, predicted by the network and by its average.

    loss = mean_B CE(p(y | weak(x)), label) + w(t) * mean_U 1/C sum_c (sg p_avg(y | weak_1(u))_c - p(y | weak_2(u))_c)^2

p_avg is the moving average of the network (EMA), w(t) a linear ramp from 0 to `weight` over a share of the run. Every
pass uses its batch's own BatchNorm statistics, the average's too, and only the pass over labelled images updates the
running ones, as in google-research/mixmatch, mean_teacher.py. There is no mask: every image counts.

Shapes: B labelled images of a step, U = mu * B unlabelled images of a step, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from ssl_core import losses
from ssl_core.methods.base import LossOutput, Method, Step
from ssl_core.methods.running import linear_ramp
from ssl_core.schema import MethodConfig


class MeanTeacherConfig(MethodConfig):
    """Parameters of Mean Teacher."""

    weight: float = Field(
        50.0,
        ge=0,
        le=1e5,
        description="w at the end of the ramp, of a squared error that is a mean over classes, too; 0: off "
        "(google-research/mixmatch: 50)",
    )
    ramp: float = Field(
        0.4,
        ge=0,
        le=1,
        description="share of the run's steps over which w grows from 0 (USB: 0.4; Tarvainen and Valpola: a sigmoid)",
    )


class MeanTeacher(Method[MeanTeacherConfig, None]):
    """Consistency with the moving average of the network."""

    name = "mean_teacher"
    summary = (
        "the same prediction as the network's moving average on another view (Tarvainen and Valpola 2017)"
    )
    Config = MeanTeacherConfig
    warmup_share = 0.0  # the ramp takes its place
    default_mu = 1

    def views(self, config: MeanTeacherConfig) -> Mapping[str, int]:
        return {"weak": 2}

    def idle(self, config: MeanTeacherConfig) -> Mapping[str, str]:
        return {"ramp": "mean_teacher.weight = 0"} if config.weight == 0 else {}

    def compute_loss(self, config: MeanTeacherConfig, step: Step[None]) -> LossOutput[None]:
        """Cross-entropy on labelled images, squared error between the average's and the network's predictions."""
        supervised = losses.cross_entropy(step.forward(step.batch.labelled).logits, step.batch.labels).mean()

        first, second = step.batch.views_of("weak")
        teacher = losses.probabilities(step.averaged(first, batch_statistics=True).logits)
        student = losses.probabilities(step.forward(second, update_statistics=False).logits)
        unsupervised = losses.squared_error(student, teacher.detach()).mean()

        ramp = linear_ramp(step.progress, config.ramp)
        return LossOutput(
            total=supervised + config.weight * ramp * unsupervised,
            terms={
                "loss_supervised": supervised,
                "loss_unsupervised": unsupervised,
                "ramp": supervised.new_full((), ramp),
            },
        )


METHOD = MeanTeacher()
