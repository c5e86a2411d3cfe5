"""Replicates of a trial (`--repeats`): the same configuration on several training seeds, side by side in one worker.

Each has its own checkpoints. After each epoch of all of them the trial reports their mean, so that early stopping, the
sampler and the tables go by it. The first replicate is the trial as it would be without the others, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

from ssl_core.config import RunConfig
from ssl_core.training import checkpoint
from ssl_core.training.loop import run_epochs
from ssl_core.training.run import Report, Run
from ssl_core.training.warmups.names import SAVED, SECONDS
from ssl_core.training.warmups.sharing import WarmupSharing
from tune.definition.objective import error_and_loss
from tune.worker.report_keys import BOTH, ERROR, LOSS
from tune.worker.trial_files import TrialStore, checkpoints_kept

_SUMMED = (SECONDS, SAVED)  # an epoch counts as taken over where all replicates took it over
_SPREAD = "val/error"


def seeds_of(config: RunConfig, repeats: int) -> list[RunConfig]:
    """The configurations of a trial's replicates: its own first, then those with the seeds that follow."""
    return [config.model_copy(update={"seed": config.seed + more}) for more in range(repeats)]


def load(run: Run, store: TrialStore, sharing: WarmupSharing) -> int:
    """Load a run's newest checkpoint or, where there is none, the warm-up that another run has trained.

    What is taken over gets a checkpoint before any of it is reported: the store may be gone when the trial goes on.

    Returns:
        How many epochs the run has finished.
    """
    checkpoint.load_newest(store.folder, run.load_state)
    if sharing.take():
        _keep(run, store, run.config.last_epoch)
    return run.epoch


def _keep(run: Run, store: TrialStore, last: int) -> None:
    """Write the checkpoint after the epoch that a run has finished."""
    kept = checkpoints_kept(run.epoch, last)
    checkpoint.save(store.folder, run.epoch, run.state(), keep=kept)
    store.keep_checkpoint(run.epoch, kept)


def reports_of(
    run: Run, store: TrialStore, sharing: WarmupSharing, known: int, last: int
) -> Iterator[Report]:
    """A run's reports, from where it was loaded on, with a checkpoint after each.

    Args:
        run: the run, its newest checkpoint loaded (`load`).
        store: where its checkpoints lie.
        sharing: keeps its warm-up for other runs.
        known: the last epoch that the driver has; those of the checkpoint that come after it are given again.
        last: the last epoch of the run, which is given again also where it is known: the driver may have died before it
            noted the end.
    """
    yield from [_with_both(run, r) for r in run.history if r.epoch > known or r.epoch == last]
    for report in run_epochs(run):
        _keep(run, store, last)
        sharing.keep()
        yield _with_both(run, report)


def _with_both(run: Run, report: Report) -> Report:
    """A report with `error_and_loss` among its metrics, which goes by the epochs before it, too."""
    until = [r.metrics for r in run.history if r.epoch < report.epoch]
    epochs = [(metrics[ERROR], metrics[LOSS]) for metrics in [*until, report.metrics]]
    return replace(report, metrics=report.metrics | {BOTH: error_and_loss(epochs, len(run.valid))})


def together(replicates: Sequence[Iterator[Report]]) -> Iterator[Report]:
    """The means of several runs' reports, epoch by epoch.

    A run whose newest checkpoint was damaged begins earlier than the others: it catches up first.
    """
    while True:
        try:
            reports = [next(reports) for reports in replicates]
            epoch = max(report.epoch for report in reports)
            for place, run in enumerate(replicates):
                while reports[place].epoch < epoch:
                    reports[place] = next(run)
        except StopIteration:
            return
        yield mean(reports)


def mean(reports: Sequence[Report]) -> Report:
    """One report for several of the same epoch: the mean of each metric that all have, sums of counts and seconds."""
    first = reports[0]
    if len(reports) == 1:
        return first
    names = [name for name in first.metrics if all(name in report.metrics for report in reports)]
    metrics = {}
    for name in names:
        values = [report.metrics[name] for report in reports]
        metrics[name] = sum(values) if name in _SUMMED else fmean(values)
    if _SPREAD in metrics:
        metrics[f"{_SPREAD}_std"] = stdev(report.metrics[_SPREAD] for report in reports)
    shared = [name for name in first.classes if all(name in report.classes for report in reports)]
    classes = {name: added([report.classes[name] for report in reports]) for name in shared}
    return Report(first.epoch, first.ssl_epoch, metrics, classes, max(report.time_ms for report in reports))


def added(counts: Sequence[Any]) -> Any:
    """Counts of several runs, or rows of counts, added place by place."""
    if isinstance(counts[0], list | tuple):
        return [added(each) for each in zip(*counts, strict=True)]
    return sum(counts)
