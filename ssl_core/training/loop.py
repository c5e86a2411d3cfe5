"""The one training loop: a generator that yields a report after every epoch.

It does not know who watches (invariant 7): the command line, Ray Tune and MLflow consume its reports. A
step is: draw labelled images, draw unlabelled images, make the views, compute the method's loss, update.
During the warm-up the step is the supervised one, whatever the method (invariant 5).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any

import torch

from ssl_core import losses
from ssl_core.augment import randaugment
from ssl_core.augment import weak as augment
from ssl_core.augment.randaugment import Geometry, strong_view
from ssl_core.config import RunConfig, from_document
from ssl_core.data.datasets import Dataset, Split
from ssl_core.methods import method_of
from ssl_core.methods.base import Batch, LossOutput, Progress, Relabel, Setup
from ssl_core.methods.supervised import METHOD as SUPERVISED
from ssl_core.networks.wide_resnet import NetworkOutput, build_network
from ssl_core.system import exhaustion
from ssl_core.system.allocator import keep_freed_memory
from ssl_core.system.errors import ConfigError, NonFiniteError
from ssl_core.training import compile as compiled
from ssl_core.training.ema import AveragedModel
from ssl_core.training.finite import FiniteGuard
from ssl_core.training.monitors import EpochMonitor
from ssl_core.training.optim import build_optimizer, learning_rate, restore
from ssl_core.training.rng import Shuffled, generator

_DTYPES = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Report:
    """What is known after an epoch.

    Attributes:
        epoch: finished epochs, from 1.
        ssl_epoch: finished epochs after the warm-up, from 1; None during it.
        metrics: by their MLflow names; val/error in percent, losses in nats, times in seconds.
        classes: pseudo-labels of each class, `accepted` and `right`; empty where the method made none.
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
        keep_freed_memory()
        torch.set_num_threads(config.threads or 1)
        # cuDNN's deterministic kernels: the same bits from the same run on a GPU, too, at no cost that was measured.
        torch.backends.cudnn.deterministic = True
        self.config, self.data, self.split = config, data, split
        self.method = method_of(config)
        self.device = torch.device(config.device)
        self.dtype = _DTYPES[config.precision]
        network = build_network(
            config.network,
            data.num_classes,
            bn_momentum=config.bn_momentum or 0.1,
            seed=config.seed,
            attention_maps=self.method.attention_maps(config.parameters),
        )
        self.network = network.to(device=self.device, dtype=self.dtype)
        compiles = config.compile is True
        self._passes = compiled.passes(self.network) if compiles else self.network
        self.apply_strong = compiled.strong_views() if compiles else randaugment.apply
        self.begin_step = compiled.begin_step if compiles else lambda: None
        self._batchnorms = [m for m in self.network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        self.ema = AveragedModel(self.network, config.ema_decay)
        self.optimizer = build_optimizer(
            self.network, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay or 0.0
        )
        self.setup = Setup(
            num_classes=data.num_classes,
            num_images=len(data.labels),
            labelled=len(split.labelled),
            unlabelled=len(split.unlabelled),
            batch_size=config.batch_size,
            mu=config.mu,
        )
        self.method_state = self.method.init_state(config.parameters, self.setup)
        self.history: list[Report] = []
        with warnings.catch_warnings():  # the images may be a read-only map of a file; they are never written
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            images = torch.from_numpy(data.images)
        with exhaustion.explained(config.device, *exhaustion.of_images(len(images), data.image_size)):
            self.images = images.to(self.device)
        self.labels = torch.from_numpy(data.labels).to(self.device)
        self.labelled = torch.from_numpy(split.labelled)
        self.unlabelled = torch.from_numpy(split.unlabelled)
        self.labelled_order = Shuffled(self.setup.labelled, config.seed, "order/labelled")
        self.unlabelled_order = Shuffled(self.setup.unlabelled, config.seed, "order/unlabelled")
        self.valid = torch.from_numpy(split.valid)

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return self.history[-1].epoch if self.history else 0

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds: tensors, numbers, text, and lists and dicts of them."""
        return {
            "config": self.config.document(),
            "split_hash": self.split.hash,
            "network": self.network.state_dict(),
            "ema": self.ema.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "method": {} if self.method_state is None else _fields(self.method_state),
            "history": [asdict(report) for report in self.history],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: if the checkpoint is of another configuration or split.
        """
        if state["split_hash"] != self.split.hash:
            raise ValueError(
                f"checkpoint of split {state['split_hash']}, but this run's is {self.split.hash}"
            )
        differing = differences(state["config"], self.config.document())
        if differing:
            raise ValueError(f"checkpoint of another configuration: {', '.join(differing)} differ")
        self.network.load_state_dict(state["network"])
        self.ema.network.load_state_dict(state["ema"])
        restore(self.optimizer, state["optimizer"])
        if self.method_state is not None:
            self.method_state = type(self.method_state)(**state["method"])
        self.history = [Report(**report) for report in state["history"]]

    def forward(
        self, images: torch.Tensor, *, update_statistics: bool = True, full_precision: bool = False
    ) -> NetworkOutput:
        """The network under training, as methods call it (`methods.base.Forward`)."""
        precision = self._float32() if full_precision else self._autocast(True)
        # Not compiled in full precision: the power iteration wants a gradient of the images alone, and a compiled
        # backward pass computes all.
        passes = self.network if full_precision else self._passes
        with _frozen_statistics([] if update_statistics else self._batchnorms), precision:
            output: NetworkOutput = passes(images)
        return output

    def evaluated(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (n, C) of the evaluated (EMA) model on un-augmented (n, H, W, 3) uint8 images."""
        with torch.no_grad(), self._autocast(True):
            output: NetworkOutput = self.ema.network(self.normalise(images))
        return output.logits if self.dtype == torch.float64 else output.logits.float()

    def evaluated_in_batches(self, images: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """`evaluated` for some of the images, (n,) int64, in batches of `eval_batch_size`: (n, C)."""
        with exhaustion.explained(self.config.device, *exhaustion.in_evaluation(self.config)):
            size = self.config.eval_batch_size
            parts = [self.evaluated(images[part]) for part in torch.split(indices, size)]
        return torch.cat(parts) if parts else torch.empty(0, self.setup.num_classes, device=self.device)

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 images as the network takes them."""
        return augment.normalise(images, self.data.mean, self.data.std, self.dtype)

    def to_device(self, values: torch.Tensor) -> torch.Tensor:
        """A small tensor of the CPU's, moved without waiting: a GPU fetches it from pinned memory in its turn."""
        values = values.pin_memory() if self.device.type == "cuda" and not values.is_cuda else values
        return values.to(self.device, non_blocking=True)

    def _autocast(self, wanted: bool) -> AbstractContextManager[Any]:
        if self.config.precision != "bfloat16":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16, enabled=wanted)

    def _float32(self) -> AbstractContextManager[Any]:
        """Real float32: no autocast, and on a GPU no TF32, which cuDNN takes for float32 unless told."""
        stack = ExitStack()
        stack.enter_context(self._autocast(False))
        if self.device.type == "cuda":
            stack.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
        return stack


def train(run: Run) -> Iterator[Report]:
    """Train from where the run is to its last epoch, yielding a report after each.

    Raises:
        NonFiniteError: where a loss or gradient is not finite; no weight has moved since.
        MemoryExhaustedError: where the device has no more memory; says what to lower.
    """
    views = len(run.method.unlabelled_views)
    while run.epoch < run.config.last_epoch:
        with exhaustion.explained(run.config.device, *exhaustion.in_step(run.config, views)):
            report = _epoch(run, run.epoch + 1)
        run.history.append(report)
        yield report


def _epoch(run: Run, epoch: int) -> Report:
    started = time.perf_counter()
    config = run.config
    steps = config.steps_per_epoch or 1
    monitor, images_seen = take_steps(run, epoch)
    run.ema.copy_buffers()
    metrics = monitor.metrics() | _validate(run)
    seconds = time.perf_counter() - started
    metrics["lr"] = learning_rate(config.lr, epoch * steps - 1, config.total_steps)
    metrics["time/epoch_seconds"] = seconds
    metrics["images_per_second"] = images_seen / seconds
    return Report(
        epoch=epoch,
        ssl_epoch=_ssl_epoch(run, epoch),
        metrics=metrics,
        classes=monitor.classes(),
        time_ms=time.time_ns() // 1_000_000,
    )


def _ssl_epoch(run: Run, epoch: int) -> int | None:
    """The epoch's number after the warm-up, from 1; None during it."""
    warmup = run.config.warmup_epochs or 0 if run.method.has_warmup else 0
    return epoch - warmup if epoch > warmup else None


def take_steps(run: Run, epoch: int) -> tuple[EpochMonitor, int]:
    """The training of an epoch, from 1, without the evaluation at its end.

    Returns:
        What was watched, and how many images the steps trained on, each view counted.

    Raises:
        NonFiniteError: where a loss or gradient is not finite.
    """
    config, ssl_epoch = run.config, _ssl_epoch(run, epoch)
    steps = config.steps_per_epoch or 1
    monitor = EpochMonitor(run.labels, run.labelled, run.setup.num_classes)
    guard = finite_guard(run, epoch)
    run.network.train()
    images_seen = 0
    for step_in_epoch in range(steps):
        progress = Progress(
            step=(epoch - 1) * steps + step_in_epoch,
            total_steps=config.total_steps,
            step_in_epoch=step_in_epoch,
            epoch=epoch,
            ssl_epoch=ssl_epoch or 0,
        )
        if ssl_epoch is not None and step_in_epoch == 0:
            _start_epoch(run, progress, monitor)
        batch, output = train_step(run, progress, guard)
        monitor.add(output)
        images_seen += len(batch.labels) + len(batch.indices) * len(batch.views)
    guard.read()
    return monitor, images_seen


def train_step(run: Run, progress: Progress, guard: FiniteGuard) -> tuple[Batch, LossOutput]:
    """One step, as an epoch is made of them: a batch drawn, and the update that it gives.

    Raises:
        NonFiniteError: before the update, where the guard reads verdicts at once.
    """
    run.begin_step()
    batch = _batch(run, progress)
    return batch, _step(run, batch, progress, guard)


def _start_epoch(run: Run, progress: Progress, monitor: EpochMonitor) -> None:
    """Let the method relabel the images without a label (validation images are not among them)."""

    def predict(indices: torch.Tensor) -> torch.Tensor:
        return run.evaluated_in_batches(run.images, indices).softmax(dim=1)

    pool = run.unlabelled[~torch.isin(run.unlabelled, run.labelled)]
    relabel = Relabel(pool=pool, predict=predict, progress=progress)
    run.method_state, pseudo = run.method.start_epoch(run.config.parameters, run.method_state, relabel)
    if pseudo is not None:
        monitor.add_pseudo_labels(pseudo)


def _batch(run: Run, progress: Progress) -> Batch:
    config, setup = run.config, run.setup
    chosen = run.to_device(run.labelled[run.labelled_order.batch(progress.step, setup.batch_size)])
    # Labelled and unlabelled views have augmentation streams of their own, so that a step's labelled view is
    # the same whatever the method draws besides.
    labelled = run.normalise(_weak_pixels(run, chosen, progress.step, 0))
    labels = run.labels[chosen]
    names = run.method.unlabelled_views if progress.ssl_epoch else ()
    if not names:
        return Batch(labelled=labelled, labels=labels, indices=chosen[:0])
    drawn = run.method.draw(config.parameters, run.method_state, setup, progress, config.seed)
    if drawn is None:
        size = setup.mu * setup.batch_size
        indices, targets = run.unlabelled[run.unlabelled_order.batch(progress.step, size)], None
    else:
        indices, targets = drawn.indices, run.to_device(drawn.targets)
    indices = run.to_device(indices)
    views, geometry = unlabelled_views(run, indices, progress.step, names)
    return Batch(
        labelled=labelled, labels=labels, indices=indices, views=views, targets=targets, geometry=geometry
    )


def unlabelled_views(
    run: Run, indices: torch.Tensor, step: int, names: tuple[str, ...]
) -> tuple[dict[str, torch.Tensor], Geometry | None]:
    """The views of a step by name, each (n, 3, H, W), and where the strong one's pixels come from."""
    pixels, geometry = {"weak": _weak_pixels(run, indices, step, 1)}, None
    if "strong" in names:
        shared = run.method.shares_crop(run.config.parameters)
        base = pixels["weak"] if shared else _weak_pixels(run, indices, step, 2)
        stream = generator(run.config.seed, "augmentation", step, 3, device=run.device)
        pixels["strong"], geometry = strong_view(base, stream, run.apply_strong)
    return {name: run.normalise(pixels[name]) for name in names}, geometry


def _weak_pixels(run: Run, indices: torch.Tensor, step: int, place: int) -> torch.Tensor:
    stream = generator(run.config.seed, "augmentation", step, place, device=run.device)
    return augment.weak_view(run.images, indices, flip=run.data.flip, generator=stream)


def _step(run: Run, batch: Batch, progress: Progress, guard: FiniteGuard) -> LossOutput:
    """One update, unless the loss or a gradient is not finite."""
    config = run.config
    lr = learning_rate(config.lr, progress.step, config.total_steps)
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    run.optimizer.zero_grad(set_to_none=True)
    method = run.method if progress.ssl_epoch else SUPERVISED
    noise = generator(config.seed, "noise", progress.step, device=run.device)
    output = method.compute_loss(config.parameters, run.forward, batch, run.method_state, progress, noise)
    output.total.backward()  # type: ignore[no-untyped-call]
    guard.watch(output, progress.step)
    run.optimizer.found_inf = guard.found_inf  # type: ignore[attr-defined]
    run.optimizer.step()
    run.ema.update(progress.step, guard.found_inf)
    run.method_state = output.state
    return output


def finite_guard(run: Run, epoch: int) -> FiniteGuard:
    """What watches the steps of an epoch."""
    where = (
        f"(epoch {epoch}) of method {run.method.name} with lr={run.config.lr:g} and {run.config.parameters!r}"
    )
    return FiniteGuard(list(run.network.parameters()), at_once=run.device.type == "cpu", where=where)


def _validate(run: Run) -> dict[str, float]:
    """Error (percent misclassified) and loss (nats) of the EMA model on the validation images."""
    valid = run.valid.to(run.device)
    logits, labels = run.evaluated_in_batches(run.images, valid), run.labels[valid]
    wrong = (logits.argmax(dim=1) != labels).sum()
    loss = losses.cross_entropy(logits, labels).mean()
    if not bool(torch.isfinite(loss)):  # the last update of the epoch may have overflowed
        raise NonFiniteError(
            f"val/loss is not finite after epoch {run.epoch + 1} with {run.config.parameters!r}"
        )
    return {"val/error": 100 * int(wrong) / len(labels), "val/loss": float(loss)}


class _frozen_statistics:  # noqa: N801 - a context manager, used like a function
    """These BatchNorm layers keep using batch statistics but leave their running ones alone."""

    def __init__(self, layers: list[torch.nn.BatchNorm2d]) -> None:
        self.layers = layers

    def __enter__(self) -> None:
        for layer in self.layers:
            layer.track_running_stats = False

    def __exit__(self, *_: object) -> None:
        for layer in self.layers:
            layer.track_running_stats = True


def _fields(state: Any) -> dict[str, Any]:
    assert is_dataclass(state)
    return {name: getattr(state, name) for name in state.__dataclass_fields__}


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Keys in which two resolved configurations, as documents, are those of different runs."""
    # A run that was stopped early may be carried further: where it stops is not part of what it is.
    ignored = {"stop_after_epoch"}
    one, other = _with_new_fields(one), _with_new_fields(other)
    return sorted(k for k in one.keys() | other.keys() if k not in ignored and one.get(k) != other.get(k))


def _with_new_fields(document: dict[str, Any]) -> dict[str, Any]:
    """A document that an earlier version wrote, with the fields added since at their defaults."""
    try:
        return from_document(document).document()
    except ConfigError:  # of a later version, or of another method's file
        return document
