"""Folds of a trial (`--folds`): the same configuration on several divisions of the labelled and validation images.

They are trained one after the other in one worker, each from its first epoch to its last, with checkpoints of its own.
The trial's epochs go on counting: with E epochs a fold, epoch e of fold f is the trial's epoch f * E + e. Its value is
the mean over the folds that have finished; fold 0 alone, while it is under way, has the value of its newest epoch. Fold
0 is the trial as it would be without the others, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from ssl_core.training.run import Report
from tune.definition.objective import FOLD, own
from tune.worker.replicates import added
from tune.worker.report_keys import BALANCED, BOTH, ERROR, LOSS

_COUNTED = ("images", "wrong", "confusion")


@dataclass(frozen=True)
class Told:
    """What a trial tells after an epoch.

    Attributes:
        report: of the trial: its epoch over all folds; `ssl_epoch` is that less the length of one warm-up.
        in_warmup: whether the epoch was one of its fold's warm-up.
        ends_fold: whether it was its fold's last.
    """

    report: Report
    in_warmup: bool
    ends_fold: bool


def over_folds(
    trained: Callable[[int], Iterator[Report]], folds: int, epochs: int, known: int
) -> Iterator[Told]:
    """What a trial tells, epoch by epoch, over all of its folds.

    Args:
        trained: the reports of a fold's run; of one that has finished at least the last.
        folds: how many there are.
        epochs: of one fold.
        known: the last epoch of the trial that the driver has: those before it are not told again. The very last one
            is, since the driver may have died before it noted the end.
    """
    finished: list[Report] = []
    for fold in range(folds):
        for report in trained(fold):
            if report.epoch == epochs:
                finished.append(report)
            epoch = fold * epochs + report.epoch
            if epoch > known or epoch == folds * epochs:
                told = report if folds == 1 else _of_trial(report, fold, epochs, finished)
                yield Told(told, report.ssl_epoch is None, report.epoch == epochs)


def _of_trial(report: Report, fold: int, epochs: int, finished: Sequence[Report]) -> Report:
    """A fold's report as the trial's: its value over the finished folds, the fold's own under names of their own."""
    counts = finished or [report]
    metrics = dict(report.metrics)
    for name in (ERROR, BALANCED, LOSS, BOTH):
        if name in report.metrics:
            metrics[own(name)] = report.metrics[name]
            metrics[name] = fmean(each.metrics[name] for each in counts)
    metrics[FOLD] = float(fold)
    if len(finished) > 1 and report is finished[-1]:
        metrics[f"{own(ERROR)}_std"] = stdev(each.metrics[ERROR] for each in finished)
    classes = dict(report.classes)
    for name in _COUNTED:
        if name in classes and all(name in each.classes for each in counts):
            classes[name] = added([each.classes[name] for each in counts])
    ssl_epoch = report.ssl_epoch
    if fold:  # every fold has the same warm-up
        ssl_epoch = fold * epochs + report.epoch - (epochs - (finished[0].ssl_epoch or 0))
    return replace(
        report, epoch=fold * epochs + report.epoch, ssl_epoch=ssl_epoch, metrics=metrics, classes=classes
    )
