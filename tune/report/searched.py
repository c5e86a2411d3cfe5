"""The page's section on the searched parameters: slices, importance, contours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tune.report import optuna_plots, plots

if TYPE_CHECKING:
    from tune.report.content import Look, Part


def part(look: Look) -> Part:
    """Slices of every parameter; importance and contours, as Optuna draws them, where there is enough."""
    from tune.report.content import Figure, Part

    items: list[Any] = [
        Figure(
            plots.slices(look.records, look.study.spec.search_space()),
            "Validation error against each searched parameter. Trials that were stopped early stand where they were "
            "stopped: a high error there is partly a short training.",
        )
    ]
    sentences = []
    completed = [r for r in look.records if r.state == "completed"]
    varied = {name for name in look.best.values if len({str(r.values.get(name)) for r in completed}) > 1}
    if len(completed) < optuna_plots.ENOUGH or not varied:
        sentences.append(
            f"{len(completed)} trials ran the full budget: too few to say which parameter matters "
            f"({optuna_plots.ENOUGH} are needed)."
        )
        return Part("Searched parameters", sentences, items)
    study = optuna_plots.load(look.study.folder, look.study.name)
    importance = optuna_plots.importance(study)
    if importance is not None:
        items.append(
            Figure(
                importance,
                "How much of the variation between full-budget trials goes with each parameter (PED-ANOVA). With few "
                "trials it is a hint, no more.",
            )
        )
    if len(varied) > 1:
        caption = "Validation error over pairs of parameters, interpolated between full-budget trials (dots)."
        items.append(Figure(optuna_plots.contour(study, sorted(varied)), caption))
    return Part("Searched parameters", sentences, items)


def value(given: object) -> str:
    """A parameter's value, floats to four digits."""
    return "" if given is None else f"{given:.4g}" if isinstance(given, float) else str(given)


def parameters(params: Mapping[str, Any]) -> str:
    """Parameters in a line."""
    return ", ".join(f"{name} {value(given)}" for name, given in params.items())
