"""What a method is: a small object that the one loop drives.

Shapes: B labelled images of a step, U unlabelled images of a step, C classes, n any number of images,
images (n, 3, H, W) normalised.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from ssl_core.config import MethodConfig
from ssl_core.system.lazy_torch import torch

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ssl_core.augment.randaugment import Geometry


class Output(Protocol):
    """What the network gives: logits (n, C), the last feature maps (n, D, h, w), attention maps or None."""

    @property
    def logits(self) -> torch.Tensor: ...
    @property
    def features(self) -> torch.Tensor: ...
    @property
    def attention(self) -> torch.Tensor | None: ...


class Forward(Protocol):
    """The model under training, as a function that a method may call as often as it needs.

    `update_statistics=False` leaves BatchNorm's running statistics alone (batch statistics are still used);
    `full_precision=True` runs in float32 or better even where the rest of the run does not.
    """

    def __call__(
        self, images: torch.Tensor, *, update_statistics: bool = True, full_precision: bool = False
    ) -> Output: ...


@dataclass(frozen=True)
class Batch:
    """The images of one step.

    Attributes:
        labelled: weak view, (B, 3, H, W).
        labels: (B,) int64.
        indices: of the unlabelled images in the training images, (U,) int64; U may be 0.
        views: name of a view ("weak", "strong") to its images, each (U, 3, H, W).
        targets: (U,) int64, where the method's `draw` gave them.
        geometry: where the strong view's pixels come from in the image that it was made of.
    """

    labelled: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor
    views: Mapping[str, torch.Tensor] = field(default_factory=dict)
    targets: torch.Tensor | None = None
    geometry: Geometry | None = None


@dataclass(frozen=True)
class PseudoLabels:
    """Pseudo-labels that a method used, for the monitors: (n,) each; `accepted` is boolean."""

    indices: torch.Tensor
    labels: torch.Tensor
    accepted: torch.Tensor


@dataclass(frozen=True)
class LossOutput:
    """What a step's loss is made of.

    Attributes:
        total: scalar that is differentiated.
        terms: scalars by name, logged as ``train/<name>``: `loss_supervised`, `loss_unsupervised`, ...
        state: the method's state after the step.
        pseudo: the step's pseudo-labels, if the method makes them step by step.
    """

    total: torch.Tensor
    terms: Mapping[str, torch.Tensor]
    state: Any = None
    pseudo: PseudoLabels | None = None


@dataclass(frozen=True)
class Setup:
    """What a method may know of the run: counts, never a label of an unlabelled image."""

    num_classes: int
    num_images: int
    labelled: int
    unlabelled: int
    batch_size: int
    mu: int


@dataclass(frozen=True)
class Progress:
    """Where the run is. `epoch` and `ssl_epoch` are those under way, from 1; steps count from 0."""

    step: int
    total_steps: int
    step_in_epoch: int
    epoch: int
    ssl_epoch: int


@dataclass(frozen=True)
class Relabel:
    """What a method gets at the start of an epoch after the warm-up.

    Attributes:
        pool: indices of the unlabelled images that have no label, (n,) int64.
        predict: gives the class probabilities (n, C) of images by index: one pass of the evaluated (EMA)
            model, evaluation mode, un-augmented.
        progress: of the epoch's first step.
    """

    pool: torch.Tensor
    predict: Callable[[torch.Tensor], torch.Tensor]
    progress: Progress


@dataclass(frozen=True)
class Draw:
    """Unlabelled images of a step, chosen by the method: indices (n,) and targets (n,), both int64."""

    indices: torch.Tensor
    targets: torch.Tensor


@dataclass(frozen=True)
class Panel:
    """One row of a method's picture, one entry an image.

    Attributes:
        title: what is shown.
        kind: "image": (n, H, W, 3), 0 to 1; "difference": (n, H, W, 3), signed, in the same unit; "map":
            (n, h, w), NaN where there is nothing to show, drawn over the images `beneath`.
        values: float32.
        captions: a line for each image.
        right: whether what a caption says is right, where it says something that can be.
        beneath: (n, H, W, 3), 0 to 1, for a map.
    """

    title: str
    kind: Literal["image", "difference", "map"]
    values: npt.NDArray[np.float32]
    captions: tuple[str, ...]
    right: tuple[bool, ...] | None = None
    beneath: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Scene:
    """What a method gets to make a picture of: n validation images that it never trained on.

    Attributes:
        forward: the evaluated (EMA) network in evaluation mode.
        images: un-augmented, (n, 3, H, W).
        views: as in `Batch`.
        geometry: as in `Batch`.
        pixels: turns what a network takes into what can be shown, (n, H, W, 3); not clipped.
        says: of logits (n, C), class and confidence as text, and whether the class is right.
        generator: noise of the picture's own.
    """

    forward: Forward
    images: torch.Tensor
    views: Mapping[str, torch.Tensor]
    geometry: Geometry | None
    pixels: Callable[[torch.Tensor], npt.NDArray[np.float32]]
    says: Callable[[torch.Tensor], tuple[tuple[str, ...], tuple[bool, ...]]]
    generator: torch.Generator


class Method(ABC):
    """Base of a method. Its module holds one instance, named METHOD."""

    name: ClassVar[str]
    summary: ClassVar[str]
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    has_warmup: ClassVar[bool] = True
    warmup_share: ClassVar[float] = 0.0
    """Default length of the warm-up, as a share of the run."""
    relabels: ClassVar[bool] = False
    """Whether `start_epoch` predicts the whole pool: part of the price of an epoch."""
    unlabelled_views: ClassVar[tuple[str, ...]] = ()
    """Views of the unlabelled images that `compute_loss` reads: "weak", "strong"."""
    digest: str | None = None
    """Of the file that it was loaded from (`ssl_core.method_file` enters it); None: it comes with the package."""

    def idle(self, config: Any) -> Mapping[str, str]:
        """Parameters of its own that change nothing under this configuration, and why: ``{"xi": "vat.alpha = 0"}``.
        A search over one that is idle everywhere is refused."""
        return {}

    def attention_maps(self, config: Any) -> int:
        """Maps of the attention head on the network; 0: no head."""
        return 0

    def shares_crop(self, config: Any) -> bool:
        """Whether the strong view is made from the weak one (the same flip and crop) or from a draw of its
        own, as the FixMatch reference has it."""
        return False

    def init_state(self, config: Any, setup: Setup) -> Any:
        """State at the end of the warm-up: None, or a dataclass of tensors and numbers (checkpointed)."""
        return None

    def start_epoch(self, config: Any, state: Any, relabel: Relabel) -> tuple[Any, PseudoLabels | None]:
        """Called before each epoch after the warm-up; returns the new state and its pseudo-labels."""
        return state, None

    def draw(self, config: Any, state: Any, setup: Setup, progress: Progress, seed: int) -> Draw | None:
        """Choose the step's unlabelled images; None: the next mu * B of a shuffled pass over U."""
        return None

    def picture(self, config: Any, scene: Scene) -> tuple[Panel, ...]:
        """What the method does, shown on some images; no panels: nothing to show. Gradients are off."""
        return ()

    @abstractmethod
    def compute_loss(
        self,
        config: Any,
        forward: Forward,
        batch: Batch,
        state: Any,
        progress: Progress,
        generator: torch.Generator,
    ) -> LossOutput:
        """The loss of one step after the warm-up. `generator` is the method's own noise stream."""
