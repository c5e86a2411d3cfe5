"""The page's section on the searched parameters: slices, importance, contours."""

from __future__ import annotations

from ssl_core.system.errors import counted
from tune.figures import study as drawn
from tune.figures.style import Drawing, png
from tune.findings.summary import importances
from tune.page import plots
from tune.page.parts import Figure, Item, Look, Part
from tune.trials.reading import stored_trials
from tune.trials.record import is_taken_over

ENOUGH = 4
"""The smallest number of full-budget trials for which importance and contours are shown."""


def part(look: Look) -> Part:
    """Slices of every parameter; also importance and contours if there are enough trials at full budget."""
    spec = look.study.spec
    log = [p.name for p in spec.search_space().parameters if getattr(p.distribution, "log", False)]
    slices = drawn.slices(look.records, log=log)
    items = shown(
        slices,
        f"{look.measured.capitalize()} against each searched parameter. A trial that was stopped early is shown with "
        "its last value, which is partly so high because the training was short.",
    )
    full = {int(r.trial) for r in look.records if r.state == "completed"}
    trials = [t for t in stored_trials(look.study.folder, spec) if t.number in full and not is_taken_over(t)]
    varied = sorted(name for name in look.best.values if len({str(t.params.get(name)) for t in trials}) > 1)
    if len(trials) < ENOUGH or not varied:
        few = (
            f"{counted(len(trials), 'trial')} ran the full budget, too few"
            if len(trials) < ENOUGH
            else "All trials have the same parameters, so there is nothing"
        )
        return Part(
            "Searched parameters",
            [
                f"{few} to say which parameter matters ({ENOUGH} that differ are needed for importance and contours)."
            ],
            items,
        )
    shares = importances(look.study.folder, look.study.name)
    items += shown(
        drawn.parameter_importances(shares),
        "How much of the variation between full-budget trials each parameter explains. With few trials this is only "
        f"a hint.{' The warm-up is searched as a share of the run.' if 'warmup_share' in varied else ''}",
    )
    if len(varied) > 1:
        weightiest = sorted(varied, key=lambda name: -shares.get(name, 0.0))
        items.append(
            Figure(
                plots.contours(trials, weightiest, look.axis),
                f"{look.measured.capitalize()} over pairs of parameters, interpolated between full-budget trials "
                "(dots); darker is better.",
            )
        )
    return Part("Searched parameters", [], items)


def shown(figure: Drawing | None, caption: str) -> list[Item]:
    """A figure as an item of a section; no item if there is nothing to draw."""
    return [] if figure is None else [Figure(png(figure), caption)]
