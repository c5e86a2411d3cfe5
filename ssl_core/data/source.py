"""The parts of one data set: found in the cache, or read and stored there.

Private to `ssl_core.data`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ssl_core.data import assembly, builtin, cache
from ssl_core.data.builtin import BUILTIN
from ssl_core.data.decoding import headers
from ssl_core.data.decoding.picture import Shape
from ssl_core.data.decoding.stream import Progress
from ssl_core.data.layouts.folder import list_folder
from ssl_core.data.layouts.listing import Listing
from ssl_core.data.layouts.table import list_table
from ssl_core.data.options import MIN_SIDE, Options
from ssl_core.data.part import UNLABELLED, Facts, Part, PartName
from ssl_core.data.splits.holdout import Membership
from ssl_core.system.errors import ConfigError, unknown

_FOLDER, _TABLE = "folder:", "table:"
_KNOWN = (*BUILTIN, "folder:PATH", "table:FILE")
# Of the way that files become arrays: another number, and cached arrays are made anew.
DECODING = 3


class Source:
    """The parts of one data set, as they were asked for."""

    def __init__(
        self,
        name: str,
        root: Path | None,
        image_size: int | None,
        folder: Path | None,
        options: Options | None,
        membership: Membership | None,
        progress: Progress | None,
    ) -> None:
        self.name, self.membership, self.progress = name, membership, progress
        self.options = with_size(options, image_size)
        self.kind, self.path = resolved(name, root)
        self.cache = None if folder is None else absolute(folder)
        self.listing: Listing | None = None
        self._identities: dict[str, list[list[object]]] = {}
        if self.kind in ("folder", "table"):
            self.listing = listed(self.kind, self.path, self.options)

    def train(self) -> tuple[Part, bool]:
        """The training part, and whether `draw_split` is its split."""
        if self.listing is None:
            part = self._builtin("train")
            return part, not (part.labels == UNLABELLED).any()
        part = self._stored("train", self._build_train)
        facts = Facts.of(part.facts)
        assembly.check_skipped(self.listing, self.options, dict(facts.skipped))
        if facts.membership is not None:
            self._find_again(Membership.of(facts.membership))
        return part, self.listing.is_plain

    def test(self) -> Part:
        """The test part."""
        if self.listing is None:
            return self._builtin("test")
        return self._stored("test", self._build_test)

    def _builtin(self, part: PartName) -> Part:
        side = self.options.image_size or BUILTIN[self.name].side

        def build(place: Path | None) -> Part:
            return builtin.read(self.name, self.path, part, side, place, self.progress)

        where = "" if self.kind == "digits" else str(self.path)
        return self._cached([self.kind, where, side, part, (), []], part, build)

    def _build_train(self, place: Path | None) -> Part:
        assert self.listing is not None
        hashes = None
        if self.listing.is_real and "test" in self.listing.parts:
            rows = self.test().rows
            hashes = None if rows is None else rows.hashes
        train, test = self._training_parts(place, hashes)
        if test is not None:
            self._stored("test", lambda _: test)
        return train

    def _build_test(self, place: Path | None) -> Part:
        assert self.listing is not None
        if "test" in self.listing.parts:
            shape = self._shape(self.listing)
            return assembly.test_part(self.listing, shape, self.options, place, self.progress)
        _, test = self._training_parts(place, None)
        assert test is not None
        return test

    def _training_parts(
        self, place: Path | None, test_hashes: npt.NDArray[np.uint8] | None
    ) -> tuple[Part, Part | None]:
        assert self.listing is not None
        return assembly.training_part(
            self.listing,
            self.options,
            place,
            self.progress,
            test_hashes=test_hashes,
            recorded=self.membership,
        )

    def _shape(self, listing: Listing) -> Shape:
        """What the training images are made into."""
        names = [
            name for part in assembly.TRAINING if part in listing.parts for name in listing.parts[part].names
        ]
        surveyed = headers.survey(listing.root, names)
        shape, _ = headers.shape_of(listing.root, surveyed, self.options)
        return shape if shape.side is not None else replace(shape, side=MIN_SIDE)

    def _stored(self, part: PartName, build: cache.Build) -> Part:
        if self.cache is None:
            return build(None)
        return cache.cached(self.cache, self._key(part, self.membership), part, build)

    def _key(self, part: PartName, membership: Membership | None) -> str:
        """The cache's key of a part of files, where `membership` is the record of earlier test images."""
        listing = self.listing
        assert listing is not None
        parts = [name for name in (*assembly.TRAINING, "test") if name in listing.parts]
        if part == "train" and not listing.is_real:
            parts = [name for name in parts if name != "test"]
        options = {k: v for k, v in self.options.__dict__.items() if k != "flip"}
        if self.options.skipped is not None:  # which files are left out is compared afterwards
            options |= {"on_damaged": "skip", "skipped": None}
        identity = [self.kind, str(self.path), part, DECODING, options, listing.classes]
        identity += [[name, self._identity_of(name)] for name in parts]
        identity.append(membership.digest if membership is not None else None)
        return key_of(identity)

    def _find_again(self, membership: Membership) -> None:
        """Let the decoded parts be found with the record of test images that came of them, too.

        The same files with that record give the same parts (`hold_out`), so nothing has to be decoded again.
        """
        mine = self.membership
        if self.cache is not None and (mine is None or mine.digest != membership.digest):
            for part in ("train", "test"):
                cache.alias(self.cache, self._key(part, membership), self._key(part, mine))

    def _identity_of(self, part: str) -> list[list[object]]:
        assert self.listing is not None
        if part not in self._identities:
            self._identities[part] = identity_of(self.listing, part)
        return self._identities[part]

    def _cached(self, identity: list[object], part: PartName, build: cache.Build) -> Part:
        if self.cache is None:
            return build(None)
        return cache.cached(self.cache, key_of(identity), part, build)


