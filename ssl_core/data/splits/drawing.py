"""The split of any data set: images without labels, groups, copies, unequal classes, a validation part of its own.

C: classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from ssl_core.data.options import DEFAULT_VALID_SHARE, valid_of_share
from ssl_core.data.part import UNLABELLED, Indices
from ssl_core.data.splits.balanced import (
    Split,
    draw_split,
    random_order,
    split_from,
    warn_of_large_validation,
)
from ssl_core.data.splits.units import units_of
from ssl_core.data.types import Dataset
from ssl_core.system.errors import ConfigError, counted

Mode = Literal["balanced", "proportional"]


@dataclass(frozen=True)
class Wanted:
    """The numbers of a split.

    Attributes:
        labelled: labelled images, over all classes; None: all that are not validation images.
        valid: validation images, over all classes; None: `valid_share`, or all that the data set has.
        valid_share: of the labelled images of each class, where there is neither a number nor a valid part.
        mode: how numbers are shared out among the classes; None: balanced where every class can give as
            much, else proportional.
        split_seed: of the validation images.
        label_seed: of the labelled images.

    Raises:
        ConfigError: a share that is none.
    """

    labelled: int | None = None
    valid: int | None = None
    valid_share: float = DEFAULT_VALID_SHARE
    mode: Mode | None = None
    split_seed: int = 0
    label_seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.valid_share < 1:
            raise ConfigError(
                f"data.valid_share = {self.valid_share}: more than 0 and less than 1 is expected, for example "
                f"{DEFAULT_VALID_SHARE}."
            )


@dataclass(frozen=True, eq=False)
class Drawn:
    """A split, and sentences that tell how it was drawn."""

    split: Split
    notes: list[str] = field(default_factory=list)


def draw(data: Dataset, wanted: Wanted) -> Drawn:
    """Draw labelled, validation and unlabelled images of any data set.

    Copies of one picture and images of one group are never torn apart between the validation images and the
    others: the unlabelled copies of a validation image are in no part. Where nothing is tied together and
    the numbers are balanced, the result is that of `draw_split`, to the last bit.

    Args:
        data: the training images.
        wanted: how many of each.

    Raises:
        ConfigError: numbers or shares that the data set or one of its classes cannot give.
    """
    return _Draw(data, wanted).drawn()


def split_for(data: Dataset, wanted: Wanted) -> Drawn:
    """The split of any data set: of plain ones that of `draw_split` wherever it can be drawn, else that of `draw`.

    Args:
        data: the training images.
        wanted: how many of each. A plain data set needs `labelled`; its validation set is by default as large
            as the labelled one.

    Raises:
        ConfigError: as for `draw`; a plain data set without a number of labels.
    """
    if not data.is_plain:
        return draw(data, wanted)
    if wanted.labelled is None:
        raise ConfigError(
            f"--labels is missing: say how many images of {data.name!r} keep their label, such as --labels 40."
        )
    valid = wanted.valid or wanted.labelled
    each, rest = divmod(wanted.labelled, data.num_classes)
    each_valid, rest_valid = divmod(valid, data.num_classes)
    smallest = int(np.bincount(data.labels, minlength=data.num_classes).min())
    # Numbers that are no multiple are refused, unless they were asked for in proportion: most are slips.
    is_slip = wanted.mode is None and bool(rest or rest_valid)
    if wanted.mode == "balanced" or is_slip or (wanted.mode is None and each + each_valid <= smallest):
        split = draw_split(
            data.labels,
            data.num_classes,
            labelled=wanted.labelled,
            valid=valid,
            split_seed=wanted.split_seed,
            label_seed=wanted.label_seed,
            fingerprint=data.fingerprint,
        )
        return Drawn(split)
    return draw(data, replace(wanted, valid=valid))


class _Draw:
    """One call of `draw`."""

    def __init__(self, data: Dataset, wanted: Wanted) -> None:
        self.data, self.wanted = data, wanted
        self.notes: list[str] = []
        count, rows = len(data.labels), data.rows
        self.units = np.arange(count, dtype=np.int64) if rows is None else units_of(rows.hashes, rows.groups)
        is_valid = [False] * count if rows is None else [role == "valid" for role in rows.roles]
        self.is_valid_part = np.asarray(is_valid, dtype=bool)
        self.members = [
            np.flatnonzero((data.labels == c) & ~self.is_valid_part) for c in range(data.num_classes)
        ]

    def drawn(self) -> Drawn:
        """The split, and how it was drawn."""
        data, wanted = self.data, self.wanted
        valid = self._valid_of_part() if self.is_valid_part.any() else self._valid_of_labelled()
        with_valid = np.isin(self.units, self.units[valid])
        labelled = self._labelled(with_valid)
        unlabelled = np.flatnonzero(~with_valid & ~self.is_valid_part)
        if wanted.valid is not None and len(valid) > len(labelled):
            warn_of_large_validation(len(valid), len(labelled))
        copies = int((with_valid & (data.labels == UNLABELLED)).sum())
        if copies:
            self.notes.append(
                f"left out as copies of validation images, or of their group: {counted(copies, 'unlabelled image')}."
            )
        parts = [np.sort(indices).astype(np.int64) for indices in (labelled, valid, unlabelled)]
        return Drawn(split_from(parts[0], parts[1], parts[2], data.fingerprint), self.notes)

    def _valid_of_part(self) -> Indices:
        """Validation images of the data set's own: all, or as many as were asked for."""
        part = np.flatnonzero(self.is_valid_part)
        if self.wanted.valid is None:
            return part
        members = [part[self.data.labels[part] == c] for c in range(self.data.num_classes)]
        counts = self._shared_out(self.wanted.valid, [len(m) for m in members], "validation")
        chosen = [
            m[random_order(len(m), f"split/valid/{self.wanted.split_seed}/{c}")[:n]]
            for c, (m, n) in enumerate(zip(members, counts, strict=True))
        ]
        return np.concatenate(chosen)

    def _valid_of_labelled(self) -> Indices:
        """Validation images held out of the labelled ones, unit by unit, in a random order of each class."""
        orders = [
            members[random_order(len(members), f"split/valid/{self.wanted.split_seed}/{c}")]
            for c, members in enumerate(self.members)
        ]
        taken = held_out_units(self.units, orders, self._valid_counts(), self._torn)
        return np.flatnonzero(np.isin(self.units, taken) & (self.data.labels != UNLABELLED))

    def _torn(self, c: int) -> str:
        units = self.units[self.members[c]]
        return (
            f"class {self.data.classes[c]!r} of {self.data.name!r} has {len(units)} labelled images in "
            f"{counted(len(set(units.tolist())), 'group')} that must stay together: validation and training "
            f"cannot both have some. Label more images of it, or bring valid/ of your own."
        )

    def _valid_counts(self) -> list[int]:
        available = [len(members) for members in self.members]
        if self.wanted.valid is not None:
            return self._shared_out(self.wanted.valid, [n - 1 for n in available], "validation")
        share = self.wanted.valid_share
        named = zip(self.data.classes, available, strict=True)
        counts = [valid_of_share(share, n, name) for name, n in named]
        self.notes.append(
            f"there is no valid/: {sum(counts)} of {sum(available)} labelled images are held out as validation "
            f"images (data.valid_share: {share})."
        )
        return counts

    def _labelled(self, with_valid: npt.NDArray[np.bool_]) -> Indices:
        rest = []
        for c, members in enumerate(self.members):
            order = members[random_order(len(members), f"split/labelled/{self.wanted.label_seed}/{c}")]
            rest.append(order[~with_valid[order]])
        if self.wanted.labelled is None:
            return np.concatenate(rest)
        counts = self._shared_out(self.wanted.labelled, [len(r) for r in rest], "labelled")
        return np.concatenate([r[:n] for r, n in zip(rest, counts, strict=True)])

    def _shared_out(self, number: int, available: Sequence[int], what: str) -> list[int]:
        """How many images of each class make up a number."""
        classes, name = self.data.classes, repr(self.data.name)
        if number < len(classes):
            raise ConfigError(
                f"number of {what} images {number} is less than one for each of the {len(classes)} classes of {name}."
            )
        if number > sum(available):
            raise ConfigError(
                f"number of {what} images {number}: {name} can give {sum(available)}. Lower it, or label more."
            )
        each, more = divmod(number, len(classes))
        fits = not more and min(available) >= each
        if fits and self.wanted.mode != "proportional":
            return [each] * len(classes)
        if self.wanted.mode == "balanced":
            short = classes[int(np.argmin(available))]
            raise ConfigError(
                f"{number} {what} images cannot be balanced over the {len(classes)} classes of {name}: class "
                f"{short!r} can give {min(available)}. Take a multiple of {len(classes)} up to "
                f"{min(available) * len(classes)}, or data.split: proportional."
            )
        counts = proportional(number, available)
        if self.wanted.mode is None:
            self.notes.append(
                f"{number} {what} images are drawn in proportion to the classes, since not every class can give "
                f"{number / len(classes):g}: from {min(counts)} to {max(counts)} of each (data.split: proportional)."
            )
        return counts


