"""A method's picture as arrays: what the trained method does with some validation images.

Validation images are never trained on, so the network treats them like new images. They are taken class by class. Noise
and views come from the run's random streams at the step after the last, so a run always gives the same picture, and
making it changes nothing in the run. `tune.figures` draws it.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ssl_core.methods.base import Forward, Scene, counted_views
from ssl_core.networks.base import NetworkOutput
from ssl_core.pictures.file import FILE_NAME, Picture, save
from ssl_core.training.rng import generator
from ssl_core.training.run import Run
from ssl_core.training.step import unlabelled_views

IMAGES = 8
"""Images of a picture."""


def picture_of(run: Run, images: int = IMAGES) -> Picture | None:
    """The method's picture of a run in its present state; None where the method shows nothing.

    Args:
        run: trained, or not.
        images: how many validation images at most.
    """
    chosen = one_of_each_class(run, images).to(run.device)
    pixels, labels = run.pixels(chosen), run.labels[chosen]
    after_training = run.config.total_steps
    counts = counted_views(run.method, run.config.parameters)
    with torch.no_grad():
        views, geometry = unlabelled_views(run, run.fetch(chosen), after_training, counts)
        scene = Scene(
            forward=_evaluated(run),
            images=run.normalise(pixels),
            views=views,
            geometry=geometry,
            pixels=lambda normalised: shown(normalised, run.data.mean, run.data.std),
            says=lambda logits: said(logits, labels, run.data.classes),
            generator=generator(run.config.seed, "noise", after_training, device=run.device),
        )
        panels = run.method.picture(run.config.parameters, scene)
    truth = tuple(run.data.classes[label] for label in labels.tolist())
    return Picture(run.method.name, run.epoch, truth, panels) if panels else None


def keep(folder: Path, run: Run) -> None:
    """Write a run's picture into a folder, if its method shows one and it is not there yet.

    A refit has no validation images, and no picture.

    A picture that cannot be made does not stop the run: the reason is written to ``picture-error.txt``, with a warning.
    """
    path = folder / FILE_NAME
    if path.exists() or run.config.refit:
        return
    try:
        picture = picture_of(run)
        if picture is not None:
            save(path, picture)
    except Exception:  # a user's own method may raise anything; it is reported, and the run's result is kept
        folder.mkdir(parents=True, exist_ok=True)
        note = folder / "picture-error.txt"
        note.write_text(traceback.format_exc())
        warnings.warn(f"the method's picture could not be made: see {note}", UserWarning, stacklevel=2)


def one_of_each_class(run: Run, count: int) -> torch.Tensor:
    """Indices of validation images: the first of every class, then the second, ...; (at most count,) int64."""
    valid = run.split.valid
    labels = run.data.labels[valid]
    rank = np.zeros(len(valid), dtype=np.int64)
    for c in range(run.data.num_classes):
        rank[labels == c] = np.arange((labels == c).sum())
    return torch.from_numpy(valid[np.lexsort((labels, rank))][:count])


def shown(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> npt.NDArray[np.float32]:
    """Normalised images as pixels, 0 to 1 where they were pixels: (n, 3, H, W) to (n, H, W, 3)."""
    pixels = images.detach().permute(0, 2, 3, 1).float().cpu().numpy()
    return np.asarray(pixels * np.asarray(std, np.float32) + np.asarray(mean, np.float32), dtype=np.float32)


def said(
    logits: torch.Tensor, labels: torch.Tensor, classes: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    """Class and confidence of each prediction as text, and whether it is right."""
    confidence, predicted = logits.detach().float().softmax(dim=1).max(dim=1)
    pairs = zip(predicted.tolist(), confidence.tolist(), strict=True)
    return tuple(f"{classes[c]} {p:.2f}" for c, p in pairs), tuple((predicted == labels).tolist())


def _evaluated(run: Run) -> Forward:
    """The EMA network as a function for methods, always in full precision; it does not change."""

    def forward(
        images: torch.Tensor, *, update_statistics: bool = True, full_precision: bool = False
    ) -> NetworkOutput:
        output: NetworkOutput = run.ema.network(images)
        return output

    return forward
