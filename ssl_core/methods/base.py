"""What a method is: a small object whose loss the training loop minimises.

A method has a configuration (`Config`, its parameters) and may have a state (a dataclass of tensors and numbers). The
loop holds the state, passes it in and takes it back, and puts it into checkpoints.

Shapes: B labelled images of a step, U unlabelled images of a step, C classes, n any number of images,
images (n, 3, H, W) normalised.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from ssl_core.methods.output import Averaged, Forward, Output
from ssl_core.methods.scene import Panel, Scene
from ssl_core.methods.views import KINDS, view_names
from ssl_core.schema import MethodConfig
from ssl_core.system.errors import ConfigError
from ssl_core.system.lazy_torch import torch

if TYPE_CHECKING:
    from ssl_core.augment.randaugment import Geometry
    from ssl_core.networks.base import Head

__all__ = [
    "AnyMethod",
    "Averaged",
    "Batch",
    "Draw",
    "Forward",
    "LossOutput",
    "Method",
    "Output",
    "Panel",
    "Progress",
    "PseudoLabels",
    "Relabel",
    "Scene",
    "Setup",
    "Step",
    "counted_views",
    "has_own_head",
]
ConfigT = TypeVar("ConfigT", bound=MethodConfig)
StateT = TypeVar("StateT")


@dataclass(frozen=True)
class Batch:
    """The images of one step.

    Attributes:
        labelled: weak view, (B, 3, H, W).
        labels: (B,) int64.
        indices: of the unlabelled images in the training images, (U,) int64; U may be 0.
        views: name of a view ("weak", "strong", and of several of a kind "weak2", ...) to its images, each
            (U, 3, H, W).
        targets: (U,) int64, where the method's `draw` gave them.
        geometry: where the first strong view's pixels come from in the image that it was made of.
    """

    labelled: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor
    views: Mapping[str, torch.Tensor] = field(default_factory=dict)
    targets: torch.Tensor | None = None
    geometry: Geometry | None = None

    def views_of(self, kind: str) -> list[torch.Tensor]:
        """All views of a kind, "weak" or "strong", each (U, 3, H, W)."""
        names = view_names(kind, sum(name.startswith(kind) for name in self.views))
        return [self.views[name] for name in names]


@dataclass(frozen=True)
class PseudoLabels:
    """Pseudo-labels that a method used, for the monitors: (n,) each.

    Attributes:
        indices: of the images, int64.
        labels: int64.
        accepted: boolean; these are counted for each class.
        weights: from 0 to 1, where a method weighs instead of accepting or not: the mask rate is then their mean, and
            the accuracy the weighted share of right pseudo-labels.
        pool: how many images could have been predicted, where these are a sample of them; None: these are all.
    """

    indices: torch.Tensor
    labels: torch.Tensor
    accepted: torch.Tensor
    weights: torch.Tensor | None = None
    pool: int | None = None


@dataclass(frozen=True)
class LossOutput(Generic[StateT]):
    """What a step's loss is made of.

    Attributes:
        total: scalar that is differentiated.
        terms: scalars by name, logged as ``train/<name>``: `loss_supervised`, `loss_unsupervised`, ...
        state: the method's state after the step; a method without a state leaves it out.
        pseudo: the step's pseudo-labels, if the method makes them step by step.
    """

    total: torch.Tensor
    terms: Mapping[str, torch.Tensor]
    state: StateT | None = None
    pseudo: PseudoLabels | None = None


@dataclass(frozen=True)
class Setup:
    """What a method may know of the run: counts, never a label of an unlabelled image.

    `few_sizes` says whether steps should have few different numbers of images, because each is compiled on its own.
    """

    num_classes: int
    num_images: int
    labelled: int
    unlabelled: int
    batch_size: int
    mu: int
    few_sizes: bool = False


@dataclass(frozen=True)
class Progress:
    """Where the run is: the current `epoch` and `ssl_epoch` count from 1 (0: still in the warm-up), steps from 0."""

    step: int
    total_steps: int
    step_in_epoch: int
    epoch: int
    ssl_epoch: int


def _no_average(images: torch.Tensor, *, batch_statistics: bool = False) -> Output:
    raise NotImplementedError("this step was made without the moving average of a network")


@dataclass(frozen=True)
class Step(Generic[StateT]):
    """What a method gets to compute the loss of one step.

    Attributes:
        forward: the network under training.
        batch: the step's images.
        state: the method's state before the step; None where it has none.
        progress: where the run is.
        generator: the method's own random numbers, on the images' device. Use no other source of noise.
        averaged: the moving average of the network.
    """

    forward: Forward
    batch: Batch
    state: StateT
    progress: Progress
    generator: torch.Generator
    averaged: Averaged = _no_average


@dataclass(frozen=True)
class Relabel:
    """What a method gets at the start of an epoch after the warm-up.

    Attributes:
        pool: indices of the unlabelled images that have no label, (n,) int64.
        predict: gives the class probabilities (n, C) of images by index: one pass of the evaluated (EMA)
            model, evaluation mode, un-augmented.
        progress: of the epoch's first step.
        setup: of the run.
        steps: of an epoch.
        generator: the method's own random numbers, on the CPU. Use no other source of noise.
    """

    pool: torch.Tensor
    predict: Callable[[torch.Tensor], torch.Tensor]
    progress: Progress
    setup: Setup | None = None
    steps: int = 0
    generator: torch.Generator | None = None

    @property
    def draws(self) -> int:
        """Unlabelled images that an epoch draws at most: mu * B a step."""
        return self.steps * self.setup.mu * self.setup.batch_size if self.setup else 0


@dataclass(frozen=True)
class Draw:
    """Unlabelled images of a step, chosen by the method: indices (n,) and targets (n,), both int64."""

    indices: torch.Tensor
    targets: torch.Tensor


class Method(ABC, Generic[ConfigT, StateT]):
    """Base of a method: ``class Mine(Method[MyConfig, MyState])``, or ``Method[MyConfig, None]`` without a state.

    Its module holds an instance of it, METHOD.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    Config: type[ConfigT] = MethodConfig  # type: ignore[assignment] # for a method without parameters
    has_warmup: ClassVar[bool] = True
    warmup_share: ClassVar[float] = 0.0
    """Default length of the warm-up, as a share of the run."""
    relabels: ClassVar[bool] = False
    """Whether `start_epoch` predicts unlabelled images: this adds to the price of an epoch (see `predicted`)."""
    unlabelled_views: ClassVar[tuple[str, ...]] = ()
    """Views of the unlabelled images that `compute_loss` reads, one of a kind: "weak", "strong"."""
    default_mu: ClassVar[int | None] = None
    """mu where the configuration names none; None: the data set's. The steps of an epoch do not depend on it."""
    default_clip_norm: ClassVar[float | None] = None
    """`clip_norm` where the configuration names none; None: no limit. Its warm-up is clipped as well."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Sets of the method's parameters by name, for `--preset`: ``{"report": {"xi": 10.0}}``."""
    digest: str | None = None
    """Digest of the file that the method was loaded from (set by `ssl_core.method_file`); None: it comes with the
    package."""

    def idle(self, config: ConfigT) -> Mapping[str, str]:
        """The method's parameters that change nothing under this configuration, and why: ``{"xi": "vat.alpha = 0"}``.

        A search over a parameter that is idle everywhere is refused.
        """
        return {}

    def views(self, config: ConfigT) -> Mapping[str, int]:
        """How many views of each kind `compute_loss` reads under this configuration: ``{"weak": 2, "strong": 4}``.

        A method with one of a kind names it in `unlabelled_views` instead.
        """
        return dict.fromkeys(self.unlabelled_views, 1)

    def head(self, config: ConfigT, channels: int) -> Head | None:
        """A part of the network that is the method's own, on the last feature maps; None: there is none.

        It is trained and averaged with the rest, during the warm-up too. What it gives is `Output.head`.

        Args:
            config: the method's parameters.
            channels: D of the feature maps (n, D, h, w).
        """
        return None

    def needs(self, config: ConfigT) -> frozenset[str]:
        """What the network must have besides logits: "features" (the last maps), "positions" (several of them), or
        nothing.

        A run with a network that lacks it is refused. A method with a head needs features.
        """
        return frozenset({"features"}) if has_own_head(self) else frozenset()

    def shares_crop(self, config: ConfigT) -> bool:
        """Whether the strong view is made from the weak view, with the same flip and crop.

        False: it has a flip and crop of its own, as in the FixMatch reference.
        """
        return False

    def init_state(self, config: ConfigT, setup: Setup) -> StateT:
        """State at the end of the warm-up: None, or a dataclass of tensors and numbers (checkpointed)."""
        return None  # type: ignore[return-value] # StateT is None for a method that does not override this

    def start_epoch(
        self, config: ConfigT, state: StateT, relabel: Relabel
    ) -> tuple[StateT, PseudoLabels | None]:
        """Called before each epoch after the warm-up; returns the new state and its pseudo-labels."""
        return state, None

    def predicted(self, config: ConfigT, pool: int, setup: Setup, steps: int) -> int:
        """How many images of a pool of this size `start_epoch` predicts, of a method that `relabels`: for the price.

        Args:
            config: the method's parameters.
            pool: how many images have no label.
            setup: of the run.
            steps: of an epoch.
        """
        return pool

    def draw(
        self, config: ConfigT, state: StateT, setup: Setup, progress: Progress, seed: int
    ) -> Draw | None:
        """Choose the step's unlabelled images; None: the next mu * B of a shuffled pass over U."""
        return None

    def picture(self, config: ConfigT, scene: Scene) -> tuple[Panel, ...]:
        """What the method does, shown on some images; no panels: nothing to show. Gradients are off."""
        return ()

    @abstractmethod
    def compute_loss(self, config: ConfigT, step: Step[StateT]) -> LossOutput[StateT]:
        """The loss of one step after the warm-up.

        A method with a state returns the state after the step in `LossOutput.state`; to forget it is an error.
        """


AnyMethod = Method[Any, Any]
"""A method whose configuration and state are not known where it is used: the loop treats all methods alike."""


def has_own_head(method: AnyMethod) -> bool:
    """Whether the method defines `head`, so that some configuration of it may have one."""
    return getattr(method.head, "__func__", None) is not Method.head


def counted_views(method: AnyMethod, config: MethodConfig) -> dict[str, int]:
    """`method.views(config)`, checked.

    Raises:
        ConfigError: a kind that there is not, or a count below 1; the message names both.
    """
    views: Any = method.views(config)
    good = isinstance(views, Mapping) and all(
        kind in KINDS and isinstance(count, int) and count >= 1 for kind, count in views.items()
    )
    if not good:
        raise ConfigError(
            f"method {method.name!r}: views() returned {views!r}: a count from 1 for each kind is expected, the kinds "
            f'being {" and ".join(map(repr, KINDS))}, such as {{"weak": 2, "strong": 1}}.'
        )
    return dict(views)
