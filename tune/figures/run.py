"""The figures of one run, which is a trial of a study or the folder of a training.

They are the published report's figures 1 to 5. Curves and pictures are those of validation images, and say so.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ssl_core.pictures.file import FILE_NAME as PICTURE_FILE
from ssl_core.pictures.file import load
from ssl_core.system.errors import ConfigError
from tune.figures.confusion import confusion_matrix, last_matrix
from tune.figures.curves import Reported, learning_curves, pseudo_label_health
from tune.figures.gallery import gallery
from tune.figures.style import Drawing, save

if TYPE_CHECKING:
    from tune.findings.study import Study
    from tune.trials.record import TrialRecord

FOLDER = "figures"


@dataclass(frozen=True)
class RunFigures:
    """The data that the figures of a run are drawn from.

    Attributes:
        title: the title of each figure; "": no title.
        reports: the reports of its epochs, in order.
        warmup: number of warm-up epochs.
        folder: the folder of the method's picture, if it made one.
        classes: names of the classes; empty if the data can no longer be read.
        test_confusion: the confusion matrix on the test images, where this run has read them.
    """

    title: str
    reports: Sequence[Reported]
    warmup: int
    folder: Path
    classes: tuple[str, ...]
    test_confusion: Sequence[Sequence[int]] | None = None

    def curves(self) -> Drawing:
        """Validation error, accuracy and the losses over epochs: figures 1 to 4."""
        return learning_curves(self.reports, title=self.title, warmup=self.warmup)

    def pseudo_labels(self) -> Drawing | None:
        """Number and accuracy of its pseudo-labels by class; None if it made none."""
        return pseudo_label_health(self.reports, classes=self.classes, title=self.title, warmup=self.warmup)

    def confusion(self) -> Drawing | None:
        """The confusion matrix on the validation images; None before the run's last epoch."""
        matrix = last_matrix(self.reports)
        return None if matrix is None else confusion_matrix(matrix, classes=self.classes, title=self.title)

    def confusion_test(self) -> Drawing | None:
        """The confusion matrix on the test images; None where the run has not read them."""
        if self.test_confusion is None:
            return None
        return confusion_matrix(self.test_confusion, classes=self.classes, images="test", title=self.title)

    def picture(self) -> Drawing | None:
        """The method's own picture, such as VAT's perturbed images: figure 5; None if it made none."""
        path = self.folder / PICTURE_FILE
        return gallery(load(path), title=self.title) if path.exists() else None


def figures(
    name: str | Path, output: Path | None = None, *, trial: str | None = None, home: Path | str | None = None
) -> list[Path]:
    """Draw the figures of a run.

    Args:
        name: a study, or the folder of a training; the study if both have this name.
        output: the folder of the figures; None: ``figures/trial-N`` in the study's folder, or ``figures`` in the
            training's folder.
        trial: a trial of the study; None: its best.
        home: the home folder.

    Returns:
        The files: learning_curves.png, and pseudo_labels.png, confusion.png, confusion_test.png and picture.png if
        there is something to draw.

    Raises:
        ConfigError: `name` is neither a study nor a training, there is no such trial, no epoch is finished yet, or
            the folder cannot be written.
    """
    run, default = _run(name, trial, home)
    if not run.reports:
        raise ConfigError(f"{name}: no epoch of this run is finished yet, so there is nothing to draw.")
    out = default if output is None else output.expanduser()
    drawn = {
        "learning_curves.png": run.curves(),
        "pseudo_labels.png": run.pseudo_labels(),
        "confusion.png": run.confusion(),
        "confusion_test.png": run.confusion_test(),
        "picture.png": run.picture(),
    }
    written = []
    for file, figure in drawn.items():
        if figure is not None:
            try:
                save(figure, out / file)
            except OSError as error:
                raise ConfigError(
                    f"{out / file} cannot be written: {error.strerror}. Name another folder."
                ) from None
            written.append(out / file)
    return written


