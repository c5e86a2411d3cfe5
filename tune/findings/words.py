"""Wording that the terminal, the HTML page and MLflow share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tune.definition.objective import DEFAULT, FIELDS, error_beside, in_words, told
from tune.trials.record import TrialRecord

PROTOCOLS = {
    "real": "real protocol: the unlabelled images have no label",
    "simulated": "simulated protocol: labels beyond those asked for are hidden",
}
"""What plays the unlabelled images of a study (`tune.definition.spec.StudySpec.protocol`)."""
MOST_TRIALS = 8
"""How many trials a sentence names before it ends in "..."."""


def duration(seconds: float) -> str:
    """A time in its two largest units: ``3 d 22 h``, ``5 h 3 min``, ``4 min 10 s``, ``7 s``."""
    left, parts = max(0, round(seconds)), []
    for name, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        parts.append((count, name))
    first = next((place for place, (count, _) in enumerate(parts) if count), len(parts) - 1)
    shown = [f"{count} {name}" for count, name in parts[first : first + 2] if count]
    return " ".join(shown) or "0 s"


def value(given: object) -> str:
    """A parameter's value, floats to four digits; empty for None."""
    return "" if given is None else f"{given:.4g}" if isinstance(given, float) else str(given)


def parameters(params: Mapping[str, object]) -> str:
    """Parameters as a terminal shows them: ``lr=0.05  mu=7``."""
    return "  ".join(f"{name}={value(given)}" for name, given in params.items())


def parameters_in_words(params: Mapping[str, object]) -> str:
    """Parameters as a sentence or a table of a page has them: ``lr = 0.05, mu = 7``."""
    return ", ".join(f"{name} = {value(given)}" for name, given in params.items())


def result(record: TrialRecord) -> str:
    """What a trial has come to: ``val/error 8.00 %``; where another value is told, that and then the error."""
    if record.val_error is None or record.told is None:
        return "no result"
    error, objective = f"val/error {record.val_error:.2f} %", told(record.objective)
    if objective == DEFAULT:
        return error
    return f"{objective} {in_words(objective, record.told)} ({error})"


def last_epochs(record: TrialRecord, most: int = 4) -> str:
    """The objective in a trial's last epochs, the newest last: ``41.20 → 38.00 → 35.50``; of the warm-up the newest.

    Where another value is told (`tune.definition.objective.told`) it is that one, the newest alone.
    """
    objective, values = told(record.objective), []
    if objective == record.objective:
        values = [value for _, value in sorted(record.intermediate.items())][-most:]
    if not values:
        values = [] if record.told is None else [record.told]
    return " → ".join(in_words(objective, value).removesuffix(" %") for value in values)


def uncertain(record: TrialRecord, deviation: float) -> str:
    """A trial's error with its standard deviation in points: ``8.00 % ± 3.84``; before it a loss that is the objective.

    Args:
        record: the trial, with a result.
        deviation: as `tune.findings.ranking.deviation_of` gives it.
    """
    named = error_beside(record.objective)
    mean = f", mean of {len(record.folds)} folds" if len(record.folds) > 1 else ""
    error = f"{named} {getattr(record, FIELDS[named]):.2f} % ± {deviation:.2f}{mean}"
    if record.objective == "val/loss":
        return f"val/loss {record.val_loss:.4f} ({error})"
    return error


def certainty(valid: int, points: float, best: str, ties: Sequence[str]) -> str:
    """How well the validation set separates the best trial from the others.

    Args:
        valid: number of validation images.
        points: standard deviation of the best trial's error on them, as `tune.findings.ranking.deviation_of` gives it.
        best: the best trial.
        ties: trials within one standard deviation of it.
    """
    sure = (
        f"{valid} validation images resolve about {points:.1f} points at this error (one standard deviation)."
    )
    if not ties:
        return sure
    others = ", ".join(ties[:MOST_TRIALS]) + (", ..." if len(ties) > MOST_TRIALS else "")
    return (
        f"{sure} Trial {best} cannot be told apart from {'trial' if len(ties) == 1 else 'trials'} {others}."
    )
