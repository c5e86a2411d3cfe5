"""Which files a data set has, part by part, before an image is opened. Imports numpy alone.

N: files of a part. A part is "train", "unlabelled", "valid" or "test".
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ssl_core.data.part import Labels
from ssl_core.system.errors import ConfigError, counted

_ENDINGS = ".png .jpg .jpeg .jpe .jfif .bmp .dib .webp .gif .ppm .pgm .pbm .pnm .tif .tiff"
ENDINGS = frozenset(_ENDINGS.split())
"""Accepted endings, in lower case. None of these formats makes the decoder start another program."""

UNLABELLED_NAMES = ("unlabelled", "unlabeled")

# Folders and files that programs leave behind: thumbnails, waste bins, indexes. In lower case.
_CLUTTER = frozenset(
    (
        *("@eadir", "#recycle", "@recycle", "$recycle.bin", "__macosx", "lost+found", "__pycache__"),
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "system volume information"),
    )
)
# The first bytes of the accepted formats.
_CONTENT = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|BM....\x00\x00\x00\x00|RIFF....WEBP|P[1-6]\s|II\*\x00|MM\x00\*",
    re.DOTALL,
)

CLUTTER, ENDING, CONTENT = (
    "left behind by a program or hidden",
    "ending not accepted",
    "no ending, and no image of an accepted format",
)


@dataclass(frozen=True, eq=False)
class Files:
    """The files of one part.

    Attributes:
        names: paths relative to the listing's root, with "/".
        labels: (N,) int64, the class of each; -1 where there is none.
        groups: what each belongs to, "" for a file on its own.
    """

    names: tuple[str, ...]
    labels: Labels
    groups: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Listing:
    """The files of a data set.

    Attributes:
        root: the folder that all names are relative to.
        what: how messages call the data set, for example "dataset folder /x".
        classes: class names, in the order of the labels.
        parts: the parts that there are.
        left_out: names of what is not read, by reason.
        notes: sentences that the user should see.
    """

    root: Path
    what: str
    classes: tuple[str, ...]
    parts: dict[str, Files]
    left_out: dict[str, list[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def is_real(self) -> bool:
        """Whether there are images without a label: the real protocol, not the simulated one."""
        return "unlabelled" in self.parts

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing but train/ and test/, without groups: splits as in the first version."""
        return set(self.parts) == {"train", "test"} and not any(self.parts["train"].groups)


class Walker:
    """Lists the image files below folders, and remembers what it leaves out.

    Args:
        root: names are relative to this folder.
        what: how messages call the data set.
    """

    def __init__(self, root: Path, what: str) -> None:
        self.root, self.what = root, what
        self.left_out: dict[str, list[str]] = {}

    def entries(self, below: str) -> list[tuple[str, bool]]:
        """(name, is a folder) of what lies in root/below, sorted by name; clutter is left out.

        Raises:
            ConfigError: the folder cannot be read.
        """
        try:
            with os.scandir(self.root / below) as entries:
                found = sorted((e.name, e.is_dir()) for e in entries)
        except OSError as error:
            raise ConfigError(f"{self.what} cannot be read: {error}. Make it readable.") from error
        kept = []
        for name, is_folder in found:
            if name.startswith(".") or name.lower() in _CLUTTER:
                self._leave_out(CLUTTER, f"{below}/{name}" + "/" * is_folder)
            else:
                kept.append((name, is_folder))
        return kept

    def images(self, below: str) -> list[str]:
        """Names of the image files in root/below and the folders inside it, sorted.

        A link that leads back to a folder that is being listed is not followed.
        """
        return sorted(self._images(below, frozenset()))

    def _images(self, below: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
        status = (self.root / below).stat()
        here = (status.st_dev, status.st_ino)
        if here in above:
            return
        for name, is_folder in self.entries(below):
            path = f"{below}/{name}"
            if is_folder:
                yield from self._images(path, above | {here})
            elif self.is_image(path):
                yield path

    def is_image(self, name: str) -> bool:
        """Whether a file is read: by its ending, or where it has none by its first bytes."""
        stem, dot, ending = name.rpartition("/")[2].rpartition(".")
        if dot and stem and f".{ending.lower()}" in ENDINGS:
            return True
        if dot and stem:
            self._leave_out(ENDING, name)
            return False
        try:
            with (self.root / name).open("rb") as file:
                known = _CONTENT.match(file.read(16)) is not None
        except OSError:
            known = False
        if not known:
            self._leave_out(CONTENT, name)
        return known

    def _leave_out(self, reason: str, name: str) -> None:
        self.left_out.setdefault(reason, []).append(name)


def left_out_sentence(left_out: dict[str, list[str]]) -> str | None:
    """One sentence that counts what was left out and shows an example of each reason; None: nothing was."""
    told = [
        f"{counted(len(names), 'file')} ({reason}; for example {names[0]})"
        for reason, names in left_out.items()
        if names
    ]
    return f"left out: {'; '.join(told)}." if told else None


def shown(names: tuple[str, ...] | list[str], limit: int = 10, width: int = 40) -> str:
    """Names in a row, long ones cut, and how many more there are."""
    cut = [name if len(name) <= width else f"{name[: width - 1]}…" for name in names[:limit]]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(cut) + more