def _run(name: str | Path, trial: str | None, home: Path | str | None) -> tuple[RunFigures, Path]:
    """The run that is named by its study or its folder, and the default folder of its figures."""
    from ssl_core.training.result import CONFIG_FILE
    from tune.findings.study import Study
    from tune.store.home import Home

    place, folder = Home(home), Path(name).expanduser()
    if not _is_study(place.studies, str(name)):
        if (folder / CONFIG_FILE).is_file():
            if trial is not None:
                raise ConfigError(f"--trial {trial}: {folder} is one training. Leave --trial out.")
            return run_of_folder(folder), folder / FOLDER
        if folder.is_dir() or len(folder.parts) > 1:
            raise ConfigError(
                f"{folder} is no folder of `ssl-tune train` ({CONFIG_FILE} is missing there). Name such a folder, "
                "or a study: `ssl-tune studies` lists them."
            )
    study = Study(place.existing_study_folder(str(name)))
    record = _trial(study, trial)
    return run_of_trial(study, record, titled=True), study.folder.path / FOLDER / f"trial-{record.trial}"


def _is_study(studies: Path, name: str) -> bool:
    from tune.store.layout import STUDY_FILE

    return "/" not in name and (studies / name / STUDY_FILE).is_file()


def _trial(study: Study, trial: str | None) -> TrialRecord:
    from tune.findings.ranking import best_record

    records = study.records()
    if trial is None:
        best, _ = best_record(records)
        if best is None:
            raise ConfigError(f"the study {study.name!r} has no trial with a result yet: nothing to draw.")
        return best
    found = next((r for r in records if r.trial == trial), None)
    if found is None:
        raise ConfigError(
            f"--trial {trial}: the study {study.name!r} has trials 0 to {len(records) - 1}."
            if records
            else f"--trial {trial}: the study {study.name!r} has no trial yet."
        )
    return found


def run_of_trial(study: Study, record: TrialRecord, *, titled: bool = False) -> RunFigures:
    """The figures of a trial; `titled` gives each a title, which it needs outside of the study's page."""
    from tune.store.event_log import EventLog

    config = study.spec.config
    with EventLog(study.folder.events_db, read_only=True) as log:
        reports = log.reports(f"{study.name}/{record.trial}")
    what = f"{config['method']} on {study.spec.dataset_tag}, {config['labels']} labels"
    return RunFigures(
        title=f"trial {record.trial} of {study.name}: {what}" if titled else "",
        reports=reports,
        warmup=record.epoch - (record.ssl_epoch or 0),
        folder=study.folder.trials / record.trial,
        classes=class_names(config["dataset"]),
    )


def run_of_folder(folder: Path) -> RunFigures:
    """The figures of a training, up to its newest checkpoint.

    Raises:
        ConfigError: no epoch is finished yet.
    """
    # these load torch
    from ssl_core.training import checkpoint
    from ssl_core.training.result import CHECKPOINTS, RESULT_FILE
    from ssl_core.training.run import Report
    from tune.definition.spec import dataset_tag

    state = checkpoint.load_newest(folder / CHECKPOINTS)
    if state is None:
        raise ConfigError(f"{folder}: no epoch of this run is finished yet, so there is nothing to draw.")
    config = state["config"]
    reports = [Report(**report) for report in state["history"]]
    written = folder / RESULT_FILE
    result = json.loads(written.read_text()) if written.exists() else {}
    return RunFigures(
        title=f"{config['method']} on {dataset_tag(config['dataset'])}, {config['labels']} labels",
        reports=reports,
        warmup=reports[-1].epoch - (reports[-1].ssl_epoch or 0),
        folder=folder,
        classes=class_names(config["dataset"]),
        test_confusion=result.get("test_confusion"),
    )


def class_names(dataset: str) -> tuple[str, ...]:
    """Names of a data set's classes; empty if the data can no longer be read."""
    from ssl_core.data.datasets import describe

    try:
        return describe(dataset).classes
    except (ConfigError, OSError):
        return ()
