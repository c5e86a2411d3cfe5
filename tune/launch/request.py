"""From what a person asks to a study's specification. Loads neither torch, Ray nor MLflow.

Everything cheap is checked here, before anything is written.
"""

from __future__ import annotations

import os
import time
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_spaces import SearchSpace, load_space
from ssl_core import method_file
from ssl_core.config import RunConfig, from_document, options_of, resolve
from ssl_core.data.datasets import DatasetInfo, describe
from ssl_core.system.errors import ConfigError
from ssl_core.trusted import trust_named
from tune.cluster.capacity import Machine, gpu_places, share
from tune.cluster.gpus import check_gpus, gpu_count
from tune.definition.coherence import (
    check_folds,
    check_sampler,
    check_sense,
    chosen_grace,
    chosen_sampler,
)
from tune.definition.inputs import with_absolute_place, with_overrides
from tune.definition.request import STARTUP_TRIALS, KeptOptions, SearchRequest
from tune.definition.rungs import stopping_of
from tune.definition.spec import SpaceSource, StudySpec, dataset_label, dataset_tag, without
from tune.store.home import Home
from tune.store.layout import check_name
from tune.tracking.uri import absolute_uri, check_tracking_uri


@dataclass(frozen=True)
class Places:
    """Where trials run.

    Attributes:
        concurrent: trials side by side.
        threads: of each trial.
        gpus: of each trial; may be a fraction.
    """

    concurrent: int
    threads: int
    gpus: float


def check_request(request: SearchRequest) -> None:
    """What can be told of a request without its data, its machines and its home, which may all be elsewhere.

    Raises:
        ConfigError: anything wrong.
    """
    check_sampler(request.sampler, request.trials)
    config = from_document(_document(request))
    trust_named(request.method)
    space = load_space(request.method, request.space)
    fixed = _fixed_by_set(space, request.settings)
    check_sense(without(space, fixed) if fixed else space, config)
    if request.name is not None:
        check_name(request.name)
    if request.tracking_uri is not None:
        check_tracking_uri(request.tracking_uri)


