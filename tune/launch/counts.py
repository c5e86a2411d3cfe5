"""The classes of a study and how many images of each are used for what, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssl_core.system.errors import counted
from tune.images.study import StudyImages

CLASSES_SHOWN = 20
_LETTERS = 40
_WORDS = {"labelled": "labelled", "valid": "for validation", "test": "test"}


def counts_in_words(row: Mapping[str, Any]) -> str:
    """``12 labelled, 3 for validation, 4 test`` of a row of `StudyImages.by_class`."""
    return ", ".join(f"{row[part]} {words}" for part, words in _WORDS.items() if part in row)


def lines_of(images: StudyImages) -> list[str]:
    """What a search says of the images it is about to use: protocol, classes with counts, and classes that differ."""
    rows = images.by_class()
    shown = "; ".join(f"{_cut(row['class'])}: {counts_in_words(row)}" for row in rows[:CLASSES_SHOWN])
    more = f"; and {len(rows) - CLASSES_SHOWN} more" if len(rows) > CLASSES_SHOWN else ""
    unlabelled = counted(images.unlabelled, "image")
    said = f"{images.protocol} protocol, {len(rows)} classes ({shown}{more}), {unlabelled} without labels"
    return [said, *unequal(images)]


def unequal(images: StudyImages) -> list[str]:
    """A sentence where the classes differ in their labelled images."""
    fewest, most = min(images.labelled), max(images.labelled)
    if fewest == most:
        return []
    small, large = (images.classes[images.labelled.index(number)] for number in (fewest, most))
    return [
        f"the classes differ in size: from {fewest} labelled images of {_cut(small)} to {most} of {_cut(large)}. "
        "--objective val/error_balanced counts each class the same, and --set data.balance_batches=true trains on each "
        "as often."
    ]


def _cut(name: str) -> str:
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"