def held_out_units(
    units: Indices, orders: Sequence[Indices], counts: Sequence[int], torn: Callable[[int], str]
) -> Indices:
    """Units to hold out of some images, so that about as many of each class are held out as are wanted.

    A unit is taken where it brings the numbers nearer to what is wanted. A class that such units leave without images
    takes its smallest one. Every class keeps an image that is not held out.

    Args:
        units: (N,) the unit of each image: images of one unit stay together.
        orders: of each class the images to choose from, those that are to be taken first at the beginning.
        counts: how many images of each class are wanted.
        torn: why a class cannot be divided, as a sentence.

    Raises:
        ConfigError: a class whose images are all in one unit.
    """
    inside = _classes_of_units(units, orders)
    given = [0] * len(counts)
    taken: set[int] = set()

    def leaves_some(unit: int) -> bool:
        return all(given[k] + n < len(orders[k]) for k, n in inside[unit])

    def brings_nearer(unit: int) -> bool:
        gain = [abs(given[k] - counts[k]) - abs(given[k] + n - counts[k]) for k, n in inside[unit]]
        return sum(gain) > 0

    def take(unit: int) -> None:
        taken.add(unit)
        for k, n in inside[unit]:
            given[k] += n

    for c, (order, count) in enumerate(zip(orders, counts, strict=True)):
        of_class = list(dict.fromkeys(units[order].tolist()))
        for unit in of_class:
            if given[c] >= count:
                break
            if unit not in taken and leaves_some(unit) and brings_nearer(unit):
                take(unit)
        if not given[c]:
            possible = [unit for unit in of_class if leaves_some(unit)]
            if not possible:
                raise ConfigError(torn(c))
            take(min(possible, key=lambda unit: sum(n for _, n in inside[unit])))
    return np.asarray(sorted(taken), dtype=np.int64)


def _classes_of_units(units: Indices, members: Sequence[Indices]) -> dict[int, list[tuple[int, int]]]:
    """(class, number of images) of each unit."""
    inside: dict[int, list[tuple[int, int]]] = {}
    for c, of_class in enumerate(members):
        found, counts = np.unique(units[of_class], return_counts=True)
        for unit, count in zip(found.tolist(), counts.tolist(), strict=True):
            inside.setdefault(unit, []).append((c, count))
    return inside


def proportional(number: int, available: Sequence[int]) -> list[int]:
    """A number shared out in proportion to what there is, at least one of each and never more than there is.

    The largest remainders get what rounding down leaves; of equal ones the first.

    Args:
        number: from len(available) to sum(available).
        available: of each class, all positive.
    """
    total = sum(available)
    exact = [number * n / total for n in available]
    counts = [min(max(1, int(x)), n) for x, n in zip(exact, available, strict=True)]
    while sum(counts) != number:
        step = 1 if sum(counts) < number else -1
        open_ones = [i for i, n in enumerate(available) if (counts[i] < n if step > 0 else counts[i] > 1)]
        best = max(open_ones, key=lambda i: (step * (exact[i] - counts[i]), -i))
        counts[best] += step
    return counts
