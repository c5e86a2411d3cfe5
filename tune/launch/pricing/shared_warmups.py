"""How much of the warm-ups of a study's trials is trained once for several of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ssl_core.config import RunConfig, from_document
from ssl_core.methods.base import has_own_head
from ssl_core.registry import method_of
from tune.definition.inputs import with_overrides
from tune.definition.spec import StudySpec


def expected_shared(
    spec: StudySpec, config: RunConfig, points: Sequence[Mapping[str, Any]], *, trials: int | None = None
) -> float:
    """Epochs of the warm-up that trials are expected to take over from earlier trials of the same study.

    The trials are played through in turn. Each finds what those have trained that began so much earlier that they no
    longer run beside it. Of so many points as several studies have, it is the mean over these studies: a single one of
    few trials says little. What earlier studies have left is not counted: it may be gone when it is wanted. Nor is what
    the trials of a method without a warm-up share: two of them hardly ever have the same learning rate.

    Args:
        spec: the study.
        config: resolved, that all trials share.
        points: random points of its space; used again and again where the study has more trials.
        trials: how many there are; None: the study's.
    """
    assert config.epochs is not None
    if not method_of(config).has_warmup:
        return 0.0
    space, trials = spec.search_space(), spec.trials if trials is None else trials
    found = [warmup_of(config, space.resolve(values, config.epochs)) for values in points]
    if len(found) < trials:
        return _played_through([found[number % len(found)] for number in range(trials)], spec.concurrent)
    studies = [found[first : first + trials] for first in range(0, len(found) - trials + 1, trials)]
    return fmean(_played_through(study, spec.concurrent) for study in studies)


def _played_through(warmups: Sequence[tuple[str, int]], concurrent: int) -> float:
    """Epochs that trials with these warm-ups take over in turn; of each is given what it depends on and its length."""
    longest: dict[str, int] = {}
    under_way: list[tuple[str, int]] = []
    shared = 0
    for part, length in warmups:
        if len(under_way) >= concurrent:
            ended, its_length = under_way.pop(0)
            longest[ended] = max(longest.get(ended, 0), its_length)
        shared += min(length, longest.get(part, 0))
        under_way.append((part, length))
    return float(shared)


def warmup_of(base: RunConfig, overrides: Mapping[str, Any]) -> tuple[str, int]:
    """What the warm-up of a trial depends on, as text, and how many epochs of it can be taken over.

    Args:
        base: the configuration that all trials share.
        overrides: the trial's own values by dotted name, the warm-up in epochs.
    """
    from ssl_core.training.warmups.key import shared_part, warmup_length  # loads torch

    config = from_document(with_overrides(base.document(), overrides))
    part = shared_part(config)
    if has_own_head(method_of(config)):
        part["head"] = _head_of(config)
    length = min(warmup_length(config), config.last_epoch - 1)
    return json.dumps(part, sort_keys=True), length


def _head_of(config: RunConfig) -> str:
    """A head's layers, on feature maps of one channel."""
    return str(method_of(config).head(config.parameters, 1))
