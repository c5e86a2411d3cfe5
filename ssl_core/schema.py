"""The fields of a configuration and the checks of single fields: what every other module builds on.

This module imports neither methods nor data nor torch. `ssl_core.config` reads documents into these classes and
fills in what depends on the data; it also exports them, so `from ssl_core.config import MethodConfig` works.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, field_validator, model_validator

from ssl_core.networks.names import check_name


class Section(BaseModel):
    """Base of every configuration section."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class MethodConfig(Section):
    """Base of the section of a method's parameters; used itself by a method without parameters."""


class SkippedFile(Section):
    """A damaged image that was left out: its path relative to the data set, and the sha256 of its bytes in hex."""

    file: str = Field(min_length=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class DataConfig(Section):
    """How the images are split and sized."""

    image_size: int | None = Field(
        None,
        ge=8,
        le=512,
        description="side in pixels that images are resized to; none: their own, or where they differ their median",
    )
    resize: Literal["crop", "pad", "stretch"] = Field(
        "crop",
        description="of an image that is not square: its centre, all of it on the background, or stretched",
    )
    background: str = Field("white", description="colour below transparent pixels and beside padded images")
    flip: Literal["auto"] | bool = Field(
        "auto", description="whether a mirrored image keeps its label; auto: yes, except for digits"
    )
    on_damaged: Literal["refuse", "skip"] = Field(
        "refuse",
        description="refuse damaged training images, or leave them out; validation and test: refused",
    )
    skipped: tuple[SkippedFile, ...] | None = Field(
        None,
        strict=False,
        description="damaged images that the first run left out and wrote down: exactly these are left out again",
    )
    allow_leak: bool = Field(
        False,
        description="accept a test set of which more than 5 % is in the training set too",
    )
    group_by: Literal["none", "folder"] = Field(
        "none", description="folder: the images of one folder inside a class folder stay in one part"
    )
    split: Literal["balanced", "proportional"] | None = Field(
        None, description="numbers of images by class; none: balanced where every class can give as many"
    )
    valid: int | None = Field(
        None,
        ge=1,
        description="validation images; none: as many as labels, or with unlabelled images valid/ or valid_share",
    )
    valid_share: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="of each class's labels, held out for validation where there is no valid/",
    )
    test_share: float = Field(
        0.2, gt=0, lt=1, description="of each class's labels, held out as test set where there is no test/"
    )
    split_seed: int = Field(0, ge=0, description="draws the validation images")
    label_seed: int = Field(0, ge=0, description="draws the labelled images among the others")
    fold: int = Field(
        0,
        ge=0,
        le=99,
        description="which division of the labelled and validation images: 0 the first, each further one redraws which "
        "of these images are labelled and which validate",
    )
    device_share: float = Field(
        0.3,
        ge=0,
        le=1,
        description="share of the device's memory that the images may take; more of them stay in the cache's file on "
        "the host, and batches are gathered ahead (the same bits). 0: always",
    )
    balance_batches: bool = Field(
        False, description="draw labelled images so that each class is as frequent as the others in training"
    )

    def document(self) -> dict[str, Any]:
        """As plain data. A field of `ADDED` at its default is absent, as in documents from before it existed."""
        plain = self.model_dump(mode="json")
        defaults = DataConfig().model_dump(mode="json")
        return {name: v for name, v in plain.items() if name not in ADDED or v != defaults[name]}


ADDED = frozenset(DataConfig.model_fields) - {
    "image_size",
    "valid",
    "split_seed",
    "label_seed",
    "balance_batches",
}
"""Fields that documents recorded by earlier versions do not have."""


