"""What a search would run and cost, told without starting a trial."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_core.config import RunConfig
from ssl_core.methods import method_of
from tune.home import Home
from tune.request import SearchRequest, resolve_request
from tune.rungs import expected_epochs, rungs
from tune.search import joined, machines_of
from tune.spec import REDUCTION_FACTOR
from tune.views import resolution

if TYPE_CHECKING:
    from ssl_core.loop import Run

MEASURED_STEPS = 3
EXAMPLE_ERRORS = (5.0, 20.0, 50.0)


def plan(request: SearchRequest, home: Home) -> dict[str, Any]:
    """What `ssl-tune plan` prints.

    The speed is measured: a few forward and backward passes of the study's network on this machine, with one
    trial's threads. Where several trials share the machine, they share its memory bandwidth too, so the time
    is a lower estimate.

    Raises:
        ConfigError: as `search` would.
        ServiceError: a cluster that does not answer.
    """
    from ssl_core.loop import Run
    from ssl_core.run import prepare

    with joined(request.address):
        spec = resolve_request(request, home, machines_of(request.address))
    root = Path(spec.data_root) if spec.data_root else None
    cache = home.cache if home.path.is_dir() else None  # a plan leaves nothing behind
    config, data, split = prepare(spec.base_config(), data_root=root, cache=cache)
    assert config.epochs and config.steps_per_epoch and config.data.valid
    run = Run(config, data, split)
    seconds = _epoch_seconds(run)
    warmup = config.warmup_epochs or 0 if method_of(config).has_warmup else 0
    epochs = expected_epochs(config.epochs, spec.trials, warmup)
    state_bytes = sum(p.numel() * p.element_size() for p in run.network.parameters())
    return {
        "study": spec.name,
        "method": config.method,
        "dataset": config.dataset,
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
        "rungs": {"after_ssl_epochs": rungs(config.epochs), "kept": f"best 1/{REDUCTION_FACTOR}"},
        "expected_epochs": round(epochs, 1),
        "epochs_without_stopping": spec.trials * config.epochs,
        "seconds_per_epoch": seconds,
        "expected_seconds": epochs * seconds / spec.concurrent,
        # parameters, average and momentum, in the two checkpoints that a running trial keeps
        "disk_bytes": 2 * 3 * state_bytes * spec.concurrent,
        "resolution_points": {f"{e:g} %": resolution(config.data.valid, e) for e in EXAMPLE_ERRORS},
    }


def _range(distribution: Any) -> str:
    from search_spaces import describe

    return describe(distribution)


def _epoch_seconds(run: Run) -> float:
    """Seconds of an epoch after the warm-up, from measured passes: an upper estimate, since a method may use
    fewer unlabelled images than it is allowed."""
    import torch

    config: RunConfig = run.config
    method = method_of(config)
    assert config.batch_size and config.mu and config.steps_per_epoch
    per_step = config.batch_size * (1 + config.mu * len(method.unlabelled_views))
    pixels = run.images[torch.arange(per_step) % len(run.images)]
    images, labels = run.normalise(pixels), run.labels[torch.arange(per_step) % len(run.labels)]
    times = []
    for _ in range(1 + MEASURED_STEPS):
        began = time.perf_counter()
        run.network.zero_grad()
        torch.nn.functional.cross_entropy(run.forward(images).logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        times.append(time.perf_counter() - began)
    step = min(times[1:])
    began = time.perf_counter()
    run.evaluated(pixels)
    per_image = (time.perf_counter() - began) / per_step
    evaluated = len(run.valid) + (len(run.unlabelled) if method.relabels else 0)
    return config.steps_per_epoch * step + evaluated * per_image
