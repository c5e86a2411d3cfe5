"""Test images where a data set has no test part: a share of the labelled images of each class.

Whether an image is a test image depends on its class and its pixels alone, not on seeds, on how many labels are
used or on the other images. So whoever adds images moves none from the test set into training. Where that
rule alone would leave a class without a test image, or without training images, the membership of one image
can hang on others; therefore the membership is recorded, and a recorded test image stays one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssl_core.data.part import UNLABELLED, Hashes, Indices, Labels
from ssl_core.data.splits.units import units_of
from ssl_core.system.errors import ConfigError

_FORMAT = 2
"""Of the record. Format 1 had other hashes of the pixels."""


@dataclass(frozen=True)
class Membership:
    """The images that are test images, as it is kept in a home and in exports.

    Attributes:
        share: of each class; later calls keep it.
        test: hashes (hex) of the test images' pixels, by class, sorted.
    """

    share: float
    test: Mapping[str, tuple[str, ...]]

    def document(self) -> dict[str, Any]:
        """As plain data."""
        return {"format": _FORMAT, "share": self.share, "test": {k: list(v) for k, v in self.test.items()}}

    @staticmethod
    def of(document: Any, *, where: str = "") -> Membership:
        """From plain data.

        Raises:
            ConfigError: it is not what `document` gives.
        """
        try:
            if document["format"] != _FORMAT:
                raise ValueError(f"format {document['format']!r}")
            share = float(document["share"])
            test = {str(name): tuple(map(str, hashes)) for name, hashes in document["test"].items()}
            for hashes in test.values():
                for text in hashes:
                    bytes.fromhex(text)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"{where + ': ' if where else ''}the record of test images cannot be read ({error!r}). Bring "
                f"back the file as it was written."
            ) from None
        return Membership(share, test)

    def united(self, other: Membership) -> Membership:
        """The test images of both, with this record's share."""
        names = sorted({*self.test, *other.test})
        test = {name: tuple(sorted({*self.test.get(name, ()), *other.test.get(name, ())})) for name in names}
        return Membership(self.share, test)

    @property
    def digest(self) -> str:
        """16 hex digits that differ for different memberships."""
        lines = [f"{name}\0{' '.join(sorted(self.test[name]))}" for name in sorted(self.test)]
        return hashlib.sha256("\n".join([repr(self.share), *lines]).encode()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Holdout:
    """What was held out.

    Attributes:
        test: sorted indices of the test images.
        excluded: sorted indices of images that are in no part: unlabelled ones that are copies of a test
            image, or of its group.
        membership: the record, with what earlier records held.
    """

    test: Indices
    excluded: Indices
    membership: Membership


def hold_out(
    classes: Sequence[str],
    labels: Labels,
    hashes: Hashes,
    groups: Sequence[str],
    share: float,
    *,
    keep: int,
    recorded: Membership | None = None,
    what: str = "the data set",
) -> Holdout:
    """Choose the test images.

    Args:
        classes: C names.
        labels: (N,) int64; -1 for an image without a label.
        hashes: (N, 16) uint8, of the pixels.
        groups: names, "" for an image on its own.
        share: of each class's images; of a recorded membership its own share is taken.
        keep: units (images that nothing is tied to) of each class that stay for training and validation.
        recorded: of an earlier study.
        what: how messages call the data set.

    Raises:
        ConfigError: a class that cannot give one unit and keep `keep`.
    """
    share = recorded.share if recorded is not None else share
    units = units_of(hashes, groups)
    labelled = np.flatnonzero(labels != UNLABELLED)
    scores = _scores(classes, labels, hashes, groups, units, labelled)
    known = _recorded_units(hashes, units, labelled, recorded)
    chosen = {unit for unit, score in scores.items() if score < share} | known
    for label, name in enumerate(classes):
        own = sorted({int(units[i]) for i in labelled if labels[i] == label}, key=lambda unit: scores[unit])
        if len(own) < keep + 1:
            raise ConfigError(_too_few(what, name, len(own), int((labels == label).sum()), keep + 1))
        if not chosen & set(own):
            chosen.add(own[0])
        held = [unit for unit in own if unit in chosen and unit not in known]
        while held and sum(unit not in chosen for unit in own) < keep:
            chosen.discard(held.pop())
    in_test = np.isin(units, np.asarray(sorted(chosen), dtype=np.int64))
    test = np.flatnonzero(in_test & (labels != UNLABELLED)).astype(np.int64)
    excluded = np.flatnonzero(in_test & (labels == UNLABELLED)).astype(np.int64)
    return Holdout(test, excluded, _record(classes, labels, hashes, test, share, recorded))


def _scores(
    classes: Sequence[str],
    labels: Labels,
    hashes: Hashes,
    groups: Sequence[str],
    units: Indices,
    labelled: Indices,
) -> dict[int, float]:
    """A number from 0 to 1 for each unit with a labelled image: the least of its images' or groups' numbers."""
    scores: dict[int, float] = {}
    for i in labelled:
        if groups[i]:  # an image that joins a group must not move it
            key = f"test/group/{groups[i]}".encode()
        else:
            key = f"test/{classes[labels[i]]}/".encode() + hashes[i].tobytes()
        score = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") / 2**64
        unit = int(units[i])
        scores[unit] = min(score, scores.get(unit, 1.0))
    return scores


def _recorded_units(
    hashes: Hashes, units: Indices, labelled: Indices, recorded: Membership | None
) -> set[int]:
    """The units that were test images, whatever the class that each had then."""
    if recorded is None:
        return set()
    known = {text for hashes_of_class in recorded.test.values() for text in hashes_of_class}
    return {int(units[i]) for i in labelled if hashes[i].tobytes().hex() in known}


def _record(
    classes: Sequence[str],
    labels: Labels,
    hashes: Hashes,
    test: Indices,
    share: float,
    recorded: Membership | None,
) -> Membership:
    by_class = {name: set(found) for name, found in (recorded.test if recorded else {}).items()}
    for i in test:
        by_class.setdefault(classes[labels[i]], set()).add(hashes[i].tobytes().hex())
    return Membership(share, {name: tuple(sorted(by_class[name])) for name in sorted(by_class)})


def _too_few(what: str, name: str, units: int, images: int, needed: int) -> str:
    tied = f" ({units} without copies and groups)" if units != images else ""
    return (
        f"{what}: class {name!r} has {images} labelled images{tied}, but {needed} are needed: one for each part "
        f"that is drawn from them. Label more images of {name!r}, or bring test/ and valid/ of your own."
    )