def resolve_request(
    request: SearchRequest,
    home: Home,
    machines: Sequence[Machine] | None = None,
    places: Places | None = None,
    *,
    grows: bool = False,
) -> StudySpec:
    """The specification of the study that is asked for.

    Args:
        request: what is asked for.
        home: the home folder.
        machines: of the cluster that it is to run on; None: this machine.
        grows: that cluster starts machines by itself.
        places: where its trials run, where that is known already: no machine is looked at.

    Raises:
        ConfigError: anything wrong that can be known without decoding images.
    """
    check_sampler(request.sampler, request.trials)
    asked = from_document(_document(request))
    trust_named(request.method)
    if places is None:
        places = _places(request, asked, machines, grows)
    config, info, data_root = _resolved(request, asked, places.threads)
    check_folds(request.folds, info, config)
    assert config.epochs is not None
    searched, source = _space(request, config)
    tracking_uri = _tracking_uri(request, home)
    _check_places(request)
    home.check_writable()
    kept = {name: getattr(request, name) for name in KeptOptions.model_fields}
    kept["data_root"] = str(data_root) if data_root else None
    kept["startup_trials"] = STARTUP_TRIALS if request.startup_trials is None else request.startup_trials
    spec = StudySpec(
        **kept,
        name=request.name or home.free_name(f"{dataset_tag(config.dataset)}@{config.labels}-{config.method}"),
        config=config.document(),
        method_path=_method_path(config, request),
        space=source,
        concurrent=places.concurrent,
        gpus_per_trial=places.gpus,
        uid=uuid.uuid4().hex,
        points=_points(request.points, searched, config.epochs),
        tracking_uri=tracking_uri,
        elastic=request.address is not None and request.concurrent is None,
        protocol=info.protocol,
        label=dataset_label(config.dataset),
        no_work_twice=True,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    spec = _with_choices(spec, len(searched.parameters))
    if spec.sampler == "grid":
        from tune.trials.grid import first_grid

        spec = spec.model_copy(update=first_grid(spec, searched))
    if spec.warm_start is not None:
        _check_warm_start(spec, home)
    return spec


def _with_choices(spec: StudySpec, parameters: int) -> StudySpec:
    """The study with its sampler and the first look of early stopping, where they are left to the program."""
    epochs, trials = int(spec.config["epochs"]), spec.trials
    if spec.epochs_budget is not None:  # ASHA leaves some a third of their epochs
        trials = min(trials, 3 * spec.epochs_budget // epochs)
    sampler = spec.sampler
    if spec.warm_start is not None and sampler == "auto":
        sampler = "tpe"  # which learns from the earlier trials
    chosen = {
        "sampler": chosen_sampler(sampler, trials, parameters),
        "grace": chosen_grace(spec.grace, spec.scheduler, epochs),
    }
    spec = spec.model_copy(update=chosen)
    stopping_of(spec).check(epochs)
    return spec


def places_of(
    request: SearchRequest, machines: Sequence[Machine] | None = None, *, grows: bool = False
) -> Places:
    """Where the trials of a request run.

    Args:
        request: what is asked for.
        machines: of the cluster that it is to run on; None: this machine.
        grows: that cluster starts machines by itself.

    Raises:
        ConfigError: there are no such machines.
    """
    return _places(request, from_document(_document(request)), machines, grows)


def _places(
    request: SearchRequest, asked: RunConfig, machines: Sequence[Machine] | None, grows: bool
) -> Places:
    """How many trials run at a time, and with how many threads and GPUs each."""
    gpus = _gpus(request, machines)
    if machines is not None:
        concurrent, threads = share(
            machines,
            trials=request.trials,
            gpus=gpus,
            concurrent=request.concurrent,
            threads=asked.threads,
            grows=grows,
        )
        return Places(concurrent, threads, gpus)
    cores = len(os.sched_getaffinity(0))
    concurrent = request.concurrent or _default_concurrent(gpus, cores, request.trials)
    return Places(concurrent, max(1, cores // concurrent), gpus)


def _tracking_uri(request: SearchRequest, home: Home) -> str:
    uri = request.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or home.default_tracking_uri
    if home.url is not None and uri == home.default_tracking_uri:
        raise ConfigError(
            f"the home {home.url} is no place for MLflow's SQLite file: name a server with --tracking-uri or "
            "MLFLOW_TRACKING_URI."
        )
    check_tracking_uri(uri)
    return absolute_uri(uri)


def _resolved(
    request: SearchRequest, asked: RunConfig, threads: int
) -> tuple[RunConfig, DatasetInfo, Path | None]:
    """The configuration that all trials share, what is known of its data set, and the folder of downloads, good from
    any working directory."""
    data_root = Path(request.data_root) if request.data_root else None
    info = describe(asked.dataset, root=data_root, options=options_of(asked))
    config = resolve(asked, info, cores=threads)
    config = config.model_copy(update={"dataset": with_absolute_place(config.dataset)})
    return config, info, data_root and data_root.expanduser().resolve()


def _space(request: SearchRequest, config: RunConfig) -> tuple[SearchSpace, SpaceSource]:
    """What is searched, and the whole space as the study keeps it."""
    space = load_space(request.method, request.space)
    fixed = _fixed_by_set(space, request.settings)
    searched = without(space, fixed) if fixed else space
    check_sense(searched, config)
    source = SpaceSource(
        source=space.source,
        variant=space.variant,
        digest=searched.digest(),
        text=space.text,
        fixed_by_set=tuple(fixed),
    )
    return searched, source


def _check_places(request: SearchRequest) -> None:
    if request.name is not None:
        check_name(request.name)
    if request.storage is not None:
        from tune.trials.optuna_storage import check_storage_url

        check_storage_url(request.storage)


def _points(
    points: str | Sequence[Mapping[str, Any]] | None, space: SearchSpace, epochs: int
) -> tuple[dict[str, Any], ...]:
    from tune.definition.points import check_points, read_points

    if points is None:
        return ()
    if isinstance(points, str):
        return check_points(read_points(Path(points)), space, epochs, points)
    return check_points(points, space, epochs, "points")


def _check_warm_start(spec: StudySpec, home: Home) -> None:
    from tune.store.specification import read_spec
    from tune.store.study_folder import StudyFolder
    from tune.trials.handover import check_warm_start, overlap
    from tune.trials.reading import ended_trials

    assert spec.warm_start is not None
    place = home.existing_study_folder(spec.warm_start)
    earlier = read_spec(place)
    told = check_warm_start(spec, earlier)
    overlap(spec, earlier, ended_trials(StudyFolder(place)))
    for difference in told:
        warnings.warn(difference, stacklevel=2)


def _document(request: SearchRequest) -> dict[str, Any]:
    """The configuration that is asked for: options that a run has too, and above them what `--set` fixes."""
    common = {
        name: getattr(request, name) for name in type(request).model_fields if name in RunConfig.model_fields
    }
    return with_overrides({k: v for k, v in common.items() if v is not None}, request.settings)


def _method_path(config: RunConfig, request: SearchRequest) -> str | None:
    return None if config.method_digest is None else str(method_file.path_of(request.method).resolve())


def _fixed_by_set(space: SearchSpace, settings: Mapping[str, Any]) -> list[str]:
    names = {p.name for p in space.parameters}
    fixed = [n for n in settings if n in names]
    if "warmup_epochs" in settings and "warmup_share" in names:
        fixed.append("warmup_epochs")
    return fixed


def _gpus(request: SearchRequest, machines: Sequence[Machine] | None) -> float:
    if request.gpus_per_trial is None:
        there = gpu_count() if machines is None else sum(machine.gpus for machine in machines)
        return 1.0 if there else 0.0
    if machines is None:
        check_gpus(
            request.gpus_per_trial,
            "Take at most what it has with --gpus-per-trial, or a cluster with --address.",
        )
    return request.gpus_per_trial


def _default_concurrent(gpus: float, cores: int, trials: int) -> int:
    room = gpu_places(gpu_count(), gpus) if gpus else cores
    return max(1, min(room, trials))
