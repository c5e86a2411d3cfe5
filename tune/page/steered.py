"""What was done to a study besides running it, on its page: the trial that is pinned, and the study's history."""

from __future__ import annotations

from tune.definition.objective import in_words, told
from tune.findings.words import parameters_in_words
from tune.page.parts import Look, Part, Table


def pinned(look: Look) -> list[str]:
    """A sentence that names the trial which somebody pinned; none where nobody has."""
    trial = look.study.pinned()
    record = next((r for r in look.records if r.trial == trial), None)
    if record is None:
        return []
    beside = (
        "it is the best, too"
        if record.trial == look.best.trial
        else f"trial {look.best.trial} is the best by {look.objective}"
    )
    objective = told(look.objective)
    result = "" if record.told is None else f", {objective} {in_words(objective, record.told)}"
    return [
        f"Trial {record.trial} is pinned, so it is the recommendation ({parameters_in_words(record.params)}{result}); "
        f"{beside}."
    ]


def part(look: Look) -> Part:
    """The study's history: growth, points by hand, trials stopped or pinned, with their times; empty without one."""
    rows = [[event["time"], event["what"]] for event in look.study.history()]
    return Part("History of the study", items=[Table(["when (UTC)", "what was done"], rows)] if rows else [])
