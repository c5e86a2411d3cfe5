"""Image folders: train/<class>/**, and beside it unlabelled/**, valid/<class>/** and test/<class>/**.

Private to `ssl_core.data`. Like `datasets`, this file imports numpy alone and opens no image.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np

from ssl_core.data.layouts import table
from ssl_core.data.layouts.listing import ENDINGS, UNLABELLED_NAMES, Files, Listing, Walker, shown
from ssl_core.data.part import UNLABELLED
from ssl_core.system.errors import ConfigError

LAYOUT = "PATH/train/<class>/*, and where there are any PATH/unlabelled/*, PATH/valid/<class>/* and PATH/test/<class>/*"


def list_folder(folder: Path, *, group_by_folder: bool = False) -> Listing:
    """The files of an image folder; no image is opened.

    Class folders are read with the folders inside them. Names are compared in one Unicode form, so that the
    same class written by two systems is one class. A `metadata.csv` with the columns file_name and label
    takes the place of class folders.

    Args:
        folder: the data set's folder, absolute.
        group_by_folder: images of one folder inside a class folder (or inside unlabelled/) belong together.

    Raises:
        ConfigError: the folder is missing or unreadable, lacks train/, has fewer than two classes, a class
            without images, a class that is not in train/, an empty part, or images outside the class folders.
    """
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "does not exist"
        raise ConfigError(f"dataset folder {folder} {state}. Expected {LAYOUT}: correct the path.")
    described = table.list_metadata(folder)
    if described is not None:
        return described
    walker = Walker(folder, f"dataset folder {folder}")
    found = _Found(walker)
    _refuse_without_train(folder)
    found.read_classes("train")
    _check_train(walker, found.classes["train"])
    for part in ("valid", "test"):
        if (folder / part).is_dir():
            found.read_classes(part)
            _check_other(walker, part, found.classes)
    for name in UNLABELLED_NAMES:
        if (folder / name).is_dir():
            found.unlabelled += walker.images(name)
    return found.listing(group_by_folder)


def _refuse_without_train(folder: Path) -> None:
    if (folder / "train").is_dir():
        return
    alone = next((name for name in UNLABELLED_NAMES if (folder / name).is_dir()), None)
    if alone is not None:
        raise ConfigError(
            f"dataset folder {folder} has {alone}/ but lacks train/: some images need a label. Put a few of "
            f"each class in {folder}/train/<class>/."
        )
    raise ConfigError(
        f"dataset folder {folder} lacks train/. Expected {LAYOUT}: put the labelled images in "
        f"{folder / 'train'}/<class>/."
    )


class _Found:
    """What was found so far: the files of each class, by part, and those without a class."""

    def __init__(self, walker: Walker) -> None:
        self.walker = walker
        self.classes: dict[str, dict[str, list[str]]] = {}
        self.unlabelled: list[str] = []
        self.notes: list[str] = []

    def read_classes(self, part: str) -> None:
        """List one part's class folders."""
        folder = self.walker.root
        classes: dict[str, list[str]] = {}
        for name, is_folder in self.walker.entries(part):
            below = f"{part}/{name}"
            if is_folder and name.lower() in UNLABELLED_NAMES:
                images = self.walker.images(below)
                self.unlabelled += images
                self.notes.append(
                    f"{len(images)} images in {below}/ are taken as unlabelled images, not as a class; they "
                    f"belong in {folder}/unlabelled/."
                )
            elif is_folder:
                normal = unicodedata.normalize("NFC", name)
                classes.setdefault(normal, []).extend(self.walker.images(below))
            elif self.walker.is_image(below):
                raise ConfigError(
                    f"dataset folder {folder}: image {below} lies in no class folder. Expected {LAYOUT}: "
                    f"move it to {part}/<class>/."
                )
        if not classes:
            raise ConfigError(
                f"dataset folder {folder}: {part}/ is empty. Expected {LAYOUT}: one folder for each class"
                + ("." if part == "train" else f", or no {part}/ at all.")
            )
        self.classes[part] = dict(sorted(classes.items()))

    def listing(self, group_by_folder: bool) -> Listing:
        """The listing, once all parts are read."""
        classes = tuple(self.classes["train"])
        parts: dict[str, Files] = {}
        for part in ("train", "valid", "test"):
            if part in self.classes:
                by_class = [self.classes[part].get(name, []) for name in classes]
                parts[part] = _files(by_class, list(range(len(classes))), 2, group_by_folder)
        if self.unlabelled:
            parts["unlabelled"] = _files([sorted(self.unlabelled)], [UNLABELLED], 1, group_by_folder)
        root, what = self.walker.root, self.walker.what
        return Listing(root, what, classes, parts, self.walker.left_out, tuple(self.notes))


def _files(by_class: list[list[str]], labels: list[int], depth: int, group_by_folder: bool) -> Files:
    """The files of a part. `depth`: how many folders of a name are the layout's own."""
    names = tuple(name for members in by_class for name in members)
    counts = [len(members) for members in by_class]
    groups = tuple(_group(name, depth) if group_by_folder else "" for name in names)
    return Files(names, np.repeat(np.asarray(labels, dtype=np.int64), counts), groups)


def _group(name: str, depth: int) -> str:
    # The first folder below the class folder: of nested ones the outermost, so that nothing is torn apart.
    folders = name.split("/")[:-1]
    return folders[depth] if len(folders) > depth else ""


def _check_train(walker: Walker, classes: dict[str, list[str]]) -> None:
    for name, files in classes.items():
        if not files:
            raise ConfigError(
                f"{walker.what}: class {name!r} has no image in train/{name}/. Accepted: "
                f"{' '.join(sorted(ENDINGS))}. Add images or remove the folder."
            )
    if len(classes) < 2:
        raise ConfigError(
            f"{walker.what}: train/ has one class, {next(iter(classes))!r}; at least 2 are needed. "
            f"Expected {LAYOUT}."
        )


def _check_other(walker: Walker, part: str, classes: dict[str, dict[str, list[str]]]) -> None:
    """valid/ and test/ have images, and no class that train/ lacks."""
    for name in classes[part]:
        if name not in classes["train"]:
            raise ConfigError(
                f"{walker.what}: class {name!r} is in {part}/ but not in train/, which has "
                f"{shown(tuple(classes['train']))}. Add train/{name}/ or remove {part}/{name}/."
            )
    if not any(classes[part].values()):
        raise ConfigError(
            f"{walker.what}: {part}/ has no image. Expected {LAYOUT}; without {part}/ a share of train/ is "
            f"held out."
        )
