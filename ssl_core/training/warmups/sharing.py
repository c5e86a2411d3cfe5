"""How a run takes over a warm-up that another run has trained, and keeps what it trains beyond.

A run that takes a warm-up over goes on as if it had trained it: to the same bits. It keeps its own configuration and
its method's `init_state`.
"""

from __future__ import annotations

import copy
import time
from dataclasses import asdict
from typing import Any

from ssl_core.config import warmup_from_share
from ssl_core.training.checkpoint import DamagedCheckpointError
from ssl_core.training.run import Report, Run
from ssl_core.training.warmups.key import key_of, warmup_length
from ssl_core.training.warmups.names import SAVED, SECONDS
from ssl_core.training.warmups.store import WarmupStore

LONGEST_SHARE, LONGEST_EPOCHS = 0.5, 10
"""The longest warm-up that a search space of the package allows, as a share of the run or in epochs. A supervised run
keeps so many of its epochs for others."""
_PARTS = ("network", "ema", "optimizer")


class WarmupSharing:
    """A run's dealings with a store of warm-ups.

    Args:
        run: which has not begun, and has loaded no checkpoint.
        store: where warm-ups are kept; None: nowhere.
    """

    def __init__(self, run: Run, store: WarmupStore | None) -> None:
        self._run, self._store, self._key = run, store, ""
        if store is None or store.is_off:
            self._store = None
            return
        assert run.epoch == 0
        length = warmup_length(run.config)
        # The last epoch is always trained: what is measured after it is more than after the others.
        self._most_taken = min(length, run.config.last_epoch - 1)
        is_warmup = run.method.has_warmup
        self._most_kept = length if is_warmup else min(length, longest_shared(run.config.epochs or 1))
        if length == 0:
            self._store = None
        else:
            self._key = key_of(run)

    def take(self) -> list[Report]:
        """Take over the longest warm-up that is kept and no longer than the run's own, if the run has not begun.

        Returns:
            The reports of its epochs, which are in the run's history now; none where nothing was taken.
        """
        run, store = self._run, self._store
        if store is None or run.epoch > 0:
            return []
        for epoch in store.epochs(self._key):
            if 0 < epoch <= self._most_taken and self._taken(store, epoch):
                store.used(self._key, epoch)
                return list(run.history)
        return []

    def _taken(self, store: WarmupStore, epoch: int) -> bool:
        """Take over the state after an epoch; False, and the run as it was, where that cannot be done."""
        run, found = self._run, store.read(self._key, epoch)
        if found is None:
            return False
        before = copy.deepcopy(run.state())
        try:
            if found["key"] != self._key or found["epoch"] != epoch:
                raise DamagedCheckpointError(f"it is that of {found['key']} after epoch {found['epoch']}")
            reports = _reports_of(found["reports"], epoch, run)
            parts = [*_PARTS, *([] if run.loss_scale is None else ["loss_scale"])]
            run.load_state(run.state() | {part: found[part] for part in parts} | {"history": reports})
        except (DamagedCheckpointError, KeyError, TypeError, ValueError) as error:
            run.load_state(before)  # some of it may have been loaded
            store.remove(self._key, epoch, f"{type(error).__name__}: {error}")
            return False
        return True

    def keep(self) -> None:
        """Keep the run's state after the epoch that it has just finished, if that is one of the warm-up."""
        run, store = self._run, self._store
        if store is None or not 0 < run.epoch <= self._most_kept:
            return
        state = run.state()
        kept = {part: state[part] for part in (*_PARTS, "loss_scale") if part in state}
        reports = [_plain(report) for report in run.history]
        store.write(self._key, run.epoch, {"key": self._key, "epoch": run.epoch, "reports": reports, **kept})


def longest_shared(epochs: int) -> int:
    """Epochs of a supervised run that are kept for the warm-ups of others."""
    return max(warmup_from_share(LONGEST_SHARE, epochs), min(LONGEST_EPOCHS, epochs - 1))


def _plain(report: Report) -> dict[str, Any]:
    """A report of the warm-up without what is the run's own: when it was, and whether others call it a warm-up."""
    metrics = dict(report.metrics)
    if SAVED in metrics:
        metrics[SECONDS] = metrics.pop(SAVED)
    classes = {name: counts for name, counts in report.classes.items() if name != "confusion"}
    return {"epoch": report.epoch, "metrics": metrics, "classes": classes}


def _reports_of(stored: list[dict[str, Any]], epoch: int, run: Run) -> list[dict[str, Any]]:
    """The reports of a warm-up as a run has them that takes it over now.

    Raises:
        DamagedCheckpointError: they are not those of the epochs from 1 on.
    """
    if [one["epoch"] for one in stored] != list(range(1, epoch + 1)):
        raise DamagedCheckpointError(f"it lacks reports of its {epoch} epochs")
    is_warmup = run.method.has_warmup
    now, reports = time.time_ns() // 1_000_000, []
    for one in stored:
        metrics = {**one["metrics"], SAVED: float(one["metrics"][SECONDS]), SECONDS: 0.0}
        number = None if is_warmup else one["epoch"]
        reports.append(asdict(Report(one["epoch"], number, metrics, dict(one["classes"]), now)))
    return reports
