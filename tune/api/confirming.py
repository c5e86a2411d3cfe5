"""Confirm a study that was searched before."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, Unpack

from tune.cluster.connection import joined
from tune.confirmation.confirm import ConfirmOptions
from tune.confirmation.confirm import confirm as confirm_study
from tune.engine.progress import Progress, make_progress
from tune.engine.sitting import Sitting
from tune.signals import resumable
from tune.store.home import Home


def run_confirm(
    name: str,
    home: Home,
    progress: Progress,
    *,
    say: Callable[[str], None] = lambda message: None,
    sitting: Sitting | None = None,
    **options: Unpack[ConfirmOptions],
) -> dict[str, Any]:
    """Confirm a study's best configurations: `tune.confirmation.confirm.confirm`, which Ctrl-C and SIGTERM interrupt.

    Args:
        name, home, progress, say, sitting: as there.
        options: as there.

    Raises:
        ConfigError, ServiceError: as `confirm`; interrupted, with the command that carries on.
    """
    address = options.get("address")
    again = shlex.join([*_as_typed(name, options), "--home", home.shown])
    with resumable(again), joined(address):
        return confirm_study(name, home=home, say=say, progress=progress, sitting=sitting, **options)


def _as_typed(name: str, options: ConfirmOptions) -> list[str]:
    """The command that confirms with these options; method files that were trusted once are trusted."""
    words = ["ssl-tune", "confirm", name]
    for option, value in options.items():
        if option == "trust_method" or value is None or value is False:
            continue
        typed = f"--{option.replace('_', '-')}"
        words += [typed] if value is True else [typed, str(value)]
    return words


def confirm(
    name: str,
    *,
    top: int = 1,
    seeds: int = 5,
    until_told_apart: int | None = None,
    baseline: str = "tuned",
    resample: bool = False,
    refit: bool = False,
    models: bool = False,
    home: Path | str | None = None,
    quiet: bool = False,
    say: Callable[[str], None] = lambda message: None,
    trust_method: bool = False,
    address: str | None = None,
) -> dict[str, Any]:
    """Train a study's best configurations on fresh seeds beside the supervised baseline; read the test set once each.

    What is trained already is not trained again.

    Args:
        name: the study.
        top: how many of the best configurations.
        seeds: trainings of each.
        until_told_apart: go on seed by seed until the two best are told apart (of one configuration: it and the
            baseline), to so many seeds at most; the error rate holds over all looks. None: `seeds` and no more.
        baseline: "tuned": the best of a supervised study of as many trials, made if need be; or "plain".
        resample: each seed draws the validation images anew as well, not the labelled ones alone.
        refit: train the winner once more on each seed, on the validation images too, for as many steps.
        models: make a model of each training of the winner, in the study's folder; the best is named by validation.
        home: the home folder.
        quiet: show no progress of the baseline's search.
        say: told as each training ends.
        trust_method: the file of its method is run also where this user has not run it before (`ssl_core.trusted`).
        address: of a Ray cluster that this machine belongs to, to train there; None: this machine.

    Returns:
        What ``ssl-tune confirm --json`` prints: a row for each configuration, comparisons, the verdict in words.

    Raises:
        ConfigError: no such study, fewer trials with a result than `top`, or too little data for the seeds;
            nothing to tell apart.
        ServiceError: a driver has the study, or it was interrupted; says how to carry on.
    """
    progress = make_progress(quiet=quiet)
    return run_confirm(
        name,
        Home(home),
        progress,
        top=top,
        seeds=seeds,
        until_told_apart=until_told_apart,
        baseline=baseline,
        resample=resample,
        refit=refit,
        models=models,
        say=say,
        trust_method=trust_method,
        address=address,
    )
