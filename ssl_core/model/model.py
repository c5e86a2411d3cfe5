"""A model to use: labels with confidences for images, and the bare network.

Shapes: n images, S: side in pixels, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from ssl_core.model.card import Card
from ssl_core.model.folder import read_folder
from ssl_core.model.images import Chunk, decoded_arrays, decoded_files, find_files
from ssl_core.model.network import Classifier, configuration_of
from ssl_core.model.table import Predictions, table_of
from ssl_core.system import environment, memory
from ssl_core.system.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}
Progress = Callable[[int, int], None]


class Model:
    """A trained classifier. `load` makes one.

    Args:
        card: what is known of it.
        network: with its weights, in evaluation mode.
        device: "cpu" or "cuda".
        precision: of the forward pass.
        threads: processor threads while it predicts; None: torch's own setting.

    Attributes:
        card: ``model.json``.
        classes: names, in the order of the outputs.
        module: a `torch.nn.Module` from pixels (n, S, S, 3), uint8 or floating point from 0 to 255, to logits (n, C).
        network: the bare network within it, which takes normalised images (n, 3, S, S).
        batch_size: images of one pass, those of the training's own evaluation.
    """

    def __init__(
        self, card: Card, network: torch.nn.Module, device: str, precision: str, threads: int | None
    ) -> None:
        config = configuration_of(card.configuration)
        dtype = torch.float64 if precision == "float64" else torch.float32
        self.card, self.classes = card, tuple(card.classes)
        self.network = network.to(device=device, dtype=dtype)
        self.module = Classifier(self.network, card.image.mean, card.image.std).to(device).eval()
        self.batch_size = config.eval_batch_size
        self._device, self._precision, self._threads = device, precision, threads

    def predict(
        self,
        images: Any,
        *,
        top: int = 1,
        batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> pd.DataFrame:
        """Labels and confidences as a pandas table, a row for each image, in their order.

        Args:
            images: a path or several: files, and folders with the folders inside them. Or images in memory: an
                array (n, H, W, 3) of uint8, a PIL image, the bytes of an image file, or several of these.
            top: K, how many of the most likely classes.
            batch_size: images of one pass; None: those of the training's own evaluation.
            progress: called with the number of images done so far, and of all.

        Returns:
            Columns ``file`` (for images in memory their number), ``label``, ``confidence`` (calibrated),
            ``confidence_raw``, for K > 1 ``label_2``, ``confidence_2`` and so on, and ``error``: why an image cannot be
            read; its label is then missing.

        Raises:
            ConfigError: a path that does not exist, or something that is no image.
        """
        parts = self.stream(images, top=top, batch_size=batch_size, progress=progress)
        return table_of(list(parts), self.classes, top)

    def stream(
        self,
        images: Any,
        *,
        top: int = 1,
        batch_size: int | None = None,
        names: Sequence[str] | None = None,
        progress: Progress | None = None,
        seen: Callable[[Chunk, Predictions], None] | None = None,
    ) -> Iterator[Predictions]:
        """`predict` a chunk at a time: memory does not grow with the number of files.

        Args:
            images, top, batch_size, progress: as of `predict`.
            names: of images in memory; None: their numbers.
            seen: given the pixels of each chunk as well.

        Raises:
            ConfigError: as of `predict`, and a `top` or `batch_size` below 1.
        """
        top, size = min(top, len(self.classes)), batch_size or self.batch_size
        if top < 1 or size < 1:
            raise ConfigError(f"top = {top}, batch_size = {size}: both must be at least 1.")
        shape = self.card.image.shape()
        if (places := _places(images)) is not None:
            files = find_files(places).files
            total, chunks = len(files), decoded_files(files, shape, size)
        else:
            several = _several(images)
            total, chunks = len(several), decoded_arrays(several, shape, size, names)
        done = 0
        for chunk in chunks:
            found = self._predicted(chunk, top, size)
            done += len(chunk.names)
            if seen is not None:
                seen(chunk, found)
            yield found
            if progress is not None:
                progress(done, total)

    def logits(self, pixels: npt.NDArray[np.uint8], batch_size: int | None = None) -> torch.Tensor:
        """Logits (n, C) on the CPU, as the training's own evaluation computes them.

        Args:
            pixels: (n, S, S, 3) uint8, in the network's size.
            batch_size: images of one pass.
        """
        size = batch_size or self.batch_size
        doing = f"{size} images at once in {self.card.network.name}"
        explained = memory.explained(self._device, doing, f"Lower the batch size (now {size}).")
        parts = []
        with torch.inference_mode(), _threads(self._threads), explained, self._autocast():
            for start in range(0, len(pixels), size):
                batch = torch.tensor(pixels[start : start + size]).to(self._device)
                parts.append(self.module(batch))
        if not parts:
            return torch.empty(0, len(self.classes))
        found = torch.cat(parts)
        return (found if found.dtype == torch.float64 else found.float()).cpu()

    def _predicted(self, chunk: Chunk, top: int, size: int) -> Predictions:
        logits = self.logits(chunk.pixels, size)
        best = logits.topk(top, dim=1).indices
        if top:  # among equal logits the first class, as in training
            best[:, 0] = logits.argmax(dim=1) if len(logits) else best[:, 0]
        scaled = (logits.double() / self.card.temperature).softmax(dim=1)
        raw = logits.double().softmax(dim=1)
        return Predictions(
            chunk.names,
            best.numpy(),
            scaled.gather(1, best).numpy(),
            raw.gather(1, best[:, :1])[:, 0].numpy(),
            chunk.errors,
        )

    def _autocast(self) -> AbstractContextManager[Any]:
        stack = ExitStack()
        if self._device == "cuda":
            stack.enter_context(torch.backends.cudnn.flags(enabled=True, deterministic=True))
        dtype = _AUTOCAST.get(self._precision)
        stack.enter_context(nullcontext() if dtype is None else torch.autocast(self._device, dtype))
        return stack


def load(
    folder: Path | str, *, device: str = "auto", precision: str = "auto", threads: int | None = None
) -> Model:
    """Load a model; its weights are no pickle, and no code of it is run.

    Args:
        folder: of the model.
        device: "auto" (a GPU where there is one), "cpu" or "cuda".
        precision: of the forward pass; "auto": that of the training, or float32 where this machine lacks it.
        threads: processor threads while it predicts; None: those of the training, with which predictions are the same
            to the bit; 0: torch's own setting.

    Raises:
        ConfigError: no model there, a newer format, damaged, pickled or other weights; a device that this machine
        lacks.
    """
    card, network = read_folder(Path(folder).expanduser())
    config = configuration_of(card.configuration)
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device = {device!r}: auto, cpu or cuda is expected.")
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise ConfigError(
            "device = 'cuda': this machine has no CUDA GPU that PyTorch can use. Take cpu or auto."
        )
    place = ("cuda" if has_cuda else "cpu") if device == "auto" else device
    chosen = _precision_on(place, str(config.precision)) if precision == "auto" else precision
    if chosen not in ("float32", "float64", *_AUTOCAST):
        raise ConfigError(
            f"precision = {precision!r}: auto, float32, float64, bfloat16 or float16 is expected."
        )
    return Model(card, network, place, chosen, config.threads if threads is None else threads or None)


def _precision_on(device: str, wanted: str) -> str:
    """The training's precision, or float32 where this device has no arithmetic for it."""
    if wanted == "bfloat16":
        fast = (
            environment.has_fast_cuda_bfloat16() if device == "cuda" else environment.has_fast_cpu_bfloat16()
        )
        return wanted if fast else "float32"
    return wanted if wanted == "float64" or (wanted == "float16" and device == "cuda") else "float32"


def _places(images: Any) -> list[str | Path] | None:
    """Paths, where that is what was given; None: images in memory."""
    if isinstance(images, str | Path):
        return [images]
    if isinstance(images, list | tuple) and images and all(isinstance(one, str | Path) for one in images):
        return list(images)
    return None


def _several(images: Any) -> Any:
    """One image in memory as a list of one."""
    if isinstance(images, np.ndarray) and images.ndim == 3:
        return images[None]
    if hasattr(images, "getbands") or isinstance(images, bytes):  # a PIL image, or a file's bytes
        return [images]
    if not hasattr(images, "__len__") or isinstance(images, dict):
        raise ConfigError(
            f"{type(images).__name__}: images are paths, PIL images or an array (n, H, W, 3) of uint8, red, green "
            f"and blue."
        )
    return images


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """So many processor threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
