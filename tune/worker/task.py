"""What a worker is told of a trial: the one contract between driver and worker."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_core import method_file
from tune.definition.spec import StudySpec
from tune.images.study import read_images
from tune.store.home import Home
from tune.store.study_folder import StudyFolder

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

PRELOAD = "tune.worker.trainable"
"""The module that Ray's workers load when they start (`tune.cluster.local_ray.start_ray`)."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One trial, as a worker is told of it: plain data, whichever machine the worker is on.

    Attributes:
        trial: its number in the study.
        config: the whole configuration, as `ssl_core.config.RunConfig.document` gives it.
        method_text: the text of a method of the user's own; None for one that comes with the package.
        folder: the trial's folder, as this machine sees it.
        store: the study's place in an object store (`tune.store.remote_study.RemoteStudy.place`), where it has one.
        max_failures: how often a trial that raises is tried again.
        known_epoch: the last epoch that the driver has written down: later ones are to be reported again.
        split_hash: what the worker's split must have as its hash.
        cache: folder of decoded images.
        data_root: where downloaded data lie.
        gpus: of the trial; may be a fraction.
        system_metrics: whether use of processor, memory and GPU is reported, too.
        held_out: the record of held-out test images (`Membership.document`); None: the data set brings its own.
        identity: versions that the worker must have, where it may be on another machine (`tune.cluster.identity`).
        repeats: on how many training seeds the configuration is trained (`tune.worker.replicates`).
        fold_hashes: of the further folds that the configuration is trained on (`tune.worker.folds`), likewise.
        warmup_cache: bytes that stored warm-ups may take (`ssl_core.training.warmups.store.WarmupStore`).
    """

    trial: int
    config: Mapping[str, Any]
    method_text: str | None
    folder: str
    store: Mapping[str, str] | None
    max_failures: int
    known_epoch: int
    split_hash: str | None
    cache: str
    data_root: str | None
    gpus: float
    system_metrics: bool
    held_out: Mapping[str, Any] | None = None
    identity: Mapping[str, str] | None = None
    repeats: int = 1
    warmup_cache: int | None = None
    fold_hashes: Sequence[str] = ()

    def as_config(self) -> dict[str, Any]:
        """As Ray Tune has it: the `config` of its trial, a dictionary of the fields."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Task:
        """The task of a `config` of Ray Tune's."""
        return cls(**{field.name: config[field.name] for field in dataclasses.fields(cls)})


def study_of(config: Mapping[str, Any]) -> str:
    """The study of a trial, from its `config` in Ray Tune: the name of the folder that holds the trials' own."""
    return Path(config["folder"]).parent.parent.name


def trial_task(
    spec: StudySpec,
    trial: FrozenTrial,
    folder: StudyFolder,
    home: Home,
    identity: Mapping[str, str] | None = None,
) -> Task:
    """The task of a trial.

    Args:
        spec: the study.
        trial: the trial in Optuna.
        folder: the study's folder.
        home: the home folder.
        identity: as in `Task`.
    """
    digest = spec.config.get("method_digest")
    return Task(
        trial=trial.number,
        config=spec.trial_config(trial.params).document(),
        method_text=None if digest is None else method_file.text_of(digest),
        folder=str(folder.trials / str(trial.number)),
        store=None if folder.remote is None else folder.remote.place(),
        max_failures=spec.max_failures,
        known_epoch=trial.user_attrs.get("last", {}).get("epoch", 0),
        split_hash=spec.split_hash,
        cache=str(home.cache),
        data_root=spec.data_root,
        gpus=spec.gpus_per_trial,
        system_metrics=spec.system_metrics,
        held_out=None if (images := read_images(folder.path)) is None else images.held_out,
        identity=identity,
        repeats=spec.repeats,
        warmup_cache=spec.warmup_cache,
        fold_hashes=spec.fold_hashes,
    )
