"""The images of a study that have no label, or whose label is hidden: those that a model can give one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core.config import options_of
from ssl_core.system.errors import ConfigError
from tune.findings.study import Study
from tune.images.study import read_images
from tune.store.home import Home


@dataclass(frozen=True)
class Unlabelled:
    """Images without a label.

    Attributes:
        images: paths of files; of a data set that has none, its pixels.
        names: of images that are no files; None where they are.
    """

    images: Any
    names: list[str] | None


class _Picked(Sequence[Any]):
    """Some rows of an array that may be a map of a file: read when they are asked for."""

    def __init__(self, images: Any, rows: Any) -> None:
        self._images, self._rows = images, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: Any) -> Any:
        return self._images[self._rows[place]]


def unlabelled_of(study: Study, classes: Sequence[str], data_root: Path | None, home: Home) -> Unlabelled:
    """The images that the study's training takes without a label, its labelled ones aside.

    Args:
        study: the study.
        classes: of the model.
        data_root: where downloaded data lie; None: where the study found them.
        home: whose cache of decoded images is used.

    Raises:
        ConfigError: the model has other classes than the study; the images cannot be read; or there are none.
    """
    from ssl_core.data.datasets import listing_of
    from ssl_core.preparation import prepare  # loads torch

    config = study.spec.base_config()
    root = data_root or (Path(study.spec.data_root) if study.spec.data_root else None)
    images = read_images(study.folder.path)
    membership = None if images is None else images.membership
    _, data, split = prepare(config, data_root=root, cache=home.cache, membership=membership)
    check_classes(study, data.classes, classes)
    rows = np.setdiff1d(split.unlabelled, split.labelled)
    if not len(rows):
        raise ConfigError(f"the study {study.name!r} has no image without a label.")
    if data.rows is None:
        return Unlabelled(_Picked(data.images, rows), [str(row) for row in rows])
    listing = listing_of(config.dataset, options_of(config))
    if listing is None:  # its images come as arrays, its rows have names
        return Unlabelled(_Picked(data.images, rows), [data.rows.files[row] for row in rows])
    return Unlabelled([str(listing.root / data.rows.files[row]) for row in rows], None)


def check_classes(study: Study, those: Sequence[str], mine: Sequence[str]) -> None:
    """Refuse a model of other classes than a study's.

    Raises:
        ConfigError: they differ; the message names some that do.
    """
    if list(those) == list(mine):
        return
    lacks = [f"the model lacks {name!r}" for name in those if name not in mine]
    more = [f"the study lacks {name!r}" for name in mine if name not in those]
    what = "; ".join([*lacks[:3], *more[:3]]) or "their order differs"
    raise ConfigError(
        f"the model has other classes than the study {study.name!r}: {what}. Take a model of this study: "
        f"`{study.folder.command('export', '--model', 'DIR')}`."
    )
