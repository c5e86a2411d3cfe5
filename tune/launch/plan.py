"""What a search would run and cost, told without starting a trial; and what it did run and cost, afterwards."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ssl_core.config import RunConfig, options_of
from ssl_core.data.datasets import describe
from ssl_core.registry import method_of
from ssl_core.system.files import write_atomically
from ssl_core.system.measured import Measured
from ssl_core.system.peak import available_memory
from tune.cluster.connection import joined, machines_of
from tune.cluster.readiness import autoscales
from tune.definition.request import SearchRequest
from tune.definition.rungs import expected_ends, expected_epochs, expected_in_folds, stopping_of
from tune.definition.spec import StudySpec
from tune.findings.ranking import resolution
from tune.images.held_out import held_out_before
from tune.images.study import StudyImages, images_of
from tune.launch.counts import unequal
from tune.launch.pricing.price import points, price_of
from tune.launch.pricing.shared_warmups import expected_shared
from tune.launch.request import resolve_request
from tune.store.home import Home
from tune.store.layout import PLAN_FILE
from tune.store.study_folder import StudyFolder

if TYPE_CHECKING:
    from ssl_core.data.datasets import Dataset, Split

PLAN_SECONDS, SEARCH_SECONDS = 8.0, 0.5
"""How long `plan` may measure, and how long `search` does before its first trial; one point is always measured."""
PROCESS_BYTES = 600_000_000
"""What a process that trains takes before it has images: Python, torch, Ray."""
WARMUP_POINTS = 200
EXAMPLE_ERRORS = (5.0, 20.0, 50.0)


@dataclass(frozen=True)
class Expectation:
    """What a study is expected to take.

    Attributes:
        epochs: of all trials, if each rung lets the best third go on; at most the budget of epochs.
        warmup_epochs: those of them that are warm-up.
        seconds: of the whole study; with several trials side by side a lower estimate, since they share the
            machine's memory bandwidth.
        seconds_per_epoch: after the warm-up, a mean over the space.
        seconds_per_warmup_epoch: likewise.
        disk_bytes: of the checkpoints that running and completed trials keep.
        memory_bytes: that a trial takes on the host; None where the system does not tell.
        device_bytes: that a trial takes on the GPU; 0 without one.
        shared_epochs: those of the warm-up that another trial of the study has trained: they take no time.
    """

    epochs: float
    warmup_epochs: float
    seconds: float
    seconds_per_epoch: float
    seconds_per_warmup_epoch: float
    disk_bytes: int
    memory_bytes: int | None = None
    device_bytes: int = 0
    shared_epochs: float = 0.0


def expect(
    spec: StudySpec, config: RunConfig, data: Dataset, split: Split, seconds: float, home: Home
) -> Expectation:
    """Measure steps at the baseline and at random points of the space, and add up.

    Args:
        spec: the study.
        config: resolved, that all trials share.
        data, split: its images.
        seconds: how long to go on measuring at further points.
        home: keeps what was measured on this machine.
    """
    assert config.epochs is not None
    drawn = list(points(spec, config.epochs, WARMUP_POINTS))
    mean_warmup = fmean(_warmup(spec, config, values) for values in drawn)
    stopping = stopping_of(spec)
    epochs = expected_epochs(config.epochs, spec.trials, mean_warmup, stopping)
    begun = expected_in_folds(config.epochs, spec.trials, mean_warmup, stopping)[:-1]
    warmup_epochs = sum(begun) * mean_warmup
    shared = 0.0
    if spec.warmup_cache != 0:
        shared = sum(expected_shared(spec, config, drawn, trials=max(1, round(trials))) for trials in begun)
    ends = expected_ends(config.epochs, spec.trials, mean_warmup, stopping)
    if spec.epochs_budget is not None and epochs > spec.epochs_budget:
        share = spec.epochs_budget / epochs
        epochs, warmup_epochs, ends = share * epochs, share * warmup_epochs, share * ends
        shared *= share
    price = price_of(spec, config, data, split, seconds, Measured(home.measured))
    warm, after, parameters = (spec.repeats * n for n in (price.warmup_epoch, price.epoch, price.parameters))
    # Two checkpoints of each fold that is under way, one of each that has finished (`tune.worker.trial_files`).
    kept = (1 + spec.folds) * spec.concurrent + spec.folds * ends
    return Expectation(
        epochs=epochs,
        warmup_epochs=warmup_epochs,
        seconds=((warmup_epochs - shared) * warm + (epochs - warmup_epochs) * after) / spec.concurrent,
        seconds_per_epoch=after,
        seconds_per_warmup_epoch=warm,
        # parameters, average and momentum (of adamw two momenta)
        disk_bytes=round((4 if config.optimizer == "adamw" else 3) * parameters * kept),
        memory_bytes=None if price.host is None else price.host + PROCESS_BYTES,
        device_bytes=price.device,
        shared_epochs=shared,
    )


def _warmup(spec: StudySpec, config: RunConfig, values: dict[str, Any]) -> int:
    assert config.epochs is not None
    if not method_of(config).has_warmup:
        return 0
    overrides = spec.search_space().resolve(values, config.epochs)
    return int(overrides.get("warmup_epochs", config.warmup_epochs or 0))


def keep_expectation(
    folder: StudyFolder, spec: StudySpec, config: RunConfig, data: Dataset, split: Split, home: Home
) -> Expectation:
    """Note beside a study what it is expected to take."""
    expected = expect(spec, config, data, split, SEARCH_SECONDS, home)
    write_atomically(folder.path / PLAN_FILE, json.dumps(dataclasses.asdict(expected), indent=1).encode())
    return expected


def warnings_of(spec: StudySpec) -> list[str]:
    """What the user should look at in a data set, as far as it is known from the names of its files.

    Raises:
        ConfigError: a data set that cannot be read.
    """
    from ssl_core.data.inspecting.inspection import glance  # loads numpy

    return glance(spec.config["dataset"], options_of(spec.base_config()))


def looked_at(
    spec: StudySpec, home: Home, cache: Path | None
) -> tuple[RunConfig, Dataset, Split, StudyImages, list[str]]:
    """A new study's configuration, images and split, what they are used for, and what the user should know.

    Its test images are decoded and compared with the training images, not more.

    Args:
        spec: the study.
        home: has the record of test images that earlier studies held out.
        cache: of decoded images; None: memory.

    Raises:
        ConfigError: images that cannot be used; damaged test images; a test set that is in the training set.
    """
    from ssl_core.data.inspecting.overlaps import check_test_images
    from ssl_core.preparation import fold_hashes, prepare

    base, root = spec.base_config(), Path(spec.data_root) if spec.data_root else None
    if spec.address is not None:  # the device is a worker's; this machine only decodes
        base = base.model_copy(update={"device": "cpu"})
    membership = held_out_before(home, base.dataset)
    config, data, split = prepare(base, data_root=root, cache=cache, membership=membership)
    options = options_of(config)
    fold_hashes(config, data, split, spec.folds)  # they can be drawn
    told = check_test_images(data, options, allow_leak=config.data.allow_leak, cache=cache)
    test = describe(config.dataset, root=root, options=options).test_per_class
    return config, data, split, images_of(data, split, test), told


def plan(request: SearchRequest, home: Home) -> dict[str, Any]:
    """What `ssl-tune plan` prints.

    The speed is measured: a few real steps on this machine, with one trial's threads, at the baseline and at
    random points of the space (VAT's iterations, say, are passes that take time).

    Raises:
        ConfigError: as `search` would.
        ServiceError: a cluster that does not answer.
    """
    with joined(request.address):
        grows = request.address is not None and autoscales()
        spec = resolve_request(request, home, machines_of(request.address), grows=grows)
    cache = home.cache if home.path.is_dir() else None  # a plan leaves nothing behind
    config, data, split, images, told = looked_at(spec, home, cache)
    assert config.epochs and config.steps_per_epoch and config.data.valid
    expected = expect(spec, config, data, split, PLAN_SECONDS, home)
    return {
        "study": spec.name,
        "method": config.method,
        "dataset": config.dataset,
        "protocol": data.protocol,
        "warnings": [*warnings_of(spec), *told],
        "classes": images.by_class(),
        "notes": unequal(images),
        "labels": config.labels,
        "network": config.network,
        "trials": spec.trials,
        "concurrent": spec.concurrent,
        "threads_per_trial": config.threads,
        "gpus_per_trial": spec.gpus_per_trial,
        "epochs": config.epochs,
        "steps_per_epoch": config.steps_per_epoch,
        "images": {
            "labelled": len(split.labelled),
            "valid": len(split.valid),
            "unlabelled": len(split.unlabelled),
        },
        "space": [
            {"name": p.name, "range": _range(p.distribution), "role": p.role}
            for p in spec.search_space().parameters
        ],
        **({} if spec.folds == 1 else {"folds": spec.folds}),
        "rungs": _rungs(spec, config.epochs),
        "expected_epochs": round(expected.epochs, 1),
        "expected_warmup_epochs": round(expected.warmup_epochs, 1),
        "expected_shared_epochs": round(expected.shared_epochs, 1),
        "epochs_without_stopping": spec.trials * spec.folds * config.epochs,
        "seconds_per_epoch": expected.seconds_per_epoch,
        "seconds_per_warmup_epoch": expected.seconds_per_warmup_epoch,
        "expected_seconds": expected.seconds,
        "disk_bytes": expected.disk_bytes,
        "memory_bytes": expected.memory_bytes,
        "device_bytes": expected.device_bytes,
        "memory_available": available_memory(),
        "resolution_points": {f"{e:g} %": resolution(config.data.valid, e) for e in EXAMPLE_ERRORS},
    }


def _rungs(spec: StudySpec, epochs: int) -> dict[str, Any]:
    """Where and how trials are stopped early."""
    stopping = stopping_of(spec)
    kept = {"asha": f"best 1/{stopping.eta}", "median": "better than the median", "none": "all"}
    document = {"scheduler": stopping.scheduler, "after_ssl_epochs": stopping.rungs(epochs)}
    document["kept"] = kept[stopping.scheduler]
    if stopping.folds > 1:
        document["after_folds"] = [at // epochs for at in stopping.fold_rungs(epochs)]
    if stopping.brackets > 1:
        shares = zip(stopping.by_bracket(epochs), stopping.shares(epochs), strict=True)
        document["brackets"] = [{"after_ssl_epochs": p, "share": round(share, 3)} for p, share in shares]
    return document


def _range(distribution: Any) -> str:
    from search_spaces import describe  # loads Optuna

    return describe(distribution)
