"""A study as people wire it today: what benchmarks/stock_study.py compares with.

Ray Tune with OptunaSearch, ASHA and Ray's own MLflow callback, around the plain recipe: pseudo-labelling with PIL and
torchvision transforms in the workers of DataLoaders, in float32. The parts of the recipe are those of
benchmarks/plain_recipe.py. The images lie decoded in one file, as torchvision's CIFAR-10 holds them. A checkpoint is
written after every epoch.

    python -m benchmarks.stock_wiring PLAN.json     # the fields of `Plan`; writes `Plan.out`

Nothing of the service is used here (`tune`).
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from benchmarks.plain_recipe import EVAL_BATCH, PlainEMA, plain_optimizer, pseudo_label_loss
from benchmarks.plain_views import PlainViews
from ssl_core.networks.registry import build_network


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the study is to do.

    Attributes:
        images: .npz with images (N, H, W, 3) uint8, labels (N,), the indices labelled, pool and valid, mean and std.
        folder: where Ray and MLflow write.
        out: where the result is written as JSON.
        network: by this project's name.
        classes: C.
        thresholds: one a trial.
        epochs, warmup, steps: of a trial; the first `warmup` epochs train on labelled images alone.
        batch_size, mu: labelled images of a step, and at most so many times as many pseudo-labelled ones.
        concurrent: trials side by side, a core each.
        workers: processes of each loader.
    """

    images: str
    folder: str
    out: str
    network: str
    classes: int
    thresholds: tuple[float, ...]
    epochs: int
    warmup: int
    steps: int
    batch_size: int
    mu: int
    concurrent: int
    workers: int


class Images(Dataset[Any]):
    """Images by index, each with its label, after a transform of its PIL image."""

    def __init__(self, images: npt.NDArray[np.uint8], indices: Any, labels: Any, transform: Any) -> None:
        self.images, self.indices, self.labels, self.transform = images, indices, labels, transform

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> tuple[Any, int]:
        from PIL import Image

        image = Image.fromarray(self.images[self.indices[place]])
        return self.transform(image), int(self.labels[place])


class Training:
    """One trial's training.

    Args:
        plan: of the study.
        threshold: confidence above which a prediction is accepted.
    """

    def __init__(self, plan: Plan, threshold: float) -> None:
        self.plan, self.threshold = plan, threshold
        with np.load(plan.images) as file:
            self.data = {name: file[name] for name in file.files}
        side = self.data["images"].shape[1]
        self.views = PlainViews(side, self.data["mean"].tolist(), self.data["std"].tolist())
        network = build_network(plan.network, plan.classes, bn_momentum=0.001, seed=0, image_size=side)
        self.network = network.to(memory_format=torch.contiguous_format)
        self.ema = PlainEMA(self.network, 0.999)
        self.optimizer = plain_optimizer(self.network)

    def epoch(self, number: int) -> dict[str, float]:
        """Train an epoch, from 1; its metrics."""
        began, plan = time.perf_counter(), self.plan
        labelled = self._images("labelled", self.views.weak)
        batches, accepted, losses = [self._batches(labelled, plan.batch_size)], 0, list[float]()
        if number > plan.warmup:
            pseudo = self._pseudo_labelled()
            accepted = len(pseudo)
            size = min(plan.mu * plan.batch_size, round(plan.batch_size * accepted / len(labelled)))
            if size:
                batches.append(self._batches(pseudo, size))
        self.network.train()
        seen = 0
        for parts in zip(*batches, strict=True):
            x, y = parts[0]
            u, targets = parts[1] if len(parts) == 2 else (x[:0], y[:0])
            loss = pseudo_label_loss(self.network, x, y, u, targets)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.ema.update(self.network)
            self.optimizer.zero_grad()
            losses.append(loss.item())
            seen += len(x) + len(u)
        predicted, right = self._predictions(self._images("valid", self.views.clean))
        wrong = 100.0 * float((predicted.argmax(dim=1) != right).float().mean())
        return {
            "val_error": wrong,
            "train_loss": float(np.mean(losses)),
            "accepted": float(accepted),
            "images": float(seen),
            "seconds": time.perf_counter() - began,
        }

    def _pseudo_labelled(self) -> Images:
        """The images that the average is sure of, with its predictions."""
        probabilities, _ = self._predictions(self._images("pool", self.views.clean))
        confidence, predicted = probabilities.max(dim=1)
        sure = (confidence > self.threshold).numpy()
        return Images(self.data["images"], self.data["pool"][sure], predicted.numpy()[sure], self.views.weak)

    def _predictions(self, images: Images) -> tuple[Tensor, Tensor]:
        """Class probabilities of the average (n, C), and labels (n,)."""
        found, labels = list[Tensor](), list[Tensor]()
        self.ema.network.eval()
        with torch.no_grad():
            for x, y in DataLoader(images, EVAL_BATCH, num_workers=self.plan.workers):
                found.append(self.ema.network(x).logits.softmax(dim=1))
                labels.append(y)
        return torch.cat(found), torch.cat(labels)

    def _images(self, part: str, transform: Any) -> Images:
        indices = self.data[part]
        return Images(self.data["images"], indices, self.data["labels"][indices], transform)

    def _batches(self, images: Images, size: int) -> Iterator[Any]:
        """As many batches as an epoch has steps; an image comes again once the draws need more than there are."""
        wanted = size * self.plan.steps
        sampler: Any = RandomSampler(images, replacement=wanted > len(images), num_samples=wanted)
        return iter(DataLoader(images, size, sampler=sampler, num_workers=self.plan.workers, drop_last=True))


