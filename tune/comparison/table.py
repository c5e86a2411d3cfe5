"""A comparison as it is read: how it stands, its table, and the same for MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ssl_core.system.errors import ConfigError
from tune.comparison.race import in_a_sentence
from tune.comparison.record import Comparison
from tune.confirmation.verdicts import comparison_of
from tune.definition.objective import FIELDS, in_words, told
from tune.errors import ServiceError
from tune.findings.comparisons import Spread
from tune.findings.ranking import best_record, describe_best
from tune.findings.study import Study
from tune.findings.words import parameters_in_words

COLUMNS = (
    "method",
    "best configuration",
    "val/error %",
    "test/error %",
    "against supervised",
    "search",
    "a training",
)


def status_of(comparison: Comparison) -> dict[str, Any]:
    """How a comparison stands: what ``ssl-tune status NAME --json`` prints, also while it runs.

    Raises:
        ConfigError: one of its studies has been deleted.
        DamagedError: a file of it or of one of its studies is damaged.
    """
    studies = comparison.studies()
    rows = [
        _row(member.method, study) for member, study in zip(comparison.record.members, studies, strict=True)
    ]
    config = studies[0].spec.config
    return {
        "comparison": comparison.name,
        "state": comparison.folder.state(),
        "dataset": config["dataset"],
        "labels": config["labels"],
        "objective": studies[0].spec.objective,
        "confirm_seeds": comparison.record.confirm_seeds,
        "epochs_budget": comparison.record.epochs_budget,
        "race": race_of(comparison, studies[0].spec.objective),
        "methods": rows,
        "confirmation": comparison.confirmation(),
        "seconds_in_training": sum(row["cost"]["seconds"] for row in rows),
    }


def race_of(comparison: Comparison, objective: str) -> list[dict[str, Any]] | None:
    """The methods that left the race, in order, each with the reason as a sentence; None where there is no race."""
    if not comparison.record.race:
        return None
    methods = {member.study: member.method for member in comparison.record.members}
    return [
        {**asdict(left), "method": methods[left.study], "said": f"{in_a_sentence(left, methods, objective)}."}
        for left in comparison.record.left
    ]


def _row(method: str, study: Study) -> dict[str, Any]:
    records = study.records()
    found = study.status(records)
    best, full = best_record(records)
    return {
        "method": method,
        "study": study.name,
        "state": found["state"],
        "trials": found["trials"],
        "ended_of": study.spec.out_of,
        "best": None if best is None else describe_best(best, full),
        "tracking": found["tracking"],
        "cost": {
            "epochs": sum(record.epoch for record in records),
            "seconds": sum(record.seconds for record in records),
        },
    }


def comparison_outcome(comparison: Comparison) -> dict[str, Any]:
    """What is told of a comparison when it ends (`tune.launch.telling.ending`): its status, and how to carry it on."""
    status = status_of(comparison)
    carry_on = None if status["state"] == "finished" else comparison.folder.command("resume")
    return {"kind": "comparison", **status, "carry_on": carry_on}


def table_of(status: Mapping[str, Any]) -> list[list[str]]:
    """The rows below `COLUMNS`, as text; the columns of a confirmation are empty before it."""
    confirmation = status["confirmation"]
    rows = {} if confirmation is None else {row["who"]: row for row in confirmation["rows"]}
    return [
        _cells(
            each,
            rows.get(each["method"]),
            confirmation,
            status["objective"],
            left_race=any(left["method"] == each["method"] for left in status["race"] or []),
        )
        for each in status["methods"]
    ]


def _cells(
    each: Mapping[str, Any],
    row: Mapping[str, Any] | None,
    confirmation: Mapping[str, Any] | None,
    objective: str,
    *,
    left_race: bool,
) -> list[str]:
    best = each["best"]
    ended = sum(each["trials"][state] for state in ("completed", "stopped_early", "failed"))
    cost = each["cost"]
    search = f"{ended}{each['ended_of']} trials, {cost['epochs']} epochs, {cost['seconds']:.0f} s"
    search += ", left the race" if left_race else ""
    if row is None:
        shown = told(objective)
        value = None if best is None else best[FIELDS[shown]]
        found = "" if value is None else f"{in_words(shown, value)} (search)"
        params = "" if best is None else parameters_in_words(best["params"])
        return [each["method"], params, found, "", "", search, ""]
    mark = " *" if confirmation is not None and confirmation["winner"] == row["who"] else ""
    seconds = "" if row["seconds"] is None else f"{row['seconds']:.1f} s"
    return [
        f"{each['method']}{mark}",
        parameters_in_words(row["params"]),
        _spread(row["val_error"]),
        _spread(row["test_error"]),
        _against(confirmation, row["who"]),
        search,
        seconds,
    ]


def _spread(values: Sequence[float]) -> str:
    return str(Spread(tuple(values))) if values else "no result"


def _against(document: Mapping[str, Any] | None, method: str) -> str:
    """The difference to the baseline, its 95 % interval, and whether the two are told apart."""
    if document is None or method == document["baseline"] or document["baseline"] is None:
        return ""
    found = comparison_of(document, method, document["baseline"])
    if found is None:
        return ""
    interval = "" if found["interval"] is None else " [{:+.2f}, {:+.2f}]".format(*found["interval"])
    word = "" if found["p"] is None else ", told apart" if found["told_apart"] else ", not told apart"
    return f"{found['difference']:+.2f}{interval}{word}"


def description(comparison: Comparison) -> str:
    """A comparison in words and a table (Markdown), for the head of its run in MLflow."""
    status = _readable(comparison)
    if status is None:
        return f"The comparison {comparison.name}: one of its studies cannot be read."
    lines = [
        f"Which method is best on {status['dataset']} with {status['labels']} labels? {status['state']}.",
        "",
    ]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table_of(status)]
    said = [left["said"] for left in status["race"] or []]
    said += [] if status["confirmation"] is None else status["confirmation"]["verdict"]
    if said:
        lines += ["", *[f"- {sentence}" for sentence in said]]
    return "\n".join(lines)


def metrics_of(comparison: Comparison) -> dict[str, float]:
    """Mean errors on the fresh seeds, as metrics of the comparison's run: ``test/error/vat``; none before that."""
    status = _readable(comparison)
    rows = [] if status is None or status["confirmation"] is None else status["confirmation"]["rows"]
    found = {f"test/error/{row['who']}": row["test_mean"] for row in rows if row["test_mean"] is not None}
    return found | {
        f"val/error/{row['who']}": Spread(tuple(row["val_error"])).mean for row in rows if row["val_error"]
    }


def _readable(comparison: Comparison) -> dict[str, Any] | None:
    """How a comparison stands; None where a file of it is damaged: whoever asks for it by name is told."""
    try:
        return status_of(comparison)
    except (ConfigError, ServiceError):
        return None