class BackboneConfig(Section):
    """The network besides its name: its weights at the start and how they are trained."""

    weights: str = Field(
        "none",
        min_length=1,
        description="at the start: none (random), default (the library's own, downloaded), or a file: safetensors, a "
        "torch state dict, a checkpoint or a model's folder",
    )
    weights_digest: str | None = Field(
        None, description="digest of the file of weights; none: filled in from the file"
    )
    normalise: Literal["auto", "data", "imagenet"] = Field(
        "auto",
        description="mean and deviation of the pixels: the data's own, or ImageNet's; auto: those that the weights "
        "were trained with where they are known, else the data's",
    )
    stem: Literal["auto", "small", "imagenet"] = Field(
        "auto",
        description="of resnet18, resnet34, resnet50: 3x3 without pooling, or ImageNet's; auto: as in the weights, "
        "else small up to 64 pixels",
    )
    variant: Literal["pytorch", "reference"] = Field(
        "pytorch",
        description="of WideResNets: as PyTorch ports have it, or with the FixMatch reference's padding of strided "
        "convolutions (SAME) and BatchNorm epsilon (1e-3)",
    )
    lr_scale: float = Field(
        1.0, gt=0, le=10, description="learning rate of all but the head, in multiples of `lr`"
    )
    bn_epsilon: float | None = Field(
        None,
        gt=0,
        le=1,
        description="added to BatchNorm's variances; none: the network's own, 1e-5 for most (the FixMatch reference "
        "in TensorFlow: 1e-3)",
    )

    def document(self) -> dict[str, Any]:
        """As plain data, without fields at their defaults."""
        return _beyond_defaults(self)


class AugmentConfig(Section):
    """The strong views of unlabelled images."""

    probability: float = Field(
        1.0,
        gt=0,
        le=1,
        description="with which each of a strong view's two drawn operations is applied; 1: always, 0.5: as in the "
        "FixMatch reference and its ports",
    )

    def document(self) -> dict[str, Any]:
        """As plain data, without fields at their defaults."""
        return _beyond_defaults(self)


SECTIONS: dict[str, type[Section]] = {
    "data": DataConfig,
    "backbone": BackboneConfig,
    "augment": AugmentConfig,
}
"""Common sections of a configuration, besides the method's own."""


def _beyond_defaults(section: Section) -> dict[str, Any]:
    plain, defaults = section.model_dump(mode="json"), type(section)().model_dump(mode="json")
    return {name: value for name, value in plain.items() if value != defaults[name]}


ADAMW_LR, ADAMW_WEIGHT_DECAY = 1e-3, 0.05
"""Defaults with AdamW: Kingma and Ba 2015 (as in PyTorch), and Touvron et al. 2021 (DeiT), table 9."""


