"""What the training-speed benchmarks run on: a cell of their tables, and generated images of CIFAR-10's size.

Speed depends on the size and number of the images, hardly on what they show. Generated images, as smooth as
photographs, need no download. An epoch is a slice of a measurement. It passes once over the unlabelled images, as a
real epoch does, so the relabelling of a method that relabels them is part of every slice.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ssl_core.config import from_document, resolve
from ssl_core.data.datasets import Dataset, DatasetInfo, Split, draw_split
from ssl_core.schema import RunConfig
from ssl_core.system.environment import choose_device

CLASSES, LABELS_PER_CLASS, VALID_PER_CLASS = 10, 1, 1
SCHEDULE_EPOCHS = 10_000  # far more than are run: the learning rate stays where a run begins

PARAMETERS: dict[str, dict[str, Any]] = {
    # Every image is accepted: the most that a step may use, and always the same.
    "pseudo_label": {"threshold": 1e-6},
    "vat": {"iterations": 1},  # Miyato et al. 2018; the report's five are five times the same pass
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row of the table.

    Attributes:
        method, network: as a configuration names them.
        batch_size, mu: labelled images of a step, and unlabelled ones in multiples of them.
        steps: of a slice.
        threads: processor threads of each contender.
        workers: processes of each of the plain recipe's loaders.
        device, precision, compile: as a configuration names them, resolved.
        side: of the images, in pixels.
        parameters: of the method, where they are not its defaults.
    """

    method: str
    network: str
    batch_size: int = 64
    mu: int = 7
    steps: int = 4
    threads: int = 1
    workers: int = 2
    device: str = "cpu"
    precision: str = "float32"
    compile: str | bool = False
    side: int = 32
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def unlabelled(self) -> int:
        """Unlabelled images of a step."""
        return self.mu * self.batch_size

    @property
    def pool(self) -> int:
        """Unlabelled images of a slice, which passes over each once."""
        return self.steps * self.unlabelled


def cell_of(**fields: Any) -> Cell:
    """A cell with the parameters that the benchmarks give its method; device, precision and compile chosen.

    Raises:
        ConfigError: a device, a precision or a compiler that this machine lacks.
    """
    cell = Cell(**{"parameters": PARAMETERS.get(fields["method"], {}), **fields})
    chosen = choose_device(from_document(_document(cell)))
    return Cell(
        **{**vars(cell), **{name: getattr(chosen, name) for name in ("device", "precision", "compile")}}
    )


def config_of(cell: Cell, data: Dataset) -> RunConfig:
    """The run of a cell, resolved; no warm-up, and one epoch is one slice."""
    counts = tuple(np.bincount(data.labels, minlength=CLASSES).tolist())
    info = DatasetInfo(data.name, data.classes, counts, cell.side, cell.network, None, data.flip)
    return resolve(from_document(_document(cell)), info)


def _document(cell: Cell) -> dict[str, Any]:
    document: dict[str, Any] = {
        "method": cell.method,
        "dataset": "made-up",
        "labels": CLASSES * LABELS_PER_CLASS,
        "network": cell.network,
        "epochs": SCHEDULE_EPOCHS,
        "steps_per_epoch": cell.steps,
        "warmup_epochs": 0,
        "batch_size": cell.batch_size,
        "mu": cell.mu,
        "device": cell.device,
        "precision": cell.precision,
        "compile": cell.compile,
        "threads": cell.threads,
        "data": {"valid": CLASSES * VALID_PER_CLASS},
    }
    return document | ({cell.method: cell.parameters} if cell.parameters else {})


def data_of(cell: Cell) -> tuple[Dataset, Split]:
    """The images of a cell, and which are labelled: `cell.pool` unlabelled ones that bear no label, and the others."""
    # Classes are even, so the pool is rounded up; where it is more than a slice uses, an epoch leaves some out.
    per_class = -(-cell.pool // CLASSES) + LABELS_PER_CLASS + VALID_PER_CLASS
    data = made_up(per_class, cell.side)
    split = draw_split(
        data.labels,
        CLASSES,
        labelled=CLASSES * LABELS_PER_CLASS,
        valid=CLASSES * VALID_PER_CLASS,
        split_seed=0,
        label_seed=0,
        fingerprint=data.fingerprint,
    )
    return data, split


@cache
def made_up(per_class: int, side: int) -> Dataset:
    """Images of smooth random colours with some grain."""
    random = np.random.default_rng(0)
    count, coarse = per_class * CLASSES, side // 4
    patches = random.integers(0, 256, (count, coarse, coarse, 3), dtype=np.int16)
    grain = random.integers(-24, 25, (count, side, side, 3), dtype=np.int16)
    smooth = patches.repeat(4, axis=1).repeat(4, axis=2)
    images: npt.NDArray[np.uint8] = np.clip(smooth + grain, 0, 255).astype(np.uint8)
    labels = np.repeat(np.arange(CLASSES, dtype=np.int64), per_class)
    names = tuple("abcdefghij")
    digest = hashlib.sha256(images.tobytes()).hexdigest()
    return Dataset("made-up", images, labels, names, digest, (0.5,) * 3, (0.25,) * 3, flip=True)
