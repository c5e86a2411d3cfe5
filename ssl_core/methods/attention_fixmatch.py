"""FixMatch with a loss on attention: both views should attend to the same places (report, section 2.3).

A head computes M maps from the last feature maps F (`ssl_core.networks.attention`). Their sum A weights F before the
global average that the classifier reads. With q_i and mask_i of FixMatch,

    a_w  = softmax(A(weak(u_i))),   a_s = softmax(A(strong(u_i)))   over the positions that are compared
    loss = FixMatch's + lambda_att * mean_U mask_i * KL(sg a_w || a_s) + diversity_weight * similarity

`align: geometry`: both views share flip and crop. The weak map is resampled with the strong view's affine map, so that
a position shows the same part of the image in both. Positions whose part of the image is outside the weak view or
under the cutout are not compared (where fewer than two remain, KL = 0).
`align: none` is the report's setting: the views have separate crops and are compared position by position as they are.

similarity is the mean pairwise cosine of the M maps, each a softmax over its positions, over labelled images and strong
views: the report's proposed next step. The softmax is needed because raw maps have the lowest cosine when they are each
other's negatives, and then their sum is zero. Weak views are left out: they are the targets and get no gradient.

Shapes: B labelled images of a step, U = mu * B unlabelled images of a step, C classes, M maps of h x w.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from ssl_core import losses
from ssl_core.methods.base import LossOutput, Method, Panel, PseudoLabels, Scene, Step
from ssl_core.methods.consistency import DESCRIPTION, WeakForward, forward_views
from ssl_core.schema import MethodConfig
from ssl_core.system.lazy_torch import torch

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ssl_core.augment.randaugment import Geometry
    from ssl_core.networks.base import Head


class AttentionFixMatchConfig(MethodConfig):
    """Parameters of FixMatch with an attention loss."""

    threshold: float = Field(
        0.95,
        gt=0,
        le=1,
        description="tau, lowest confidence of a prediction that is used as a label (report, table 3)",
    )
    lambda_u: float = Field(
        1.0, ge=0, le=1e3, description="weight of the unlabelled loss (Sohn et al. 2020, table 4)"
    )
    weak_forward: WeakForward = Field("joint", description=DESCRIPTION)
    maps: int = Field(
        2, ge=0, le=64, description="M, attention maps of the head (report, section 2.3); 0: plain FixMatch"
    )
    lambda_att: float = Field(
        1.0,
        ge=0,
        le=1e3,
        validate_default=True,
        description="weight of the attention loss (report, section 2.3: added without a weight)",
    )
    diversity_weight: float = Field(
        0.0, ge=0, le=1e3, description="weight of the maps' similarity (proposed in the report's section 4)"
    )
    align: Literal["geometry", "none"] = Field(
        "geometry", description="compare maps at the same place of the image, or as they are (the report)"
    )

    @field_validator("lambda_att")
    @classmethod
    def _attention_needs_a_head(cls, value: float, info: ValidationInfo) -> float:
        if value > 0 and info.data.get("maps") == 0:
            raise ValueError(
                "there is no attention to weigh with maps = 0; take lambda_att = 0, or more maps"
            )
        return value

    @field_validator("diversity_weight")
    @classmethod
    def _diversity_needs_two_maps(cls, value: float, info: ValidationInfo) -> float:
        if value > 0 and (maps := info.data.get("maps")) in (0, 1):
            raise ValueError(
                f"there are no two maps to tell apart with maps = {maps}; take diversity_weight = 0, or "
                "at least 2 maps"
            )
        return value

    @field_validator("align")
    @classmethod
    def _alignment_needs_a_head(cls, value: str, info: ValidationInfo) -> str:
        if value == "none" and info.data.get("maps") == 0:
            raise ValueError("there are no maps to compare with maps = 0; leave align out, or take more maps")
        return value


def attention_divergence(
    maps_weak: torch.Tensor, maps_strong: torch.Tensor, geometry: Geometry | None, size: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(sg a_w || a_s), (U,), and the share of the positions that were compared, a scalar.

    Args:
        maps_weak, maps_strong: (U, M, h, w).
        geometry: of the strong views; None: the maps are compared as they are.
        size: of the images, in pixels.
    """
    dtype = torch.promote_types(maps_weak.dtype, torch.float32)
    weak, strong = maps_weak.detach().to(dtype).sum(dim=1), maps_strong.to(dtype).sum(dim=1)
    compared = torch.ones_like(weak, dtype=torch.bool)
    if geometry is not None:
        weak, compared = losses.align_maps(weak, geometry.affine, geometry.cutout, size)
    divergence = losses.map_divergence(weak.flatten(1), strong.flatten(1), compared.flatten(1))
    return divergence, compared.to(dtype).mean()