class RunConfig(Section):
    """One training run. `None` fields are filled in by `resolve`."""

    method: str = Field(description="the training method's own name")
    method_digest: str | None = Field(
        None, description="digest of the method's file; none: the method comes with the package"
    )
    parameters: SerializeAsAny[MethodConfig] = Field(description="the method's own section")
    dataset: str = Field(
        "digits", description="digits, cifar10, cifar100, stl10, svhn, folder:PATH or table:FILE"
    )
    labels: int | None = Field(
        None,
        ge=1,
        description="images that keep their label, balanced per class; none, with unlabelled images: all there are",
    )
    network: str | None = Field(
        None, description="wrn-DEPTH-WIDTH (depth = 6n + 4), resnet18|34|50, torchvision:NAME or timm:NAME"
    )
    backbone: BackboneConfig = Field(
        default_factory=BackboneConfig, description="the network's weights at the start, and more (a section)"
    )
    augment: AugmentConfig = Field(
        default_factory=AugmentConfig, description="the strong views of unlabelled images (a section)"
    )
    epochs: int | None = Field(None, ge=1, le=100_000, description="epochs, warm-up included")
    steps_per_epoch: int | None = Field(
        None, ge=1, description="optimiser steps of an epoch; none: one pass over U, at least 32"
    )
    warmup_epochs: int | None = Field(
        None, ge=0, description="epochs on labelled data only, shorter than the run; none: the method's share"
    )
    stop_after_epoch: int | None = Field(
        None, ge=1, description="stop here, on the schedule of `epochs` (a trial stopped early)"
    )
    batch_size: int | None = Field(None, ge=2, le=65_536, description="B, labelled images of a step")
    mu: int | None = Field(None, ge=1, le=64, description="unlabelled images of a step, in multiples of B")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="sgd: with Nesterov momentum; or adamw")
    lr: float = Field(
        0.03,
        gt=0,
        le=10,
        description="learning rate at step 0 (Sohn et al. 2020, table 4); its default with adamw: 0.001",
    )
    momentum: float = Field(
        0.9, ge=0, lt=1, description="Nesterov momentum (Sohn et al. 2020, table 4); of adamw: beta 1"
    )
    weight_decay: float | None = Field(
        None,
        ge=0,
        le=1,
        description="L2 penalty, none on BatchNorm and biases; none: 5e-4, on cifar100 1e-3 (ibid.), adamw 0.05",
    )
    schedule: Literal["fixmatch", "cosine", "constant"] = Field(
        "fixmatch",
        description="of the learning rate: cos(7 pi k / 16 K) (Sohn et al. 2020), half a cosine to 0, or constant",
    )
    clip_norm: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="largest L2 norm of the gradient of all weights; none: the method's own "
        "(simple: 5), else no limit",
    )
    head_epochs: int = Field(
        0,
        ge=0,
        le=100_000,
        description="first epochs, in which only the classifier and other heads are trained",
    )
    ema_decay: float = Field(0.999, ge=0, lt=1, description="average of the evaluated weights (ibid.)")
    bn_momentum: float | None = Field(
        None,
        gt=0,
        le=1,
        description="BatchNorm's weight of a new batch; none: 30 / steps of the run, within 0.001 (ibid.) "
        "and 0.1 (PyTorch's default), because 0.001 is far too slow for a short run",
    )
    eval_batch_size: int = Field(
        500, ge=1, description="images of one evaluation pass; a processor takes at most 64 a thread"
    )
    precision: Literal["auto", "float32", "bfloat16", "float16", "float64"] = Field(
        "auto",
        description="arithmetic of the forward pass; auto: bfloat16 where the processor has it, float16 on a GPU "
        "that has only that",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where there is one")
    compile: Literal["auto"] | bool = Field(
        "auto",
        description="torch.compile and CUDA graphs for the network (they change the last bits); auto: on a "
        "GPU, for runs of 4000 steps or more, which regain the minute that it takes",
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="processor threads of the run (their number changes the bits); none: all",
    )
    seed: int = Field(
        0, ge=0, lt=2**31, description="training seed: initialisation, order, augmentation, noise"
    )
    refit: bool = Field(
        False,
        description="train on the validation images as well; final models only, once everything is chosen",
    )
    data: DataConfig = Field(default_factory=DataConfig)

    @field_validator("network")
    @classmethod
    def _network_is_known(cls, value: str | None) -> str | None:
        if value is not None:
            check_name(value)
        return value

    @model_validator(mode="before")
    @classmethod
    def _learning_rate_suits_the_optimizer(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("optimizer") == "adamw" and "lr" not in values:
            return values | {"lr": ADAMW_LR}
        return values

    def document(self) -> dict[str, Any]:
        """The configuration as plain data, the method's parameters under the method's own name.

        A field of `ADDED_TO_RUN` at its default is absent, as in documents from before it existed.
        """
        plain = self.model_dump(mode="json") | {"data": self.data.document()}
        plain |= {"backbone": self.backbone.document(), "augment": self.augment.document()}
        defaults = {name: RunConfig.model_fields[name].default for name in ADDED_TO_RUN}
        defaults |= {"backbone": {}, "augment": {}}
        plain = {name: v for name, v in plain.items() if name not in defaults or v != defaults[name]}
        parameters = plain.pop("parameters")
        if self.method_digest is None:
            del plain["method_digest"]
        return plain | ({self.method: parameters} if parameters else {})

    @property
    def total_steps(self) -> int:
        """K of the learning rate's schedule: steps of all `epochs`, also where `stop_after_epoch` is less."""
        assert self.epochs is not None and self.steps_per_epoch is not None
        return self.epochs * self.steps_per_epoch

    @property
    def last_epoch(self) -> int:
        """The epoch after which the run ends."""
        assert self.epochs is not None
        return min(self.epochs, self.stop_after_epoch or self.epochs)


ADDED_TO_RUN = frozenset({"augment", "backbone", "optimizer", "schedule", "clip_norm", "head_epochs"})
"""Fields that documents recorded by earlier versions do not have."""
