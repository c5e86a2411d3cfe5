"""The recipe to compare with: semi-supervised training as it is usually written with PyTorch and torchvision.

It is written anew after the most used ports: kekmodel/FixMatch-pytorch (train.py, dataset/, models/ema.py) and
lyakaap/VAT-pytorch (vat.py). Tensors are float32 and contiguous. Each image goes through PIL and torchvision transforms
in the workers of a DataLoader. SGD is torch's in its default form, the average is a loop over the entries of the state,
and losses are read every step. Only the network is this project's (kekmodel's WideResNet computes the same), so that
both train the same network.

B: labelled images of a step, U = mu * B unlabelled ones, C classes.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, RandomSampler

from benchmarks.plain_views import PlainViews
from benchmarks.setting import Cell, config_of, data_of
from ssl_core.data.datasets import Dataset as Images
from ssl_core.methods.vat import EPS_SHARE
from ssl_core.networks.registry import build_network
from ssl_core.registry import method_of

TAU, LAMBDA_U = 0.95, 1.0
EVAL_BATCH = 500


class PlainDataset(Dataset[Any]):
    """Some of the images, each with its label, after a transform."""

    def __init__(
        self, data: Images, indices: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], transform: Any
    ) -> None:
        self.images, self.indices, self.labels, self.transform = data.images, indices, labels, transform

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> tuple[Any, int]:
        image = Image.fromarray(self.images[self.indices[place]])
        return self.transform(image), int(self.labels[place])


# --- Losses: network, labelled images and labels, unlabelled images (a pair for two views) and their targets.
Loss = Callable[[nn.Module, Tensor, Tensor, Any, Tensor | None], Tensor]


def supervised_loss(network: nn.Module, x: Tensor, y: Tensor, u: Any, targets: Tensor | None) -> Tensor:
    """Cross-entropy on labelled images."""
    return functional.cross_entropy(network(x).logits, y)


def pseudo_label_loss(network: nn.Module, x: Tensor, y: Tensor, u: Any, targets: Tensor | None) -> Tensor:
    """Cross-entropy on labelled images and pseudo-labels, in one pass."""
    assert targets is not None
    return functional.cross_entropy(network(torch.cat([x, u])).logits, torch.cat([y, targets]))


def fixmatch_loss(network: nn.Module, x: Tensor, y: Tensor, u: Any, targets: Tensor | None) -> Tensor:
    """Also flexmatch's, whose thresholds cost next to nothing, and attention_fixmatch's: then there is a head."""
    weak, strong = u
    output = network(torch.cat([x, weak, strong]))
    logits_x, logits_weak, logits_strong = output.logits.split([len(x), len(weak), len(strong)])
    confidence, predicted = torch.softmax(logits_weak.detach(), dim=-1).max(dim=-1)
    mask = confidence.ge(TAU).float()
    loss = functional.cross_entropy(logits_x, y)
    loss = (
        loss + LAMBDA_U * (functional.cross_entropy(logits_strong, predicted, reduction="none") * mask).mean()
    )
    if output.head is not None:
        _, on_weak, on_strong = (
            part.sum(1).flatten(1) for part in output.head.split([len(x), len(weak), len(strong)])
        )
        log_strong = functional.log_softmax(on_strong, dim=1)
        apart = functional.kl_div(log_strong, on_weak.detach().softmax(dim=1), reduction="none").sum(dim=1)
        loss = loss + (apart * mask).mean()
    return loss


def _unit(d: Tensor) -> Tensor:
    return d / (d.view(len(d), -1).norm(dim=1).view(-1, 1, 1, 1) + 1e-8)


@contextmanager
def _untracked(network: nn.Module) -> Iterator[None]:
    layers = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for layer in layers:
        layer.track_running_stats = False
    yield
    for layer in layers:
        layer.track_running_stats = True


def vat_loss(xi: float, eps: float | None, iterations: int) -> Loss:
    """Virtual adversarial training; xi and eps are L2 norms of an image, no iteration is a random direction.

    Without eps, that of the method's default: a share of the norm of images of this size.
    """

    def loss(network: nn.Module, x: Tensor, y: Tensor, u: Any, targets: Tensor | None) -> Tensor:
        with _untracked(network):
            with torch.no_grad():
                prediction = functional.softmax(network(u).logits, dim=1)
            d = _unit(torch.rand_like(u) - 0.5)
            length = EPS_SHARE * math.sqrt(u[0].numel()) if eps is None else eps
            for _ in range(iterations):
                d.requires_grad_()
                log_moved = functional.log_softmax(network(u + xi * d).logits, dim=1)
                # As it is written: gradients of all weights come along, and are thrown away.
                functional.kl_div(log_moved, prediction, reduction="batchmean").backward()  # type: ignore[no-untyped-call]
                assert d.grad is not None
                d = _unit(d.grad)
                network.zero_grad()
            log_moved = functional.log_softmax(network(u + length * d.detach()).logits, dim=1)
            lds = functional.kl_div(log_moved, prediction, reduction="batchmean")
        return functional.cross_entropy(network(x).logits, y) + lds

    return loss


def entropy_loss(network: nn.Module, x: Tensor, y: Tensor, u: Any, targets: Tensor | None) -> Tensor:
    """Cross-entropy on labelled images, entropy on the others."""
    with _untracked(network):
        log_p = functional.log_softmax(network(u).logits, dim=1)
    return functional.cross_entropy(network(x).logits, y) - (log_p.exp() * log_p).sum(dim=1).mean()


METHODS = (
    "supervised",
    "entropy_minimisation",
    "pseudo_label",
    "random_perturbation",
    "vat",
    "fixmatch",
    "flexmatch",
    "attention_fixmatch",
)
"""The methods that this file has a plain recipe of. The last two are FixMatch here, without what they add."""


def loss_of(method: str, parameters: Any) -> Loss:
    """The loss of a method, whose own parameters are those of the configuration."""
    if method == "vat":
        return vat_loss(parameters.xi, parameters.eps, parameters.iterations)
    if method == "random_perturbation":
        return vat_loss(1.0, parameters.eps, 0)
    by_name: dict[str, Loss] = {
        "supervised": supervised_loss,
        "pseudo_label": pseudo_label_loss,
        "entropy_minimisation": entropy_loss,
    }
    return by_name.get(method, fixmatch_loss)


# --- The loop.


class PlainEMA:
    """An average of the weights, entry by entry of the state."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval()
        self.decay = decay
        self.averaged = [name for name, _ in network.named_parameters()]
        self.copied = [name for name, _ in network.named_buffers()]

    def update(self, network: nn.Module) -> None:
        """Take in the weights after a step."""
        with torch.no_grad():
            new, own = network.state_dict(), self.network.state_dict()
            for name in self.averaged:
                own[name].copy_(own[name] * self.decay + (1.0 - self.decay) * new[name])
            for name in self.copied:
                own[name].copy_(new[name])


