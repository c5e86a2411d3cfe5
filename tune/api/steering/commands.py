"""A study is steered: points by hand, a trial stopped, a trial recommended. Also while another process drives it.

What is asked for is durable when a function returns, and is noted in the study's history (`status`). Totals are changed
by `tune.resume`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_core.system.errors import ConfigError
from tune.findings.points import write_points
from tune.findings.study import load_study
from tune.steering.inbox import Wish

Place = Path | str | None
"""A home folder; None: SSL_TUNE_HOME, else ./ssl-tune-home."""


@dataclass(frozen=True)
class Steered:
    """What was done.

    Attributes:
        said: a sentence without its full stop, as the study's history has it.
        waits: what it waits for: "" where the study's driver or nothing has to come, else "resume" or "more trials".
    """

    said: str
    waits: str = ""


def enqueue(
    name: str,
    points: Sequence[Mapping[str, Any]] | Path | str | None = None,
    *,
    settings: Mapping[str, Any] | Sequence[str] | None = None,
    home: Place = None,
) -> Steered:
    """Try points next, before the sampler is asked again; their trials are marked `ssl.origin: user`.

    They count among the study's trials. What a point leaves out the sampler fills in.

    Args:
        name: the study.
        points: mappings of searched parameters, or a YAML file that lists them.
        settings: one point instead: a mapping, or ``["lr=0.1"]``.
        home: the home folder.

    Raises:
        ConfigError: no such study; a parameter that is not searched, a value out of its range; both or neither of
            points and settings.
        ServiceError: the study's driver has not looked yet: it will.
    """
    from tune.definition.inputs import parse_sets
    from tune.definition.points import read_points
    from tune.steering.asking import ask  # loads Optuna
    from tune.steering.checks import checked_points

    study = load_study(name, home=home)
    if (points is None) == (not settings):
        raise ConfigError(
            "name what to try: either --set NAME=VALUE, once for each parameter, or --points FILE."
        )
    if settings:
        digest = study.spec.config.get("method_digest")
        plain = (
            settings
            if isinstance(settings, Mapping)
            else parse_sets(settings, study.spec.config["method"], digest)
        )
        listed, where = [plain], "--set"
    elif isinstance(points, str | Path):
        listed, where = read_points(Path(points)), str(points)
    else:
        listed, where = list(points or ()), "points"
    checked = checked_points(study.spec, listed, where)
    said = ask(study.folder, Wish("enqueue", {"points": checked}))
    if study.folder.is_locked():
        return Steered(said)
    records = study.records()
    full = len(records) + len(checked) > load_study(name, home=home).spec.trials
    return Steered(said, "more trials" if full else "resume")


def stop_trial(name: str, trial: int | str, *, home: Place = None) -> Steered:
    """Stop one trial of a study: it ends its epoch, and has the result of that epoch. The study goes on.

    Raises:
        ConfigError: no such study or trial, or one that is not running.
        ServiceError: the study's driver has not looked yet: it will.
    """
    from tune.steering.asking import ask  # loads Optuna
    from tune.steering.checks import check_running

    study = load_study(name, home=home)
    check_running(name, study.records(), str(trial))
    said = ask(study.folder, Wish("stop", {"trial": str(trial)}))
    return Steered(said, "" if study.folder.is_locked() else "resume")


def pin(name: str, trial: int | str | None, *, home: Place = None) -> Steered:
    """Recommend a trial: `status` names it beside the best one, and `export` and `confirm` take it.

    Args:
        name: the study.
        trial: its number; None: none is recommended any more.
        home: the home folder.

    Raises:
        ConfigError: no such study or trial, or one without a result.
        ServiceError: the study's driver has not looked yet: it will.
    """
    from tune.steering.asking import ask  # loads Optuna
    from tune.steering.checks import check_pinned

    study = load_study(name, home=home)
    if trial is not None:
        check_pinned(name, study.records(), str(trial))
    return Steered(ask(study.folder, Wish("pin", {"trial": None if trial is None else str(trial)})))


def export_points(name: str, output: Path | str, *, top: int = 5, home: Place = None) -> int:
    """Write a study's best configurations as points, for `search --points` and `enqueue --points`.

    Args:
        name: the study.
        output: the YAML file.
        top: at most how many.
        home: the home folder.

    Returns:
        How many were written.

    Raises:
        ConfigError: no such study, no trial with a result, or a file that cannot be written.
    """
    return write_points(load_study(name, home=home), Path(output), top)
