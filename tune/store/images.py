"""Which images a study uses for what, and which images of a data set are test images for good: both kept as files.

A data set without a test part has a share of its images held out. Every study of a home takes them from the record
of that home, so that none of them is trained on later. The study keeps the record that it began with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_core.system.errors import ConfigError
from ssl_core.system.files import write_atomically
from tune.definition.inputs import with_absolute_place
from tune.definition.spec import dataset_tag
from tune.store.home import Home
from tune.store.layout import HELD_OUT, IMAGES_FILE
from tune.store.object_store import ObjectStore

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


def membership_of_document(document: Mapping[str, Any] | None) -> Membership | None:
    """The record of held-out test images that plain data hold."""
    from ssl_core.data.splits.holdout import Membership  # loads numpy

    return None if document is None else Membership.of(document)


# The record of a home


def held_out_before(home: Home, dataset: str) -> Membership | None:
    """The test images that studies of this home have held out of a data set.

    Raises:
        ConfigError: the record is damaged.
    """
    from ssl_core.data.splits.holdout import Membership  # loads numpy

    name = _record(dataset)
    path = home.path / name
    text = ObjectStore(home.url).get(name) if home.url is not None else None
    if text is None and path.is_file():
        text = path.read_bytes()
    if text is None:
        return None
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    return Membership.of(document, where=str(path))


def keep_held_out(home: Home, dataset: str, membership: Membership | None) -> None:
    """Add test images that were held out of a data set to the home's record; what is on record stays there.

    Raises:
        ConfigError: the record is damaged.
    """
    if membership is None:
        return
    before = held_out_before(home, dataset)
    merged = membership if before is None else before.united(membership)
    if before is not None and merged.digest == before.digest:
        return
    name = _record(dataset)
    document = merged.document() | {"dataset": with_absolute_place(dataset)}
    text = json.dumps(document, indent=1).encode()
    (home.path / HELD_OUT).mkdir(parents=True, exist_ok=True)
    write_atomically(home.path / name, text)
    if home.url is not None:
        ObjectStore(home.url).put(name, text)


def _record(dataset: str) -> str:
    """Where the record of a data set lies, relative to the home."""
    place = with_absolute_place(dataset)
    digest = hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return f"{HELD_OUT}/{dataset_tag(place)}-{digest}.json"