def plain_optimizer(network: torch.nn.Module) -> torch.optim.SGD:
    """SGD as stock recipes have it: Nesterov, weight decay 5e-4 on all but BatchNorm and biases."""
    decayed = [p for n, p in network.named_parameters() if "bn" not in n and "bias" not in n]
    others = [p for n, p in network.named_parameters() if "bn" in n or "bias" in n]
    groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=0.03, momentum=0.9, nesterov=True)


class PlainRecipe:
    """Trains the cell as people write it; a contender of `benchmarks.train_step`."""

    def __init__(self, cell: Cell) -> None:
        torch.set_num_threads(cell.threads)
        self.cell, (self.data, self.split) = cell, data_of(cell)
        config = config_of(cell, self.data)
        self.method = method_of(config)
        head = partial(self.method.head, config.parameters)
        network = build_network(cell.network, self.data.num_classes, bn_momentum=0.001, seed=0, head=head)
        self.network = network.to(cell.device, memory_format=torch.contiguous_format)
        self.ema = PlainEMA(self.network, 0.999)
        self.optimizer = plain_optimizer(self.network)
        self.loss = loss_of(cell.method, config.parameters)
        self.views = PlainViews(cell.side, self.data.mean, self.data.std)
        repeats = -(-cell.steps * cell.batch_size // len(self.split.labelled))
        self.labelled = self._dataset(np.tile(self.split.labelled, repeats), None, self.views.weak)
        strong = "strong" in self.method.unlabelled_views
        pool = np.setdiff1d(self.split.unlabelled, self.split.labelled)
        self.unlabelled = self._dataset(pool, None, self.views.both if strong else self.views.weak)

    def slice(self) -> tuple[int, float]:
        """Train for `cell.steps`; returns images trained on, each view counted, and seconds.

        The clock stands still while workers start and their first batches come: a real epoch has a hundred steps
        for which that is paid once.
        """
        cell, seconds = self.cell, 0.0
        unlabelled: Any = self.unlabelled
        if self.method.relabels:
            unlabelled, seconds = self._relabelled()
        batches = [_under_way(self._loader(self.labelled, cell.batch_size))]
        if self.method.unlabelled_views:
            batches.append(_under_way(self._loader(unlabelled, cell.unlabelled)))
        began = time.perf_counter()
        images = sum(self._step(*(next(each) for each in batches)) for _ in range(cell.steps))
        self._wait()
        return images, seconds + time.perf_counter() - began

    def _step(self, labelled: Any, unlabelled: Any = (None, None)) -> int:
        (x, y), (u, targets) = labelled, unlabelled
        device = self.cell.device
        x, y = x.to(device), y.to(device)
        if isinstance(u, list):
            u = [view.to(device) for view in u]
        elif u is not None:
            u, targets = u.to(device), targets.to(device)
        loss = self.loss(self.network, x, y, u, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.ema.update(self.network)
        self.network.zero_grad()
        assert np.isfinite(loss.item())
        return len(x) + (sum(map(len, u)) if isinstance(u, list) else 0 if u is None else len(u))

    def _relabelled(self) -> tuple[Dataset[Any], float]:
        """The unlabelled images with the average's predictions as their labels, and how long that took."""
        pool = self.unlabelled.indices
        batches = _under_way(
            DataLoader(self._dataset(pool, None, self.views.clean), EVAL_BATCH, num_workers=self.cell.workers)
        )
        began, predicted = time.perf_counter(), list[Tensor]()
        with torch.no_grad():
            for images, _ in batches:
                logits = self.ema.network(images.to(self.cell.device)).logits
                predicted.append(logits.softmax(dim=1).max(dim=1).indices.cpu())
        seconds = time.perf_counter() - began
        return self._dataset(pool, torch.cat(predicted).numpy(), self.views.weak), seconds

    def _dataset(self, indices: Any, labels: Any, transform: Any) -> PlainDataset:
        return PlainDataset(
            self.data, indices, self.data.labels[indices] if labels is None else labels, transform
        )

    def _loader(self, images: Dataset[Any], size: int) -> DataLoader[Any]:
        return DataLoader(
            images,
            batch_size=size,
            sampler=RandomSampler(images),  # type: ignore[arg-type]
            num_workers=self.cell.workers,
            drop_last=True,
            pin_memory=self.cell.device == "cuda",
        )

    def _wait(self) -> None:
        if self.cell.device == "cuda":
            torch.cuda.synchronize()


def _under_way(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's batches, the first of them there already."""
    batches = iter(loader)
    first = next(batches)

    def going_on() -> Iterator[Any]:
        yield first
        yield from batches

    return going_on()