class AttentionFixMatch(Method[AttentionFixMatchConfig, None]):
    """FixMatch with an attention head and a distance between the attention of both views."""

    name = "attention_fixmatch"
    summary = "FixMatch with a loss on the difference of both views' attention (report, section 2.3)"
    Config = AttentionFixMatchConfig
    warmup_share = 0.0  # the report has one for its tasks 1 and 2 only
    unlabelled_views = ("weak", "strong")
    presets: ClassVar = {"report": {"align": "none"}}  # section 2.3

    def idle(self, config: AttentionFixMatchConfig) -> Mapping[str, str]:
        if config.lambda_u == config.lambda_att == 0:
            return {"threshold": "attention_fixmatch.lambda_u = attention_fixmatch.lambda_att = 0"}
        return {}

    def head(self, config: AttentionFixMatchConfig, channels: int) -> Head | None:
        """The maps, (n, M, h, w), whose sum weights the features; with maps = 0 none."""
        from ssl_core.networks.attention import attention_head  # delayed: it loads torch

        return attention_head(config.maps)(channels)

    def needs(self, config: AttentionFixMatchConfig) -> frozenset[str]:
        return frozenset({"positions"}) if config.maps else frozenset()

    def shares_crop(self, config: AttentionFixMatchConfig) -> bool:
        return config.maps > 0 and config.align == "geometry"

    def compute_loss(self, config: AttentionFixMatchConfig, step: Step[None]) -> LossOutput[None]:
        """FixMatch's loss, the distance of both views' attention, and the similarity of the maps.

        Logged besides the losses: the share of positions compared, and the maps' similarity.
        """
        logits, maps = forward_views(step.forward, step.batch, config.weak_forward)

        supervised = losses.cross_entropy(logits.labelled, step.batch.labels).mean()
        confidence, predicted = losses.confident_class(logits.weak)
        pseudo_mask = confidence >= config.threshold
        unsupervised = (pseudo_mask * losses.cross_entropy(logits.strong, predicted)).mean()
        total = supervised + config.lambda_u * unsupervised
        terms = {"loss_supervised": supervised, "loss_unsupervised": unsupervised}

        if maps is not None:
            aligned = config.align == "geometry"
            assert not aligned or step.batch.geometry is not None
            geometry, size = (step.batch.geometry if aligned else None), step.batch.labelled.shape[2:]
            divergence, compared = attention_divergence(maps.weak, maps.strong, geometry, size)
            attention = (pseudo_mask * divergence).mean()
            total = total + config.lambda_att * attention
            terms |= {"loss_attention": attention, "attention_compared": compared}
            if config.maps > 1:
                similarity = losses.map_similarity(torch.cat([maps.labelled, maps.strong]).flatten(2)).mean()
                total = total + config.diversity_weight * similarity
                terms["map_similarity"] = similarity

        pseudo = PseudoLabels(indices=step.batch.indices, labels=predicted, accepted=pseudo_mask)
        return LossOutput(total=total, terms=terms, pseudo=pseudo)

    def picture(self, config: AttentionFixMatchConfig, scene: Scene) -> tuple[Panel, ...]:
        """Attention over weak and strong views; aligned, the weak one's also where the strong view has it."""
        weak, strong = scene.views["weak"], scene.views["strong"]
        outputs = [scene.forward(view) for view in (weak, strong)]
        if outputs[0].head is None or outputs[1].head is None:
            return ()
        says_weak, says_strong = (scene.says(output.logits) for output in outputs)
        geometry = scene.geometry if config.align == "geometry" else None
        maps_weak, maps_strong = outputs[0].head, outputs[1].head
        kl, _ = attention_divergence(maps_weak, maps_strong, geometry, strong.shape[2:])
        on_weak, on_strong = maps_weak.sum(dim=1).float(), maps_strong.sum(dim=1).float()
        everywhere = torch.ones_like(on_weak, dtype=torch.bool)
        under_weak, under_strong = (scene.pixels(view).clip(0, 1) for view in (weak, strong))
        nothing = ("",) * len(weak)

        def attention(
            title: str,
            scores: torch.Tensor,
            compared: torch.Tensor,
            beneath: npt.NDArray[np.float32],
            captions: tuple[str, ...] = nothing,
        ) -> Panel:
            """A map's shares, (images, height, width), over the images beneath."""
            shares = losses.map_shares(scores, compared).cpu().numpy()
            return Panel(title, "map", shares, captions, beneath=beneath)

        panels = [
            Panel("weak view", "image", under_weak, *says_weak),
            attention("attention, weak", on_weak, everywhere, under_weak),
            Panel("strong view", "image", under_strong, *says_strong),
        ]
        compared = everywhere
        if geometry is not None:
            size = tuple(strong.shape[2:])
            aligned, compared = losses.align_maps(on_weak, geometry.affine, geometry.cutout, size)
            panels.append(attention("weak, moved along", aligned, compared, under_strong))
        captions = tuple(f"KL {each:.2g}" for each in kl.tolist())
        panels.append(attention("attention, strong", on_strong, compared, under_strong, captions))
        return tuple(panels)


METHOD = AttentionFixMatch()
