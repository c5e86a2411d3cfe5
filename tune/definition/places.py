"""Where the images of a data set lie, told from its name: ``folder:PATH`` and ``table:FILE`` have a place."""

from __future__ import annotations

from pathlib import Path

_KINDS = ("folder:", "table:")


def place_of(dataset: str) -> Path | None:
    """The folder of ``folder:PATH``, the file of ``table:FILE``; None for a data set that is known by name."""
    for kind in _KINDS:
        if dataset.startswith(kind):
            return Path(dataset.removeprefix(kind))
    return None


def with_absolute_place(dataset: str) -> str:
    """The same data set whatever the working directory is: its place is absolute, and "~" expanded."""
    place = place_of(dataset)
    return dataset if place is None else f"{_kind(dataset)}{place.expanduser().resolve()}"


def without_place(dataset: str) -> str:
    """For a page that leaves the machine: only the last part of the path is shown."""
    place = place_of(dataset)
    return dataset if place is None else f"{_kind(dataset)}.../{place.name}"


def shared_folder(dataset: str) -> Path | None:
    """The folder that every machine of a cluster has to see; of a table the one it lies in, as its images do."""
    place = place_of(dataset)
    return place.parent if place is not None and dataset.startswith("table:") else place


def _kind(dataset: str) -> str:
    return dataset[: dataset.index(":") + 1]
