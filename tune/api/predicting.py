"""Labels for images, from a model's folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_core.system.errors import ConfigError
from tune.findings.study import load_study
from tune.store.home import Home

if TYPE_CHECKING:
    import pandas as pd

    from ssl_core.model.model import Model
    from ssl_core.model.table import Predictions

_ERRORS_KEPT = 10


@dataclass
class Predicted:
    """What was predicted.

    Attributes:
        images: how many, those that cannot be read included.
        labels: how many images got each label.
        damaged: how many cannot be read.
        errors: of the first ten of those, by file.
        table: a row for each image, see `ssl_core.model.model.Model.predict`; None where it went into a file.
        sheet: the contact sheet that was drawn.
        notes: sentences about what was left out.
    """

    images: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    damaged: int = 0
    errors: dict[str, str] = field(default_factory=dict)
    table: pd.DataFrame | None = None
    sheet: Path | None = None
    notes: list[str] = field(default_factory=list)

    def count(self, table: pd.DataFrame) -> None:
        """Count some rows."""
        self.images += len(table)
        self.labels.update(str(label) for label in table["label"].dropna())
        bad = table[table["error"].notna()]
        self.damaged += len(bad)
        for file, error in zip(bad["file"], bad["error"], strict=True):
            if len(self.errors) < _ERRORS_KEPT:
                self.errors[str(file)] = str(error)


def predict(
    model: Path | str,
    images: Any = None,
    *,
    top: int = 1,
    output: Path | str | None = None,
    by_class: Path | str | None = None,
    unlabelled_of: str | None = None,
    sheet: Path | str | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    data_root: Path | str | None = None,
    home: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
    each: Callable[[pd.DataFrame], None] | None = None,
) -> Predicted:
    """Label images with a model. Memory does not grow with their number where the table goes into a file.

    Args:
        model: the model's folder.
        images: files and folders, one or several; None with `unlabelled_of`.
        top: how many of the most likely classes.
        output: the table, CSV or Parquet by the file's ending; files in its folder or below are named relative to it.
        by_class: a new folder for copies of the images, in a folder for each class.
        unlabelled_of: a study: its images without a label, or whose label is hidden, are predicted.
        sheet: a picture (PNG) of the images that the model is least certain of; None: with `unlabelled_of` and
            `output` one beside the table.
        batch_size: images of one pass; None: those of the training's own evaluation.
        device: "auto" (a GPU where there is one), "cpu" or "cuda".
        data_root, home: where downloaded data lie and the home folder, for `unlabelled_of`.
        progress: called with the number of images done so far, and of all.
        each: given the rows as they come, in place of a table at the end.

    Raises:
        ConfigError: no such model or study, a model that is damaged or newer, or has other classes than the study; no
            such image; a place that cannot be written to.
    """
    from ssl_core.model.model import load  # loads torch
    from ssl_core.model.sheet import LeastCertain
    from tune.predictions.writing import ByClass, TableFile

    table, picture = _places(output, sheet, unlabelled_of)
    if (images is None) == (unlabelled_of is None):
        raise ConfigError("name the images to predict, or a study with --unlabelled-of: one of the two.")
    loaded = load(model, device=device)
    found, least = Predicted(sheet=picture), LeastCertain(loaded.classes)
    source, names = _source(loaded, images, unlabelled_of, data_root, home, found, by_class is not None)
    parts = loaded.stream(
        source, top=top, batch_size=batch_size, names=names, progress=progress, seen=least.see
    )
    with ExitStack() as stack:
        sinks: list[Callable[[pd.DataFrame], None]] = [found.count]
        sinks += [stack.enter_context(TableFile(table)).write] if table is not None else []
        sinks += [ByClass(Path(by_class).expanduser()).write] if by_class is not None else []
        sinks += [each] if each is not None else []
        keep = table is None and each is None
        found.table = _pass_on(parts, loaded.classes, top, sinks, keep=keep)
    if picture is not None:
        least.draw().save(picture)
    return found


def _pass_on(
    parts: Iterable[Predictions],
    classes: tuple[str, ...],
    top: int,
    sinks: Sequence[Callable[[pd.DataFrame], None]],
    *,
    keep: bool,
) -> pd.DataFrame | None:
    """Give each part's rows to every sink; the whole table where it is kept."""
    from ssl_core.model.table import table_of

    kept = []
    for part in parts:
        rows = table_of([part], classes, top)
        for sink in sinks:
            sink(rows)
        if keep:
            kept.append(part)
    return table_of(kept, classes, top) if keep else None


def _places(
    output: Path | str | None, sheet: Path | str | None, study: str | None
) -> tuple[Path | None, Path | None]:
    """The files of the table and of the contact sheet, checked."""
    from tune.predictions.writing import check_table

    table = None if output is None else Path(output).expanduser()
    picture = None if sheet is None else Path(sheet).expanduser()
    if table is not None:
        check_table(table)
    if picture is None and table is not None and study is not None:
        picture = table.with_name(f"{table.stem}-least-certain.png")
    if picture is not None and (picture.suffix.lower() != ".png" or not picture.absolute().parent.is_dir()):
        raise ConfigError(f"--sheet {picture}: name a PNG file in a folder that exists.")
    return table, picture


def _source(
    model: Model,
    images: Any,
    study: str | None,
    data_root: Path | str | None,
    home: Path | str | None,
    found: Predicted,
    must_be_files: bool,
) -> tuple[Any, list[str] | None]:
    """The images, and their names where they are no files."""
    from ssl_core.model.images import find_files
    from tune.predictions.unlabelled import unlabelled_of

    if study is None:
        files = find_files([images] if isinstance(images, str | Path) else images)
        found.notes += files.notes
        return files.files, None
    place = Home(home)
    root = None if data_root is None else Path(data_root)
    wanted = unlabelled_of(load_study(study, home=home), model.classes, root, place)
    if must_be_files and wanted.names is not None:
        raise ConfigError("--by-class copies files, and the images of this study are none. Leave it out.")
    return wanted.images, wanted.names
