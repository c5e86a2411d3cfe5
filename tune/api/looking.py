"""A look at a data set before anything runs: what it holds, what is wrong with it, how it will be split."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_core.data.options import Options, Skipped
from ssl_core.system.errors import ConfigError
from tune.images.held_out import held_out_before
from tune.store.home import Home

if TYPE_CHECKING:
    from ssl_core.data.inspecting.inspection import Inspection
    from ssl_core.data.splits.drawing import Wanted

_SPLIT_KEYS = {"valid": "valid", "valid_share": "valid_share", "split": "mode", "split_seed": "split_seed"}


def data_summary(
    dataset: str,
    *,
    labels: int | None = None,
    settings: Mapping[str, Any] | None = None,
    data_root: Path | str | None = None,
    sheet: Path | str | None = None,
    home: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Decode every image of a data set and tell what was found; nothing is written but the contact sheet.

    Args:
        dataset: digits, cifar10, cifar100, svhn, stl10, folder:PATH or table:FILE.
        labels: labelled images of the split that would be drawn; None: the data set's usual number.
        settings: of the `data` section by dotted name, such as ``{"data.image_size": 32}``.
        data_root: where downloaded data lie; None: SSL_TUNE_DATA, else ./ssl-tune-data.
        sheet: a picture's file, PNG: some images of each class as the network sees them, with their views.
        home: the home folder, whose studies may have held out test images of this data set already; None:
            SSL_TUNE_HOME, else ./ssl-tune-home.
        progress: called with the number of images decoded so far, and of all.

    Returns:
        What was found; its `problems` are what a search would be refused for, its `document()` is plain data.

    Raises:
        ConfigError: an unknown data set or setting, or a layout that cannot be read.
    """
    from ssl_core.data.inspecting.inspection import inspect  # loads numpy

    root = None if data_root is None else Path(data_root)
    options, wanted, allow_leak = _read(labels, settings or {})
    if sheet is not None:
        _check_place(Path(sheet))
    found = inspect(
        dataset,
        root=root,
        options=options,
        wanted=wanted,
        membership=held_out_before(Home(home), dataset),
        allow_leak=allow_leak,
        progress=progress,
    )
    if sheet is not None:
        from ssl_core.data.inspecting.sheet import draw_sheet, sample  # loads torch

        draw_sheet(sample(dataset, root=root, options=options)).save(sheet)
    return found


def _read(labels: int | None, settings: Mapping[str, Any]) -> tuple[Options, Wanted | None, bool]:
    """Settings as the loaders and the split take them."""
    from ssl_core.data.splits.drawing import Wanted

    reading: dict[str, Any] = {}
    splitting: dict[str, Any] = {} if labels is None else {"labelled": labels}
    allow_leak = False
    names = {field.name for field in dataclasses.fields(Options)}
    for key, value in settings.items():
        section, _, name = key.partition(".")
        if section == "data" and name in names:
            reading[name] = _skipped(value) if name == "skipped" else value
        elif section == "data" and name in _SPLIT_KEYS:
            splitting[_SPLIT_KEYS[name]] = value
        elif key == "data.allow_leak":
            allow_leak = bool(value)
        else:
            raise ConfigError(
                f"{key} says nothing of how images are read or split. Accepted here: data.image_size and other "
                f"settings of the data section."
            )
    return Options(**reading), Wanted(**splitting) if splitting else None, allow_leak


def _skipped(listed: Any) -> tuple[Skipped, ...] | None:
    """The files that a configuration records as left out."""
    try:
        return None if listed is None else tuple(Skipped(one["file"], one["sha256"]) for one in listed)
    except (TypeError, KeyError):
        raise ConfigError(
            "data.skipped: a list of files, each with `file` and `sha256`, as a configuration records it."
        ) from None


def _check_place(sheet: Path) -> None:
    """Refuse a file that cannot be a picture, before images are decoded for minutes."""
    if sheet.suffix.lower() != ".png":
        raise ConfigError(
            f"-o {sheet}: the contact sheet is a PNG file: name it {sheet.with_suffix('.png')}."
        )
    if not sheet.absolute().parent.is_dir():
        raise ConfigError(f"-o {sheet}: the folder {sheet.absolute().parent} does not exist. Make it first.")
