"""From listed files to the training part and the test part: decoded, checked, and held out where asked for.

Private to `ssl_core.data`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap

from ssl_core.data.decoding.headers import Unreadable, shape_of, survey
from ssl_core.data.decoding.picture import Shape, check_hashing
from ssl_core.data.decoding.stream import Decoded, Progress, decode_files, decode_to_size
from ssl_core.data.layouts.listing import Listing, left_out_sentence, shown
from ssl_core.data.options import MAX_SIDE, MIN_SIDE, Options
from ssl_core.data.part import UNLABELLED, Facts, Hashes, Images, Indices, Part, Rows, make_part
from ssl_core.data.splits.holdout import Holdout, Membership, hold_out
from ssl_core.system.errors import ConfigError, counted

TRAINING = ("train", "unlabelled", "valid")
_SEALED = ("valid", "test")


@dataclass(frozen=True, eq=False)
class Pool:
    """Decoded files of several parts, in one array.

    Attributes:
        decoded: images and hashes, rows of skipped files included.
        kept: indices of the rows that are images.
        labels: (N,) of all rows.
        rows: of all rows.
        facts: so far.
    """

    decoded: Decoded
    kept: Indices
    labels: Any
    rows: Rows
    facts: Facts


def decode_pool(
    listing: Listing,
    parts: Sequence[str],
    options: Options,
    place: Path | None,
    progress: Progress | None,
    *,
    shape: Shape | None = None,
) -> Pool:
    """Decode some parts of a listing to one array, in the order of `parts`.

    Args:
        listing: the files.
        parts: of it, those that exist are taken.
        options: how they are read.
        place: folder for the array; None: memory.
        progress: told how far it is.
        shape: what the images are made into; None: what the headers say (`shape_of`).

    Raises:
        ConfigError: files that cannot be decoded, unless they are left out; images that no size can be found
            for; a class that is left without an image.
    """
    check_hashing()
    present = [part for part in parts if part in listing.parts]
    names = [name for part in present for name in listing.parts[part].names]
    roles = [part for part in present for _ in listing.parts[part].names]
    labels = np.concatenate([listing.parts[part].labels for part in present])
    groups = tuple(group for part in present for group in listing.parts[part].groups)
    facts = Facts(notes=list(listing.notes))
    if shape is not None:
        decoded = decode_files(listing.root, names, shape, place, progress)
    elif options.image_size is not None:
        decoded, shape, notes = decode_to_size(listing.root, names, options, place, progress)
        facts.notes += notes
    else:
        surveyed = survey(listing.root, names)
        shape, notes = shape_of(listing.root, surveyed, options)
        facts.notes += notes
        if not surveyed.headers:  # nothing can be decoded; the error says why
            shape = Shape(MIN_SIDE)
        decoded = decode_files(listing.root, names, shape, place, progress)
    facts.bits = shape.bits
    kept = _kept(listing.what, names, decoded, roles, options, facts)
    for label, name in enumerate(listing.classes if "train" in present else ()):
        if not (labels[kept] == label).any():
            raise ConfigError(
                f"{listing.what}: no image of class {name!r} is left once damaged ones are skipped."
            )
    rows = Rows(tuple(names), decoded.hashes, groups, tuple(roles))
    return Pool(decoded, kept, labels, rows, facts)


def _kept(
    what: str,
    names: Sequence[str],
    decoded: Decoded,
    roles: Sequence[str],
    options: Options,
    facts: Facts,
) -> Indices:
    """Indices of the images; what is damaged is refused, or left out and recorded."""
    damaged = decoded.damaged
    listed = skipped_hashes(options)
    refused = [
        bad
        for index, bad in damaged.items()
        if roles[index] in _SEALED
        or (options.on_damaged == "refuse" and options.skipped is None)
        or (options.skipped is not None and listed.get(bad.file) != bad.sha256)
    ]
    if refused:
        sealed = any(roles[index] in _SEALED for index in damaged)
        recorded = options.skipped is not None
        raise ConfigError(damaged_message(what, refused, len(roles), sealed, recorded))
    _check_mended(what, names, listed, {bad.file for bad in damaged.values()})
    if damaged:
        facts.skipped = [[bad.file, bad.sha256] for bad in damaged.values()]
        files = [bad.file for bad in damaged.values()]
        facts.notes.append(f"skipped: {counted(len(files), 'damaged file')}, {shown(files, width=80)}.")
    is_kept = np.ones(len(roles), dtype=bool)
    is_kept[list(damaged)] = False
    return np.flatnonzero(is_kept).astype(np.int64)


def skipped_hashes(options: Options) -> dict[str, str]:
    """The sha256 of each file that an earlier run left out."""
    return {one.file: one.sha256 for one in options.skipped or ()}


def check_skipped(listing: Listing, options: Options, found: Mapping[str, str]) -> None:
    """Refuse a part that leaves out other files than an earlier run did.

    Args:
        listing: the files.
        options: with the files that the earlier run left out; None: nothing is compared.
        found: sha256 of each file that was left out now.

    Raises:
        ConfigError: a damaged file that was none before, or was another one; a file that is no longer damaged.
    """
    if options.skipped is None:
        return
    listed = skipped_hashes(options)
    others = sorted(file for file, sha256 in found.items() if listed.get(file) != sha256)
    if others:
        raise ConfigError(
            f"{listing.what}: {counted(len(others), 'image')} cannot be read: {shown(others, width=80)}. Replace or "
            f"remove the file{'s' * (len(others) > 1)}; {_ONLY_RECORDED}."
        )
    names = [name for part in TRAINING if part in listing.parts for name in listing.parts[part].names]
    _check_mended(listing.what, names, listed, found.keys())


def _check_mended(
    what: str, names: Sequence[str], listed: Mapping[str, str], damaged: Collection[str]
) -> None:
    """Refuse files that were left out as damaged and can be read now; `names`: the files that were looked at."""
    present = (set(listed) - set(damaged)) & set(names)
    if present:
        raise ConfigError(
            f"{what}: {shown(sorted(present))} was skipped as damaged when this configuration was made, "
            f"but can be read now. Bring back the file as it was, or start anew without data.skipped."
        )


_ONLY_RECORDED = "only the damaged files that this configuration records (data.skipped) are skipped"


def damaged_message(
    what: str, damaged: Sequence[Unreadable], total: int, sealed: bool, recorded: bool
) -> str:
    """Why damaged files are refused, and what can be done.

    Args:
        what: how messages call the data set.
        damaged: the files, at least one.
        total: files that were looked at.
        sealed: whether validation or test images are among them.
        recorded: whether an earlier run wrote down which files it left out.
    """
    first = damaged[0]
    remedy = "Replace or remove the file" + "s" * (len(damaged) > 1)
    if recorded:
        remedy += f"; {_ONLY_RECORDED}"
    elif sealed:
        remedy += "; damaged validation and test images are never skipped"
    else:
        remedy += ", or leave out damaged training images with data.on_damaged: skip"
    if len(damaged) == 1:
        return f"{what}: image {first.file} cannot be read: {first.error}. {remedy}."
    names = shown([bad.file for bad in damaged], width=80)
    return f"{what}: {len(damaged)} of {total} images cannot be read: {names}. The first: {first.error}. {remedy}."


def training_part(
    listing: Listing,
    options: Options,
    place: Path | None,
    progress: Progress | None,
    *,
    test_hashes: Hashes | None = None,
    recorded: Membership | None = None,
) -> tuple[Part, Part | None]:
    """The training part, and the test part where it is held out of the training images.

    Args:
        listing: the files.
        options: how they are read.
        place: folder for the images; None: memory.
        progress: told how far it is.
        test_hashes: (n, 16), of the pixels of the test images where there is a test part: unlabelled copies
            of them are left out. None: nothing is compared.
        recorded: the test images of earlier studies.

    Raises:
        ConfigError: as for `decode_pool`; a class that cannot give what is held out of it.
    """
    pool = decode_pool(listing, TRAINING, options, place, progress)
    chosen, held = select(listing, options, pool, test_hashes, recorded)
    test = None
    if held is not None:
        test = _taken(pool, listing.classes, held, place and place / "test.npy", Facts())
    return _taken(pool, listing.classes, chosen, place and place / "train.npy", pool.facts), test


def select(
    listing: Listing,
    options: Options,
    pool: Pool,
    test_hashes: Hashes | None,
    recorded: Membership | None,
) -> tuple[Indices, Indices | None]:
    """Which rows of a pool are training images and, where there is no test part, which are test images.

    The pool's facts say afterwards what was decided. The pixels are not looked at.

    Args:
        listing, options, test_hashes, recorded: as for `training_part`.
        pool: of the listing's training parts.

    Raises:
        ConfigError: a class that cannot give what is held out of it.
    """
    facts, chosen, held = pool.facts, pool.kept, None
    sentence = left_out_sentence(listing.left_out)
    if sentence is not None:
        facts.notes.append(sentence)
    if "test" not in listing.parts:
        found = _held_out(listing, options, pool, recorded)
        facts.membership = found.membership.document()
        facts.copies_left_out = len(found.excluded)
        held = pool.kept[found.test]
        facts.held_out = np.bincount(pool.labels[held], minlength=len(listing.classes)).tolist()
        chosen = np.setdiff1d(chosen, pool.kept[np.concatenate([found.test, found.excluded])])
    elif test_hashes is not None:
        is_copy = equals_any(pool.rows.hashes[chosen], test_hashes)
        is_copy &= pool.labels[chosen] == UNLABELLED
        facts.copies_left_out = int(is_copy.sum())
        chosen = chosen[~is_copy]
    if facts.copies_left_out:
        copies = counted(facts.copies_left_out, "unlabelled image")
        facts.notes.append(f"left out as copies of test images, or of their group: {copies}.")
    return chosen, held


def _held_out(listing: Listing, options: Options, pool: Pool, recorded: Membership | None) -> Holdout:
    kept = pool.kept
    is_pool = np.asarray([role != "valid" for role in pool.rows.roles])[kept]
    # Images of valid/ stay what they are: they are no candidates, and copies of them neither.
    labels = np.where(is_pool, pool.labels[kept], UNLABELLED)
    rows = pool.rows.select(kept)
    keep = 1 if "valid" in listing.parts else 2
    held = hold_out(
        listing.classes,
        labels,
        rows.hashes,
        rows.groups,
        options.test_share,
        keep=keep,
        recorded=recorded,
        what=listing.what,
    )
    share = held.membership.share
    pool.facts.notes.append(
        f"there is no test/: {len(held.test)} of {int((labels != UNLABELLED).sum())} labelled images are held "
        f"out as test images (data.test_share: {share})."
    )
    if share != options.test_share:
        pool.facts.notes.append(
            f"data.test_share = {options.test_share} is not used: the test images of this data set are on record "
            f"with {share}, so that none becomes a training image."
        )
    return held


def equals_any(hashes: Hashes, others: Hashes) -> npt.NDArray[np.bool_]:
    """Which of (n, 16) hashes are among others, (n,) bool."""
    first, second = (np.ascontiguousarray(array).view("V16").ravel() for array in (hashes, others))
    known = {bytes(one) for one in second}
    return np.fromiter((bytes(one) in known for one in first), dtype=bool, count=len(first))


def test_part(
    listing: Listing, shape: Shape, options: Options, place: Path | None, progress: Progress | None
) -> Part:
    """The test part of a listing that has one, made into the training images' shape.

    Raises:
        ConfigError: as for `decode_pool`.
    """
    pool = decode_pool(listing, ("test",), options, place, progress, shape=shape)
    return _taken(pool, listing.classes, pool.kept, place and place / "test.npy", Facts())


def _taken(pool: Pool, classes: tuple[str, ...], chosen: Indices, path: Path | None, facts: Facts) -> Part:
    """Some rows of a pool as a part; all of them without a copy."""
    everything = len(chosen) == len(pool.labels)
    images = pool.decoded.images if everything else _copied(pool.decoded.images, chosen, path)
    side = images.shape[1]
    assert MIN_SIDE <= side <= MAX_SIDE
    return make_part(images, pool.labels[chosen], classes, pool.rows.select(chosen), facts.text())


def _copied(images: Images, chosen: Indices, path: Path | None) -> Images:
    if path is None:
        return images[chosen]
    copy: Any = open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(chosen), *images.shape[1:]))
    for index, row in enumerate(chosen):
        copy[index] = images[row]
    return copy  # type: ignore[no-any-return]
