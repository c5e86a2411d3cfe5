"""What a study uses its images for: counts of each class, and hashes, kept in its folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_core.system.errors import ConfigError
from ssl_core.system.files import write_atomically
from tune.images.held_out import membership_of_document
from tune.store.layout import IMAGES_FILE

if TYPE_CHECKING:
    from ssl_core.data.datasets import Dataset, Split
    from ssl_core.data.splits.holdout import Membership


@dataclass(frozen=True)
class StudyImages:
    """What the images of a study are used for.

    Attributes:
        protocol: real (there are images without a label) or simulated (labels beyond the wanted number are hidden).
        classes: names, in the order of the labels.
        labelled, valid: images of each class.
        test: images of each class; None: not known without opening them.
        unlabelled: images that are trained on without a label, the labelled ones among them.
        hidden: those of them that have a label which is not used.
        held_out: the record of held-out test images (`Membership.document`); None: the data set brings its own.
        members: hashes (hex) of the labelled and validation images' pixels, by part and class, where they are files.
    """

    protocol: str
    classes: list[str]
    labelled: list[int]
    valid: list[int]
    test: list[int] | None
    unlabelled: int
    hidden: int
    held_out: dict[str, Any] | None = None
    members: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    @property
    def membership(self) -> Membership | None:
        """The record of held-out test images."""
        return membership_of_document(self.held_out)

    def by_class(self) -> list[dict[str, Any]]:
        """One row a class: name, labelled, valid and, where that is known, test."""
        rows: list[dict[str, Any]] = []
        for place, name in enumerate(self.classes):
            row = {"class": name, "labelled": self.labelled[place], "valid": self.valid[place]}
            rows.append(row if self.test is None else row | {"test": self.test[place]})
        return rows


def images_of(data: Dataset, split: Split, test_per_class: tuple[int, ...] | None) -> StudyImages:
    """What a split uses the images for.

    Args:
        data: the training images.
        split: of them.
        test_per_class: images of the data set's own test part; None: it has none, or it is not known.
    """
    import numpy as np

    labels = data.labels
    per_class = [
        np.bincount(labels[part], minlength=data.num_classes).tolist()
        for part in (split.labelled, split.valid)
    ]
    known = int((labels[split.unlabelled] >= 0).sum())
    held_out = data.facts.held_out if data.facts.membership is not None else None
    members = {}
    if data.rows is not None:
        for part, chosen in (("labelled", split.labelled), ("valid", split.valid)):
            by_class: dict[str, list[str]] = {}
            for index in chosen:
                by_class.setdefault(data.classes[labels[index]], []).append(
                    data.rows.hashes[index].tobytes().hex()
                )
            members[part] = {name: sorted(hashes) for name, hashes in by_class.items()}
    return StudyImages(
        protocol=data.protocol,
        classes=list(data.classes),
        labelled=per_class[0],
        valid=per_class[1],
        test=held_out or (None if test_per_class is None else list(test_per_class)),
        unlabelled=len(split.unlabelled),
        hidden=known - len(np.intersect1d(split.labelled, split.unlabelled)),
        held_out=data.facts.membership,
        members=members,
    )


def write_images(folder: Path, images: StudyImages) -> None:
    """Keep what a study's images are used for in its folder."""
    write_atomically(folder / IMAGES_FILE, json.dumps(asdict(images)).encode())


def read_images(folder: Path) -> StudyImages | None:
    """What a study's images are used for; None: its data were not read yet, or by an earlier version.

    Raises:
        ConfigError: the file is damaged.
    """
    path = folder / IMAGES_FILE
    if not path.is_file():
        return None
    try:
        return StudyImages(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} is damaged ({error}). Bring it back as it was written.") from None
