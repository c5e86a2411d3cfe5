"""What Tab completes besides commands and options: methods, data sets, networks, choices and names of studies.

Each function gets what is typed so far of the word and gives the words that begin with it. It loads nothing heavy and
asks no network: a shell waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import typer

from ssl_core.registry import method_names
from tune.definition.option import choices
from tune.definition.request import SearchRequest

DATASETS = ("digits", "cifar10", "cifar100", "svhn", "stl10", "folder:", "table:")
NETWORKS = ("wrn-10-1", "wrn-16-1", "wrn-28-2", "resnet18", "resnet34", "resnet50", "torchvision:", "timm:")

Completer = Callable[[str], list[str]]


def _beginning(incomplete: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]


def complete_method(incomplete: str) -> list[str]:
    """Names of the methods."""
    return _beginning(incomplete, (*method_names(), "file:"))


def complete_dataset(incomplete: str) -> list[str]:
    """Names and kinds of data sets."""
    return _beginning(incomplete, DATASETS)


def complete_network(incomplete: str) -> list[str]:
    """Names and kinds of networks."""
    return _beginning(incomplete, NETWORKS)


def complete_study(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of the studies of the home that the line, or else the environment, names; none of an object store."""
    from tune.store.home import Home

    chosen = ctx.params.get("home")
    home = Home(chosen if isinstance(chosen, str) else None) if "://" not in str(chosen or "") else None
    if home is None or home.url is not None:
        return []
    return _beginning(incomplete, home.study_names())


def completer_of(name: str, model: type[SearchRequest] = SearchRequest) -> Any:
    """What completes the value of an option that a field of a request is; None where nothing does."""
    if name == "warm_start":
        return complete_study
    known: dict[str, Completer] = {
        "method": complete_method,
        "dataset": complete_dataset,
        "network": complete_network,
    }
    if name in known:
        return known[name]
    words = choices(model.model_fields[name])
    return (lambda incomplete: _beginning(incomplete, words)) if words else None
