"""From what a person asks to a study's specification. Loads neither torch, Ray nor MLflow.

Everything cheap is checked here, before anything is written.
"""

from __future__ import annotations

import os
import time
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search_spaces import SearchSpace, load_space
from ssl_core import method_file
from ssl_core.config import RunConfig, from_document, resolve
from ssl_core.data.datasets import describe
from ssl_core.system.errors import ConfigError, unknown
from tune.cluster.capacity import Machine, share
from tune.cluster.gpus import check_gpus, gpu_count
from tune.definition.coherence import check_sense
from tune.definition.inputs import parse_duration, with_overrides
from tune.definition.spec import SpaceSource, StudySpec, dataset_tag, without
from tune.store.home import Home, check_name
from tune.tracking.uri import check_tracking_uri

DEFAULT_TRIALS = 16
SAMPLERS = ("tpe", "random", "gp", "grid")


@dataclass(frozen=True, kw_only=True)
class SearchRequest:
    """What `ssl-tune search` and `plan` take; None: a default that fits data and machine.

    Attributes:
        method, dataset, labels, network, epochs: of every trial; a method of one's own is ``file:PATH``.
        trials: how many configurations.
        name: of the study.
        space: "wide", or a YAML file of one's own; None: the method's default space.
        settings: fixed configuration values by dotted name; a searched parameter is then not searched.
        concurrent: trials side by side.
        gpus_per_trial: may be a fraction.
        seed: of the sampler and of every trial's training.
        time_budget: seconds, or text such as "2h".
        sampler: tpe, random, gp or grid.
        startup_trials: drawn at random before tpe or gp models anything; None: a third of the trials, 4 to 10.
        points: configurations to try first, after the baseline: a YAML file, or a list of mappings.
        warm_start: an earlier study of the same method and space, whose trials the sampler starts from.
        storage: database URL for the trials; None: a file in the study's folder.
        max_failures: how often a trial that raises is tried again.
        tracking_uri: of MLflow; None: MLFLOW_TRACKING_URI, else the home's own database.
        tracking_timeout: seconds (or text) to wait for tracking at the end.
        require_tracking: do not start where MLflow cannot be reached.
        system_metrics: log also, with each epoch, what trials use of processor, memory and GPU.
        data_root: where downloaded data lie.
        address: of a Ray cluster to run on, HOST:PORT or "auto"; None: this machine.
    """

    method: str = "pseudo_label"
    dataset: str = "digits"
    labels: int | None = None
    network: str | None = None
    epochs: int | None = None
    trials: int = DEFAULT_TRIALS
    name: str | None = None
    space: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    concurrent: int | None = None
    gpus_per_trial: float | None = None
    seed: int = 0
    time_budget: float | str | None = None
    sampler: str = "tpe"
    startup_trials: int | None = None
    points: str | Sequence[Mapping[str, Any]] | None = None
    warm_start: str | None = None
    storage: str | None = None
    max_failures: int = 1
    tracking_uri: str | None = None
    tracking_timeout: float | str = 300.0
    require_tracking: bool = False
    system_metrics: bool = False
    data_root: str | Path | None = None
    address: str | None = None


def check_request(request: SearchRequest) -> None:
    """What can be told of a request without its data, its machines and its home, which may all be elsewhere.

    Raises:
        ConfigError: anything wrong.
    """
    _check_numbers(request)
    config = from_document(_document(request))
    space = load_space(request.method, request.space)
    fixed = _fixed_by_set(space, request.settings)
    check_sense(without(space, fixed) if fixed else space, config)
    if request.name is not None:
        check_name(request.name)
    if request.tracking_uri is not None:
        check_tracking_uri(request.tracking_uri)


def _check_numbers(request: SearchRequest) -> None:
    if request.sampler not in SAMPLERS:
        raise unknown("sampler", request.sampler, SAMPLERS)
    _check_range("trials", request.trials, 1, 1_000_000)
    _check_range("max_failures", request.max_failures, 0, 1000)
    if request.startup_trials is not None:
        _check_range("startup_trials", request.startup_trials, 0, 1_000_000)
    if request.concurrent is not None:
        _check_range("concurrent", request.concurrent, 1, 10_000)
    if request.gpus_per_trial is not None and not 0 <= request.gpus_per_trial <= 64:
        raise ConfigError(f"gpus_per_trial = {request.gpus_per_trial}: between 0 and 64, fractions allowed.")
    _time_budget(request)
    _seconds(request.tracking_timeout, "--tracking-timeout")


