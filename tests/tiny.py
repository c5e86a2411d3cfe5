"""Runs small enough for a test: three classes of 8x8 images, WRN-10-1, a few steps.

42 training images: 6 validation, 36 unlabelled, 6 of which are labelled.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_core.config import from_document, resolve
from ssl_core.data.datasets import Dataset, DatasetInfo, draw_split
from ssl_core.methods.base import Method
from ssl_core.registry import get_method, method_names
from ssl_core.schema import RunConfig
from ssl_core.training.loop import run_epochs
from ssl_core.training.run import Report, Run

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
OWN = {"my_uda": f"file:{EXAMPLES / 'my_uda.py'}"}
"""Methods that do not come with the package, by their own names."""
METHODS = sorted([*method_names(), *OWN])

PARAMETERS: dict[str, dict[str, Any]] = {
    "pseudo_label": {"threshold": 0.4},
    "fixmatch": {"threshold": 0.4},
    "flexmatch": {"threshold": 0.6},  # not every image is confident, so that the thresholds differ
    "attention_fixmatch": {"threshold": 0.4, "diversity_weight": 0.5},
    "freematch": {"lambda_f": 0.1},
    "simple": {"threshold": 0.4, "strong_views": 2},
    "alphamatch": {"strong_views": 2},
    "uda": {"threshold": 0.4},
    "my_uda": {"threshold": 0.4},
}
"""Parameters under which a method's unlabelled loss is at work from the first step, where the defaults'
is not: three classes, an untrained network."""

TIMES = ("time/epoch_seconds", "images_per_second")


def method_named(name: str) -> Method:
    """A method of the package, or of OWN."""
    return get_method(OWN.get(name, name))


def make_data(
    *, side: int = 8, classes: int = 3, per_class: int = 14, flip: bool = True, seed: int = 0
) -> Dataset:
    """Images with a pattern of their class's own under noise."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(classes), per_class)).astype(np.int64)
    patterns = random.integers(0, 256, (classes, side, side, 3))
    noise = random.integers(0, 256, (len(labels), side, side, 3))
    images = ((patterns[labels] + noise) // 2).astype(np.uint8)
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    mean, std = (getattr(images / 255, f)(axis=(0, 1, 2)).tolist() for f in ("mean", "std"))
    names = tuple("abcdefghij"[:classes])
    return Dataset("tiny", images, labels, names, digest, tuple(mean), tuple(std), flip)


def info_of(data: Dataset) -> DatasetInfo:
    """What `ssl_core.data.datasets.describe` would say of it."""
    per_class = tuple(np.bincount(data.labels).tolist())
    return DatasetInfo(data.name, data.classes, per_class, data.image_size, "wrn-10-1", 6, data.flip)


def make_config(method: str, data: Dataset, **fields: Any) -> RunConfig:
    """A resolved configuration; `parameters` are the method's own, `split_of` is its `data` section."""
    document = {
        "method": OWN.get(method, method),
        "dataset": "tiny",
        "labels": 6,
        "network": "wrn-10-1",
        "epochs": 4,
        "steps_per_epoch": 3,
        "warmup_epochs": 1,
        "batch_size": 4,
        "mu": 2,
        "precision": "float32",
        "device": "cpu",
        "threads": 1,
        "seed": 3,
        **fields,
    }
    document["data"] = document.pop("split_of", {})
    own = {**PARAMETERS.get(method, {}), **document.pop("parameters", {})}
    return resolve(from_document(document | ({method: own} if own else {})), info_of(data))


def make_run(method: str = "supervised", *, data: Dataset | None = None, **fields: Any) -> Run:
    """A run that has not started."""
    data = data or make_data()
    config = make_config(method, data, **fields)
    split = draw_split(
        data.labels,
        data.num_classes,
        labelled=config.labels or 0,
        valid=config.data.valid or 0,
        split_seed=config.data.split_seed,
        label_seed=config.data.label_seed,
        fingerprint="tiny",  # the same split for the same labels, so that a test may change pixels
    )
    return Run(config, data, split)


def finish(run: Run, *, until: int | None = None) -> list[Report]:
    """Train to the end, or until so many epochs are finished."""
    reports = []
    if until is None or run.epoch < until:
        for report in run_epochs(run):
            reports.append(report)
            if report.epoch == until:
                break
    return reports


def trained(run: Run) -> dict[str, Any]:
    """What training has made, as it is now: network, average, optimiser."""
    state = run.state()
    return copy.deepcopy({part: state[part] for part in ("network", "ema", "optimizer")})


def everything(run: Run) -> dict[str, Any]:
    """The whole state as it is now, but for the clock."""
    state = copy.deepcopy(run.state())
    for report in state["history"]:
        del report["time_ms"]
        for name in TIMES:
            del report["metrics"][name]
    return state


def assert_same_bits(one: Any, other: Any, place: str = "state") -> None:
    """Two states hold the same tensors, numbers and text, to the last bit."""
    assert type(one) is type(other), place
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other), f"{place} differs"
    elif isinstance(one, Mapping):
        assert one.keys() == other.keys(), place
        for key in one:
            assert_same_bits(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), place
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same_bits(a, b, f"{place}[{number}]")
    else:
        assert one == other, f"{place}: {one!r} and {other!r}"


def same_bits(one: Any, other: Any) -> bool:
    """Whether `assert_same_bits` holds."""
    try:
        assert_same_bits(one, other)
    except AssertionError:
        return False
    return True
