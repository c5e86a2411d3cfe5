"""Why a study's best may be worth nothing: chance level, a loss that hardly fell, no unlabelled image to learn from."""

from __future__ import annotations

from collections.abc import Sequence

from ssl_core.system.errors import ConfigError
from tune.definition.spec import StudySpec
from tune.findings.ranking import best_record, deviation_of
from tune.images.study import StudyImages, read_images
from tune.store.event_log import EventLog
from tune.store.study_folder import StudyFolder
from tune.trials.record import TrialRecord

HARDLY = 0.95
"""A training loss that is more than this share of its first epoch's has hardly fallen."""
WITHOUT_IMAGES = ("supervised",)
"""Methods that learn from labelled images alone."""


def doubts_of(folder: StudyFolder, spec: StudySpec, records: Sequence[TrialRecord]) -> list[str]:
    """Sentences that say why the best of a study should not be confirmed as it is; none where nothing is wrong.

    Args:
        folder: the study's.
        spec: the study.
        records: its trials.

    Raises:
        DamagedError: the event log is damaged.
    """
    try:
        images = read_images(folder.path)
    except ConfigError:  # who needs the record says that it is damaged
        images = None
    best, _ = best_record(records)
    found = [_no_images(spec, images), _chance(spec, best, images), _loss(folder, spec, best)]
    return [sentence for sentence in found if sentence is not None]


def chance_error(images: StudyImages, objective: str) -> float:
    """The error in percent of who names the same class for every validation image: the most frequent one."""
    if objective == "val/error_balanced":
        return 100 * (1 - 1 / len(images.classes))
    return 100 * (1 - max(images.valid) / sum(images.valid))


def _no_images(spec: StudySpec, images: StudyImages | None) -> str | None:
    method = spec.config["method"]
    if images is None or method in WITHOUT_IMAGES or images.unlabelled > sum(images.labelled):
        return None
    return (
        f"No image is left without a label, and {method} learns from such: it can be no better than supervised "
        "training. Let fewer images keep their label (--labels), or add pictures without labels."
    )


def _chance(spec: StudySpec, best: TrialRecord | None, images: StudyImages | None) -> str | None:
    if best is None or images is None or not sum(images.valid):
        return None
    balanced = spec.objective == "val/error_balanced"
    error, chance = (
        best.val_error_balanced if balanced else best.val_error,
        chance_error(images, spec.objective),
    )
    if error is None or error < chance - deviation_of(best, sum(images.valid)):
        return None
    return (
        f"The best, trial {best.trial}, is at chance level: {error:.2f} % wrong, where naming the same class for every "
        f"image gives {chance:.2f} %. Nothing was learned: look at the images (ssl-tune data), train longer "
        "(--epochs), or search the learning rate."
    )


def _loss(folder: StudyFolder, spec: StudySpec, best: TrialRecord | None) -> str | None:
    if best is None or best.epoch < 2 or not folder.events_db.exists():
        return None
    with EventLog(folder.events_db, read_only=True) as log:
        reports = log.reports(f"{spec.name}/{best.trial}")
    name = (
        "train/loss_supervised" if reports and "train/loss_supervised" in reports[0].metrics else "train/loss"
    )
    losses = [report.metrics[name] for report in reports if name in report.metrics]
    if len(losses) < 2 or not losses[-1] > HARDLY * losses[0]:
        return None
    return (
        f"The training loss of trial {best.trial} hardly fell: {losses[0]:.3f} after its first epoch, "
        f"{losses[-1]:.3f} after its last. Train longer (--epochs), or search the learning rate (--space wide)."
    )
