"""Does a search fit: the memory of this machine, and the time that somebody has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssl_core.system.errors import ConfigError, counted
from ssl_core.system.peak import available_memory, total_memory
from tune.definition.inputs import place_of
from tune.definition.request import SearchRequest
from tune.definition.spec import StudySpec
from tune.findings.words import duration
from tune.launch.plan import Expectation, plan
from tune.store.home import Home

LONG_SECONDS = 3600.0
"""A search that is expected to take longer says so before its first trial."""
SHARES = (1.0, 2 / 3, 0.5, 1 / 3, 0.25)
"""Of the epochs, that a proposal may take: a quarter is the least that says something of the whole."""
FEWEST = 9
"""Trials that a proposal has at least, or as many as were asked for: fewer are no search."""
SMALL_NETWORK, SMALL_SIDE = "wrn-10-1", 32


def price_lines(spec: StudySpec, expected: Expectation) -> list[str]:
    """What a search says of its price before its first trial, where it is expected to take more than an hour."""
    if expected.seconds <= LONG_SECONDS:
        return []
    trials = counted(spec.trials, "trial")
    return [
        f"this search is expected to take about {duration(expected.seconds)} ({trials}, {expected.epochs:.0f} epochs "
        "in all). Shorter: fewer --trials or --epochs, a smaller --network, --set data.image_size; `ssl-tune plan "
        "--within 2h` with the same options proposes some."
    ]


def places_that_fit(spec: StudySpec, expected: Expectation) -> int:
    """How many trials the memory of this machine holds side by side: as many as asked for, or fewer.

    Raises:
        ConfigError: not even one.
    """
    if not expected.memory_bytes:
        return spec.concurrent
    total = total_memory()
    if expected.memory_bytes > total:
        raise ConfigError(
            f"a trial takes about {expected.memory_bytes / 1e9:.1f} GB of memory, and this machine has "
            f"{total / 1e9:.1f} GB. Lower --set batch_size=, --set mu= or --set data.image_size=, or take a "
            "smaller --network."
        )
    return min(spec.concurrent, max(1, available_memory() // expected.memory_bytes))


def fitting(document: Mapping[str, Any], seconds: float) -> dict[str, Any] | None:
    """Trials and epochs of a plan that fit a time: most epochs first, then most trials; None where none do.

    Args:
        document: as `plan` gives it.
        seconds: the time.
    """
    trials, epochs = document["trials"], document["epochs"]
    for share in SHARES:
        fewer = max(min(3, epochs), round(share * epochs))
        of_one = document["expected_seconds"] / trials * fewer / epochs
        count = min(trials, int(seconds / of_one)) if of_one else trials
        if count >= min(FEWEST, trials):
            return {"trials": count, "epochs": fewer, "expected_seconds": count * of_one}
    return None


def propose(
    request: SearchRequest, home: Home, seconds: float, document: dict[str, Any]
) -> dict[str, Any] | None:
    """What of a search fits a time: options that differ from those asked for, and how long it would take then.

    Fewer epochs and trials first; where those are too few, a small network, then also smaller images, each measured.

    Args:
        request: what is asked for.
        home: the home.
        seconds: the time.
        document: the plan of `request`.

    Returns:
        ``options`` by name, and ``expected_seconds``; None where nothing fits.
    """
    changes: dict[str, Any] = {}
    while True:
        if (found := fitting(document, seconds)) is not None:
            took = found.pop("expected_seconds")
            asked = {"trials": document["trials"], "epochs": request.epochs or document["epochs"]}
            options = {n: v for n, v in found.items() if v != asked[n]}
            return {"options": changes | options, "expected_seconds": took}
        if document["network"] != SMALL_NETWORK:
            changes["network"] = SMALL_NETWORK
            request = request.model_copy(update={"network": SMALL_NETWORK})
        elif place_of(request.dataset) is not None and "data.image_size" not in changes:
            changes["data.image_size"] = SMALL_SIDE
            settings = {**dict(request.settings or {}), "data.image_size": SMALL_SIDE}
            request = request.model_copy(update={"settings": settings})
        else:
            return None
        document = plan(request, home)