def resolve_request(
    request: SearchRequest, home: Home, machines: Sequence[Machine] | None = None
) -> StudySpec:
    """The specification of the study that is asked for.

    Args:
        request: what is asked for.
        home: the home folder.
        machines: of the cluster that it is to run on; None: this machine.

    Raises:
        ConfigError: anything wrong that can be known without decoding images.
    """
    _check_numbers(request)
    asked = from_document(_document(request))
    gpus = _gpus(request, machines)
    concurrent, threads = _side_by_side(request, asked, gpus, machines)
    config, data_root = _resolved(request, asked, threads)
    assert config.epochs is not None
    searched, source = _space(request, config)
    tracking_uri = request.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or home.default_tracking_uri
    if home.url is not None and tracking_uri == home.default_tracking_uri:
        raise ConfigError(
            f"the home {home.url} is no place for MLflow's SQLite file: name a server with --tracking-uri or "
            "MLFLOW_TRACKING_URI."
        )
    _check_places(request, tracking_uri)
    home.check_writable()
    spec = StudySpec(
        name=request.name or home.free_name(f"{dataset_tag(config.dataset)}@{config.labels}-{config.method}"),
        config=config.document(),
        method_path=_method_path(config, request),
        space=source,
        trials=request.trials,
        concurrent=concurrent,
        gpus_per_trial=gpus,
        sampler=request.sampler,  # type: ignore[arg-type]
        uid=uuid.uuid4().hex,
        startup_trials=request.startup_trials,
        points=_points(request.points, searched, config.epochs),
        warm_start=request.warm_start,
        storage=request.storage,
        seed=request.seed,
        max_failures=request.max_failures,
        time_budget=_time_budget(request),
        tracking_uri=tracking_uri,
        require_tracking=request.require_tracking,
        system_metrics=request.system_metrics,
        tracking_timeout=_seconds(request.tracking_timeout, "--tracking-timeout") or 0.0,
        data_root=str(data_root) if data_root else None,
        address=request.address,
        elastic=request.address is not None and request.concurrent is None,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    if spec.sampler == "grid":
        from tune.trials.grid import grid_points

        points = grid_points(spec, searched.distributions(config.epochs))
        spec = spec.model_copy(update={"trials": 1 + len(spec.points) + len(points)})
    if spec.warm_start is not None:
        _check_warm_start(spec, home)
    return spec


def _side_by_side(
    request: SearchRequest, asked: RunConfig, gpus: float, machines: Sequence[Machine] | None
) -> tuple[int, int]:
    """How many trials run at a time, and with how many threads each."""
    if machines is not None:
        return share(
            machines,
            trials=request.trials,
            gpus=gpus,
            concurrent=request.concurrent,
            threads=asked.threads,
        )
    cores, concurrent = len(os.sched_getaffinity(0)), request.concurrent
    if concurrent is None:
        concurrent = _default_concurrent(gpus, cores, request.trials)
    return concurrent, max(1, cores // concurrent)


def _resolved(request: SearchRequest, asked: RunConfig, threads: int) -> tuple[RunConfig, Path | None]:
    """The configuration that all trials share and the folder of downloads, good from any working directory."""
    data_root = Path(request.data_root) if request.data_root else None
    info = describe(asked.dataset, root=data_root, image_size=asked.data.image_size)
    config = resolve(asked, info, cores=threads)
    config = config.model_copy(update={"dataset": _absolute(config.dataset)})
    return config, data_root and data_root.expanduser().resolve()


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


def _check_places(request: SearchRequest, tracking_uri: str) -> None:
    check_tracking_uri(tracking_uri)
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
    from tune.store.study_folder import read_spec
    from tune.trials.handover import check_warm_start

    assert spec.warm_start is not None
    for difference in check_warm_start(spec, read_spec(home.existing_study_folder(spec.warm_start))):
        warnings.warn(difference, stacklevel=2)


def _document(request: SearchRequest) -> dict[str, Any]:
    common = {
        "method": request.method,
        "dataset": request.dataset,
        "labels": request.labels,
        "network": request.network,
        "epochs": request.epochs,
        "seed": request.seed,
    }
    return with_overrides({k: v for k, v in common.items() if v is not None}, request.settings)


def _method_path(config: RunConfig, request: SearchRequest) -> str | None:
    return None if config.method_digest is None else str(method_file.path_of(request.method).resolve())


def _absolute(dataset: str) -> str:
    kind, folder, path = dataset.partition("folder:")
    return f"{folder}{Path(path).expanduser().resolve()}" if folder and not kind else dataset


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
    places = int(gpu_count() / gpus) if gpus else cores
    return max(1, min(places, trials))


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} = {value}: must be between {low} and {high}.")


def _time_budget(request: SearchRequest) -> float | None:
    budget = _seconds(request.time_budget, "--time-budget")
    if budget == 0:
        raise ConfigError(
            "--time-budget 0: no trial fits into it. Write a time such as 90s, 15m, 2h or 1h30m."
        )
    return budget


def _seconds(value: float | str | None, option: str) -> float | None:
    return None if value is None else parse_duration(str(value), option)