def key_of(identity: list[object]) -> str:
    """The name under which the cache has what belongs to this identity."""
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]


def identity_of(listing: Listing, part: str) -> list[list[object]]:
    """(relative name, label, group, bytes, modification time in ns) of each file of a part."""
    files, rows = listing.parts[part], []
    for name, label, group in zip(files.names, files.labels.tolist(), files.groups, strict=True):
        try:
            status = os.stat(os.path.join(listing.root, name))  # noqa: PTH116, PTH118 (Path doubles the time)
        except OSError as error:
            raise ConfigError(
                f"{listing.what}: image {name} cannot be read: {error}. Replace or remove the file."
            ) from error
        rows.append([name, label, group, status.st_size, status.st_mtime_ns])
    return rows


def with_size(options: Options | None, image_size: int | None) -> Options:
    """The options with this image size; the defaults where there are none."""
    options = options or Options()
    return options if image_size is None else replace(options, image_size=image_size)


def resolved(name: str, root: Path | None) -> tuple[str, Path]:
    """The kind of dataset, and the absolute path of its files (for digits, which has none: the root)."""
    for prefix, what in ((_FOLDER, "folder:PATH"), (_TABLE, "table:FILE")):
        if name.startswith(prefix):
            path = name.removeprefix(prefix)
            if not path:
                kind = prefix.rstrip(":")
                raise ConfigError(f"dataset {name!r} names no {kind}. Give it as {what}.")
            return prefix.rstrip(":"), absolute(Path(path))
    if name not in BUILTIN:
        raise unknown("dataset", name, _KNOWN)
    return name, absolute(root or Path(os.environ.get("SSL_TUNE_DATA") or "ssl-tune-data"))


def absolute(path: Path) -> Path:
    """A path without `~` and links.

    Raises:
        ConfigError: if it cannot be resolved.
    """
    try:
        return path.expanduser().resolve()
    except (OSError, RuntimeError) as error:  # no such user after "~", or a loop of links
        raise ConfigError(f"path {str(path)!r} cannot be resolved: {error}. Correct the path.") from error


def listed(kind: str, path: Path, options: Options) -> Listing:
    """The images of a `folder` or a `table`, by part and class, without opening them."""
    if kind == "folder":
        return list_folder(path, group_by_folder=options.group_by == "folder")
    return list_table(path)


def per_class(listing: Listing, part: str) -> tuple[int, ...] | None:
    """How many images each class has in a part, in the order of `classes`; None where there is no such part."""
    files = listing.parts.get(part)
    if files is None:
        return None
    return tuple(np.bincount(files.labels, minlength=len(listing.classes)).tolist())


def check_held_out(listing: Listing, train_per_class: Sequence[int]) -> None:
    """Refuse a class with fewer labelled images than parts drawn from it."""
    drawn = ["training", *(part for part in ("valid", "test") if part not in listing.parts)]
    for name, count in zip(listing.classes, train_per_class, strict=True):
        if count < len(drawn):
            raise ConfigError(
                f"{listing.what}: class {name!r} has {count} labelled training images, but {len(drawn)} are "
                f"needed, one each for {', '.join(drawn)}. Label more images of {name!r}, or bring "
                f"{' and '.join(f'{part}/' for part in drawn[1:])} of your own."
            )
