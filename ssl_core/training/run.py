"""The state of a training run, and what is known after each of its epochs."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from typing import Any

import torch

from ssl_core.augment import randaugment
from ssl_core.augment import weak as augment
from ssl_core.data.batches import HostImages, evaluated_at_once, fits_on
from ssl_core.data.datasets import Dataset, Split
from ssl_core.methods.base import Setup
from ssl_core.networks.base import NetworkOutput
from ssl_core.networks.registry import network_of, normalisation_of
from ssl_core.networks.statistics import batchnorms_of, frozen_statistics, own_statistics
from ssl_core.registry import method_of
from ssl_core.same_run import differences
from ssl_core.schema import RunConfig
from ssl_core.system import memory
from ssl_core.system.version import __version__
from ssl_core.training import compile as compiled
from ssl_core.training.checkpoint import DamagedCheckpointError, say_if_of_another_version
from ssl_core.training.drawing.rows import Order
from ssl_core.training.drawing.views import ViewDraws
from ssl_core.training.ema import AveragedModel
from ssl_core.training.optim import LossScale, build_optimizer, restore, start_momenta
from ssl_core.training.rng import Balanced, Shuffled

_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}
"""Precisions of the forward pass alone: the weights are float32."""


@dataclass(frozen=True)
class Report:
    """What is known after an epoch.

    Attributes:
        epoch: finished epochs, from 1.
        ssl_epoch: finished epochs after the warm-up, from 1; None during it.
        metrics: by their MLflow names; val/error in percent, losses in nats, times in seconds.
        classes: counts by class. Pseudo-labels, where the method made any: `accepted` and `right`. Validation images:
            `images` and `wrong`, and after the run's last epoch `confusion`, the matrix row by row.
        time_ms: when the epoch ended, in Unix milliseconds.
    """

    epoch: int
    ssl_epoch: int | None
    metrics: dict[str, float]
    classes: dict[str, list[int]] = field(default_factory=dict)
    time_ms: int = 0


class Run:
    """The state of one training run: everything that a checkpoint holds, and what is derived from it.

    Args:
        config: resolved (`ssl_core.config.resolve`), device and precision chosen.
        data: the training images.
        split: which of them are labelled, unlabelled and for validation.
    """

    def __init__(self, config: RunConfig, data: Dataset, split: Split) -> None:
        assert config.steps_per_epoch and config.network and config.batch_size and config.mu
        memory.keep_freed_memory()
        torch.set_num_threads(config.threads or 1)
        # cuDNN's deterministic kernels give the same run the same bits on a GPU, too, at no measurable cost.
        torch.backends.cudnn.deterministic = True
        statistics = normalisation_of(config)
        if statistics is not None:
            data = replace(data, mean=statistics[0], std=statistics[1])
        self.config, self.data, self.split, self.method = config, data, split, method_of(config)
        self.device = torch.device(config.device)
        self.dtype = torch.float64 if config.precision == "float64" else torch.float32
        network = network_of(config, data.num_classes, data.image_size)
        self.network = network.to(device=self.device, dtype=self.dtype)
        self.heads = self.network.heads
        self.draws_noise = self.network.draws_noise or self.network.head is not None
        self.loss_scale = LossScale(self.device) if config.precision == "float16" else None
        compiles = config.compile is True
        self._called = compiled.network(self.network) if compiles else self.network
        self._of_images_alone = compiled.OfImagesAlone(self.network) if compiles else None
        self.apply_strong = compiled.strong_views() if compiles else randaugment.apply
        self.begin_step = compiled.begin_step if compiles else lambda: None
        self._batchnorms = batchnorms_of(self.network)
        self.ema = AveragedModel(self.network, config.ema_decay)
        self.optimizer = build_optimizer(
            self.network,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay or 0.0,
            name=config.optimizer,
            # Apart only where they have to be: the fused update takes all momenta of a group, or none.
            heads=self.heads if config.head_epochs or config.backbone.lr_scale != 1 else (),
            lr_scale=config.backbone.lr_scale,
        )
        if self.loss_scale is not None or self.network.head is not None:
            # A head may get no gradient in some steps, and a skipped step no momenta.
            start_momenta(self.optimizer)
        self.setup = Setup(
            num_classes=data.num_classes,
            num_images=len(data.labels),
            labelled=len(split.labelled),
            unlabelled=len(split.unlabelled),
            batch_size=config.batch_size,
            mu=config.mu,
            few_sizes=compiles,
        )
        self.method_state = self.method.init_state(config.parameters, self.setup)
        self.history: list[Report] = []
        self.images, self.host = self._placed_images()
        self.labels = torch.from_numpy(data.labels).to(self.device)
        parts = (split.labelled, split.unlabelled, split.valid)
        self.labelled, self.unlabelled, self.valid = map(torch.from_numpy, parts)
        self.labelled_rows, self.unlabelled_rows = self._orders()
        self.view_draws = ViewDraws(
            config.seed,
            side=data.image_size,
            flip=data.flip,
            probability=config.augment.probability,
            device=self.device,
        )

    def _placed_images(self) -> tuple[torch.Tensor, HostImages | None]:
        """The images on the device, where they fit into its share; else in their file's map, with what gathers them."""
        with warnings.catch_warnings():  # the images may be a read-only map of a file; they are never written
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            images = torch.from_numpy(self.data.images)
        if not fits_on(self.device, images.nbytes, self.config.data.device_share):
            return images, HostImages(images, self.device)
        with memory.explained(self.config.device, *memory.of_images(len(images), self.data.image_size)):
            return images.to(self.device), None

    def _orders(self) -> tuple[Order, Order]:
        """Which labelled and which unlabelled images the steps take."""
        config, setup = self.config, self.setup
        order: Shuffled | Balanced = Shuffled(setup.labelled, config.seed, "order/labelled")
        if config.data.balance_batches:
            order = Balanced(torch.from_numpy(self.data.labels)[self.labelled], config.seed)
        others, size = (
            Shuffled(setup.unlabelled, config.seed, "order/unlabelled"),
            setup.mu * setup.batch_size,
        )
        return (
            Order(self.labelled, order, setup.batch_size, self.labels, self.to_device),
            Order(self.unlabelled, others, size, self.labels, self.to_device),
        )

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return self.history[-1].epoch if self.history else 0

    def begin_epoch(self, epoch: int) -> None:
        """Switch the network to training, in the first `head_epochs` epochs of its heads alone.

        The backbone then keeps its weights and BatchNorm's statistics, and has no dropout.
        """
        head_epochs = self.config.head_epochs
        self.network.train()
        if not head_epochs:
            return
        alone = epoch <= head_epochs
        if alone:
            self.network.eval()
        self.network.requires_grad_(not alone)
        for head in self.heads:
            head.train().requires_grad_(True)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds: tensors, numbers, text, and lists and dicts of them."""
        return {
            "version": __version__,
            "config": self.config.document(),
            "split_hash": self.split.hash,
            "network": self.network.state_dict(),
            "ema": self.ema.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "method": {} if self.method_state is None else _fields(self.method_state),
            "history": [asdict(report) for report in self.history],
        } | ({} if self.loss_scale is None else {"loss_scale": self.loss_scale.state()})

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint.

        Raises:
            ValueError: if the checkpoint is of another configuration or split.
            DamagedCheckpointError: if it lacks something, or holds something else in its place.
        """
        before = copy.deepcopy(self.state())
        try:
            self._load_state(state)
        except torch.OutOfMemoryError:
            raise
        except (KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
            self._load_state(before)  # an older checkpoint, or the beginning, is next
            reason = (str(error).strip().splitlines() or [""])[0]
            raise DamagedCheckpointError(
                f"a checkpoint of another make ({type(error).__name__}: {reason})"
            ) from error

    def _load_state(self, state: dict[str, Any]) -> None:
        if state["split_hash"] != self.split.hash:
            raise ValueError(
                f"checkpoint of split {state['split_hash']}, but this run's is {self.split.hash}"
            )
        # The split's hash has the images in it: where they lie (a folder that was moved) makes no other run.
        there = state["config"] | {"dataset": self.config.dataset}
        differing = differences(there, self.config.document())
        if differing:
            raise ValueError(f"checkpoint of another configuration: {', '.join(differing)} differ")
        say_if_of_another_version(state)
        self.network.load_state_dict(state["network"])
        self.ema.network.load_state_dict(state["ema"])
        restore(self.optimizer, state["optimizer"])
        if self.loss_scale is not None:
            self.loss_scale.load_state(state["loss_scale"])
        if self.method_state is not None:
            self.method_state = type(self.method_state)(**state["method"])
        self.history = [Report(**report) for report in state["history"]]

    def forward(
        self, images: torch.Tensor, *, update_statistics: bool = True, full_precision: bool = False
    ) -> NetworkOutput:
        """The network under training, as methods call it (`methods.base.Forward`)."""
        precision = self._float32() if full_precision else self._autocast(True)
        called = self._called
        if full_precision:  # VAT's power iteration, which needs the gradient of the images alone
            called = self.network if update_statistics else self._of_images_alone or self.network
        with frozen_statistics([] if update_statistics else self._batchnorms), precision:
            output: NetworkOutput = called(images)
        return output

    def averaged(self, images: torch.Tensor, *, batch_statistics: bool = False) -> NetworkOutput:
        """The EMA network on normalised images, as methods call it (`methods.base.Averaged`)."""
        if not batch_statistics:
            self.ema.copy_buffers()
        network = self.ema.network
        statistics = own_statistics(batchnorms_of(network)) if batch_statistics else nullcontext()
        with torch.no_grad(), self._autocast(True), statistics:
            output: NetworkOutput = network(images)
        return output

    def evaluated(self, images: torch.Tensor, network: torch.nn.Module | None = None) -> torch.Tensor:
        """Logits (n, C) of the evaluated (EMA) model on un-augmented (n, H, W, 3) uint8 images.

        Args:
            images: of any number.
            network: in place of the model; None: the model.
        """
        with torch.no_grad(), self._autocast(True):
            called = self.ema.network if network is None else network
            output: NetworkOutput = called(self.normalise(images))
        return output.logits if self.dtype == torch.float64 else output.logits.float()

    def fetch(
        self, indices: torch.Tensor, rows: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images on the device, and where in them those with these indices are.

        Args:
            indices: (n,) int64, on the device.
            rows: the same on the CPU, where they are known there: nothing waits for the device then.

        Returns:
            All images and the indices; of images on the host those alone, (n, H, W, 3), and 0 to n - 1.
        """
        if self.host is None:
            return self.images, indices
        pixels = self.host.take(indices if rows is None else rows)
        return pixels, torch.arange(len(pixels), device=self.device)

    def pixels(self, indices: torch.Tensor) -> torch.Tensor:
        """The images with these indices on the device: (n, H, W, 3) uint8."""
        images, places = self.fetch(indices)
        return images[places]

    def evaluated_by_index(self, indices: torch.Tensor) -> torch.Tensor:
        """`evaluated` for some of the training images, (n,) int64, in batches of `eval_batch_size`: (n, C)."""
        return self._in_batches(self.pixels, indices)

    def predictor(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Class probabilities of the evaluated (EMA) model, for training images by index: (n,) to (n, C).

        For many images: they are those of `evaluated_by_index` but for rounding, and come sooner. The model is that of
        the first call: most methods never call it, and folding copies all weights.
        """
        network: list[torch.nn.Module] = []

        def predict(indices: torch.Tensor) -> torch.Tensor:
            if not network:
                network.append(self.ema.network.folded())
            return self._in_batches(self.pixels, indices, network[0]).softmax(dim=1)

        return predict

    def evaluated_in_batches(self, images: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """`evaluated` for some of the images, (n,) int64, in batches of `eval_batch_size`: (n, C)."""
        return self._in_batches(lambda part: images[part], indices)

    def _in_batches(
        self,
        pixels: Callable[[torch.Tensor], torch.Tensor],
        indices: torch.Tensor,
        network: torch.nn.Module | None = None,
    ) -> torch.Tensor:
        with memory.explained(self.config.device, *memory.in_evaluation(self.config)):
            size = evaluated_at_once(self.config.eval_batch_size, self.device)
            parts = [self.evaluated(pixels(part), network) for part in torch.split(indices, size)]
        return torch.cat(parts) if parts else torch.empty(0, self.setup.num_classes, device=self.device)

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 images as the network takes them."""
        return augment.normalise(images, self.data.mean, self.data.std, self.dtype)

    def to_device(self, values: torch.Tensor) -> torch.Tensor:
        """Move a small tensor from the CPU without waiting: a GPU copies it from pinned memory when it comes to it."""
        values = values.pin_memory() if self.device.type == "cuda" and not values.is_cuda else values
        return values.to(self.device, non_blocking=True)

    def _autocast(self, wanted: bool) -> AbstractContextManager[Any]:
        dtype = _AUTOCAST.get(self.config.precision)
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype, enabled=wanted)

    def _float32(self) -> AbstractContextManager[Any]:
        """True float32: no autocast, and on a GPU no TF32, which cuDNN uses for float32 by default."""
        stack = ExitStack()
        stack.enter_context(self._autocast(False))
        if self.device.type == "cuda":
            stack.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
        return stack


def _fields(state: Any) -> dict[str, Any]:
    assert is_dataclass(state)
    return {name: getattr(state, name) for name in state.__dataclass_fields__}
