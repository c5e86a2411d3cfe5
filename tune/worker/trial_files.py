"""A trial's checkpoints and notes in an object store, from the worker that trains it.

The worker writes them to a folder of its own machine, as in any home, and each file then to the store. The machine on
which the trial goes on takes the newest from there.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from ssl_core.system.files import write_atomically
from ssl_core.training import checkpoint
from tune.store.home import Home
from tune.store.layout import INCARNATION, TRIALS, prefix_of
from tune.store.object_store import ObjectStore
from tune.worker.task import Task


def checkpoints_kept(epoch: int, last_epoch: int) -> int:
    """How many checkpoints of a trial are kept after an epoch.

    While it runs two, since the newer one may be damaged when it is needed. Once it is complete nobody carries it on,
    and thousands of trials fill a disk.
    """
    return 1 if epoch == last_epoch else 2


class TrialStore(Protocol):
    """Where a worker's files go besides its own folder.

    Attributes:
        folder: the trial's, on this machine.
        cache: of decoded images, on this machine.
    """

    folder: Path
    cache: Path

    def fetch(self) -> None:
        """Get what another machine may have written into the folder."""

    def keep(self, name: str) -> None:
        """Keep a file of the folder where other machines find it, if there is one of this name."""

    def keep_checkpoint(self, epoch: int, kept: int) -> None:
        """Keep the checkpoint after an epoch where the machine finds it on which the trial goes on, one of `kept`."""


class SharedFolder:
    """All machines see the study's folder: nothing has to be done."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache

    def fetch(self) -> None:
        """Nothing: other machines see the same folder."""

    def keep(self, name: str) -> None:
        """Nothing: other machines see the same file."""

    def keep_checkpoint(self, epoch: int, kept: int) -> None:
        """Nothing: other machines see the same checkpoint."""


class RemoteTrial:
    """A trial of a study whose home is an object store.

    Args:
        place: what `tune.store.remote_study.RemoteStudy.place` says.
        number: the trial's.
        below: a folder in its folder; "": that itself.
    """

    def __init__(self, place: Mapping[str, str], number: int, below: str = "") -> None:
        home = Home(place["url"])
        study = home.studies / place["study"]
        self.folder, self.cache = study / TRIALS / str(number), home.cache
        self._store = ObjectStore(place["url"])
        self._prefix = f"{prefix_of(place['study'])}/trials/{number}"
        if below:
            self.folder, self._prefix = self.folder / below, f"{self._prefix}/{below}"
        self._study, self._incarnation = study, place["incarnation"]
        self._kept: list[int] | None = None

    def fetch(self) -> None:
        """See `TrialStore`."""
        self._forget_other_studies()
        self.folder.mkdir(parents=True, exist_ok=True)
        names = self._store.names(self._prefix)
        epochs = sorted(epoch for name in names if (epoch := checkpoint.epoch_of(name)) is not None)
        for name in names:
            if checkpoint.epoch_of(name) is None and not name.startswith(_FOLDERS):
                self._get(name)
        for epoch in reversed(epochs):  # the newest whole one
            path = checkpoint.path_of(self.folder, epoch)
            if path.exists() or not self._get(path.name):
                break
            try:
                checkpoint.read(path)
                break
            except checkpoint.DamagedCheckpointError as error:
                checkpoint.set_aside(path, error)
        self._kept = epochs

    def _get(self, name: str) -> bool:
        """Get a file of the trial; False where the store has none of this name any more."""
        data = self._store.get(f"{self._prefix}/{name}")
        if data is not None:
            write_atomically(self.folder / name, data)
        return data is not None

    def keep(self, name: str) -> None:
        """See `TrialStore`."""
        path = self.folder / name
        if path.exists():
            self._store.put(f"{self._prefix}/{name}", path.read_bytes())

    def keep_checkpoint(self, epoch: int, kept: int) -> None:
        """See `TrialStore`."""
        assert self._kept is not None
        self.keep(checkpoint.path_of(self.folder, epoch).name)
        self._kept = [old for old in self._kept if old != epoch] + [epoch]
        while len(self._kept) > kept:
            old = checkpoint.path_of(self.folder, self._kept.pop(0))
            self._store.remove(f"{self._prefix}/{old.name}")

    def _forget_other_studies(self) -> None:
        """Remove what this machine has of an earlier study of the same name."""
        mark = self._study / INCARNATION
        if mark.exists() and mark.read_text() == self._incarnation:
            return
        shutil.rmtree(self._study / TRIALS, ignore_errors=True)
        self._study.mkdir(parents=True, exist_ok=True)
        write_atomically(mark, self._incarnation.encode())


REPLICATE, FOLD = "seed-{}", "fold-{}"
"""Where the checkpoints of a further replicate and of a further fold lie, within the trial's folder."""

_FOLDERS = ("seed-", "fold-")


def folders_of(fold: int, repeats: int) -> list[str]:
    """Where the replicates of a fold lie within the trial's folder; "": in that folder itself."""
    first = FOLD.format(fold) if fold else ""
    others = [REPLICATE.format(more) for more in range(1, repeats)]
    return [first, *(f"{first}/{name}" if first else name for name in others)]


def trial_store(task: Task, below: str = "") -> TrialStore:
    """Where the files of a task's trial go, or of a replicate or fold of it, which has a folder in the trial's."""
    if task.store is None:
        return SharedFolder(Path(task.folder) / below, Path(task.cache))
    return RemoteTrial(task.store, task.trial, below)