def train(config: dict[str, Any], plan: Plan) -> None:
    """A trial, as Ray Tune calls it."""
    import ray.tune

    torch.set_num_threads(1)
    training = Training(plan, config["threshold"])
    for number in range(1, plan.epochs + 1):
        metrics = training.epoch(number)
        with tempfile.TemporaryDirectory() as folder:
            state = {
                "network": training.network.state_dict(),
                "ema": training.ema.network.state_dict(),
                "optimizer": training.optimizer.state_dict(),
            }
            torch.save(state, Path(folder) / "checkpoint.pt")
            ray.tune.report(metrics, checkpoint=ray.tune.Checkpoint.from_directory(folder))


def study(plan: Plan) -> list[dict[str, Any]]:
    """Run the study; of each trial its threshold, how many epochs and images it trained, and its error in percent."""
    import ray
    import ray.tune
    from optuna.distributions import FloatDistribution
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    ray.init(num_cpus=plan.concurrent, include_dashboard=False, log_to_driver=False)
    low, high = min(plan.thresholds), max(plan.thresholds)
    searcher = OptunaSearch(
        {"threshold": FloatDistribution(low, high)},
        metric="val_error",
        mode="min",
        points_to_evaluate=[{"threshold": value} for value in plan.thresholds],
        seed=0,
    )
    trainable = ray.tune.with_resources(ray.tune.with_parameters(train, plan=plan), {"cpu": 1})
    tuner = ray.tune.Tuner(
        trainable,
        tune_config=ray.tune.TuneConfig(
            search_alg=ConcurrencyLimiter(searcher, plan.concurrent),
            # A trial is judged at its end alone, so that all trials have the same epochs.
            scheduler=ASHAScheduler(max_t=plan.epochs, grace_period=plan.epochs),
            metric="val_error",
            mode="min",
            num_samples=len(plan.thresholds),
        ),
        run_config=ray.tune.RunConfig(
            name="study",
            storage_path=str(Path(plan.folder, "ray").resolve()),
            callbacks=[MLflowLoggerCallback(f"sqlite:///{plan.folder}/mlflow.db", experiment_name="stock")],
        ),
    )
    results = tuner.fit()
    frame = [result for result in results if result.metrics and not result.error]
    found = [
        {
            "threshold": result.config["threshold"],
            "epochs": result.metrics["training_iteration"],
            "val_error": result.metrics["val_error"],
            "images": int(result.metrics_dataframe["images"].sum()),
            "seconds": result.metrics_dataframe["seconds"].tolist(),
        }
        for result in frame
    ]
    ray.shutdown()
    return found


def main(arguments: list[str]) -> None:
    """See the head of this file."""
    (place,) = arguments
    document = json.loads(Path(place).read_text())
    plan = Plan(**{**document, "thresholds": tuple(document["thresholds"])})
    Path(plan.out).write_text(json.dumps({"plan": asdict(plan), "trials": study(plan)}, indent=1))


if __name__ == "__main__":
    # By its own name: Ray pickles what __main__ defines by value, and torch's operators cannot be pickled so.
    from benchmarks import stock_wiring

    stock_wiring.main(sys.argv[1:])
