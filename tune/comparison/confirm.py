"""The best configuration of each method on the same fresh seeds, and the test set read once for each final model.

As `tune.confirmation.confirm` does for one study: the winner is the method with the lowest validation error on the
fresh seeds, so the test set chooses nothing. The trainings lie in the folders of their studies and are what `confirm`
would train there, so each study is confirmed, too, beside the same baseline, and `export --model` finds its model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ssl_core.system.files import write_atomically
from tune.comparison.record import Comparison
from tune.comparison.request import BASELINE
from tune.confirmation.confirm import candidate_of, places_of, ranked_of, redrawn_of
from tune.confirmation.document import (
    Candidate,
    FinalTraining,
    comparison_document,
    document_of,
    row_of,
    trainings_of,
    winner_of,
)
from tune.confirmation.keeping import keep, track
from tune.confirmation.power import plan_of
from tune.confirmation.trainings import FIRST_SEED, Redrawn, Trained, Training, train_all
from tune.confirmation.verdicts import comparison_of, doubtful, facts, listed, planned
from tune.definition.objective import DEFAULT, told
from tune.engine.sitting import Sitting
from tune.findings.comparisons import ENOUGH_SEEDS, LEVEL, compare_all
from tune.findings.confirmation import TUNED
from tune.findings.study import Study
from tune.store.layout import CONFIRM_FILE
from tune.trials.record import TrialRecord


@dataclass(frozen=True)
class Entrant:
    """A method, its study, and the sitting that holds the study."""

    method: str
    study: Study
    sitting: Sitting


@dataclass(frozen=True)
class _Final:
    """An entrant with its best configuration, and the trainings of that, one for each seed."""

    entrant: Entrant
    candidate: Candidate
    tasks: Sequence[FinalTraining]


def confirm_best(
    comparison: Comparison, entrants: Sequence[Entrant], seeds: int, say: Callable[[str], None]
) -> dict[str, Any] | None:
    """Train the best of each method on the same fresh seeds; what is trained already is not trained again.

    Args:
        comparison: the comparison.
        entrants: its methods.
        seeds: how many seeds.
        say: told as each training ends.

    Returns:
        What is kept in the comparison's ``confirm.json``; None where no method has a trial with a result.
    """
    redrawn = redrawn_of(entrants[0].study)
    finals = [_final(e, ranked[0], seeds, redrawn) for e in entrants if (ranked := ranked_of(e.study, 1))]
    if not finals:
        return None
    # Seed by seed, so that the methods have as many when it is interrupted.
    order = [
        (final, task)
        for each in zip(*(f.tasks for f in finals), strict=True)
        for final, task in zip(finals, each, strict=True)
    ]
    trained = train_all(
        [_training(final, task) for final, task in order],
        places_of(entrants[0].study, comparison.home),
        say,
        lambda place, outcome: track(order[place][0].entrant.sitting.tracker, order[place][1], outcome),
    )
    results = {id(task): outcome for (_, task), outcome in zip(order, trained, strict=True)}
    document = _document(comparison, finals, results, redrawn)
    text = json.dumps(document, indent=1)
    write_atomically(comparison.folder.path / CONFIRM_FILE, text.encode())
    _keep_for_studies(finals, results, redrawn)
    return document


def _final(entrant: Entrant, record: TrialRecord, seeds: int, redrawn: Redrawn) -> _Final:
    candidate = candidate_of(entrant.study, record)
    return _Final(entrant, candidate, trainings_of(entrant.study, [candidate], seeds, redrawn))


def _training(final: _Final, task: FinalTraining) -> Training:
    return Training(f"{final.entrant.method}, trial {task.who}, seed {task.number}", task.config, task.out)


def _document(
    comparison: Comparison, finals: Sequence[_Final], results: Mapping[int, Trained], redrawn: Redrawn
) -> dict[str, Any]:
    """The table and the answer, as ``confirm.json`` and ``ssl-tune status --json`` have them."""
    spec = finals[0].entrant.study.spec
    config, objective = spec.base_config(), told(spec.objective)
    rows = [_row(final, results) for final in finals]
    test = {r["who"]: dict(zip(r["seeds"], r["test_error"], strict=True)) for r in rows if r["seeds"]}
    numbers = [task.number for task in finals[0].tasks]
    comparisons = [comparison_document(each) for each in compare_all(test)]
    winner, baseline = winner_of(rows, objective), BASELINE if BASELINE in test else None
    document: dict[str, Any] = {
        "comparison": comparison.name,
        "dataset": config.dataset,
        "labels": config.labels,
        "protocol": spec.protocol,
        "seeds": [FIRST_SEED + number for number in numbers],
        "epochs": config.epochs,
        "steps": config.total_steps,
        "network": config.network,
        "baseline": baseline,
        "objective": objective,
        "redrawn": redrawn,
        "winner": winner,
        "rows": rows,
        "comparisons": comparisons,
        "plan": plan_of(rows, comparisons, winner, objective, baseline),
        "left_race": _left_race(comparison),
    }
    return document | {"verdict": answer(document)}


def _left_race(comparison: Comparison) -> list[str]:
    """Methods that left the race, whose searches so had fewer epochs."""
    methods = {member.study: member.method for member in comparison.record.members}
    return [methods[left.study] for left in comparison.record.left]


def _row(final: _Final, results: Mapping[int, Trained]) -> dict[str, Any]:
    """A method's row: as of a confirmation, with the method as its name, and what the search took."""
    method, records = final.entrant.method, final.entrant.study.records()
    tasks = [replace(task, who=method) for task in final.tasks]
    row = row_of(replace(final.candidate, who=method), tasks, [results[id(task)] for task in final.tasks])
    search = {
        "trials": len(records),
        "epochs": sum(record.epoch for record in records),
        "seconds": sum(record.seconds for record in records),
    }
    return row | {"search": search, "doubts": final.entrant.study.doubts(records)}


def answer(document: Mapping[str, Any]) -> list[str]:
    """What a comparison says, claiming no more than its seeds carry: the winner, then each method against supervised.

    Args:
        document: the comparison's, with or without its verdict.
    """
    methods = [row["who"] for row in document["rows"]]
    said = _winner(document, methods)
    if document["winner"] is not None and document["winner"] in document.get("left_race", ()):
        said.append(
            f"careful: {document['winner']} had left the race, so its search had fewer epochs than the others', and "
            "the race was wrong about it: compare again without --race before you rely on the order."
        )
    said += [planned(needs, str, "--confirm-seeds") for needs in document.get("plan", ())]
    for row in document["rows"]:
        said += doubtful(row.get("doubts", ()), row["who"])
    said += [_against(document, method) for method in methods if method != document["baseline"]]
    for row in document["rows"]:
        if row["problems"]:
            said.append(
                f"{row['who']}: {len(row['problems'])} of {len(document['seeds'])} trainings turned NaN or infinite "
                "and are left out."
            )
    return said


def _winner(document: Mapping[str, Any], methods: Sequence[str]) -> list[str]:
    winner = document["winner"]
    if winner is None:
        return ["no training has a result: cannot tell which method is best."]
    chosen = f"{winner} has the lowest {document.get('objective', DEFAULT)} on the fresh seeds"
    same, beaten = list[str](), list[str]()
    for other in methods:
        found = None if other == winner else comparison_of(document, winner, other)
        if found is None:
            continue
        (beaten if found["told_apart"] and found["difference"] < 0 else same).append(other)
    if len(document["seeds"]) < ENOUGH_SEEDS:
        return [f"{chosen}; which method is best cannot be told below {ENOUGH_SEEDS} seeds."]
    sure = f"; on the test images it beats {_named(beaten)}" if beaten else ""
    unsure = f"{'; it' if beaten else ', but'} cannot be told from {_named(same)}" if same else ""
    level = f" (paired over seeds, level {100 * LEVEL:g} %, Holm's correction)"
    return [f"{chosen}{sure}{unsure}{level if beaten or same else ''}."]


def _named(methods: Sequence[str]) -> str:
    return methods[0] if len(methods) == 1 else listed(methods)


def _against(document: Mapping[str, Any], method: str) -> str:
    baseline = document["baseline"]
    found = None if baseline is None else comparison_of(document, method, baseline)
    if found is None:
        return f"{method} against supervised: no seed on which both have a result; cannot tell."
    if found["n"] < ENOUGH_SEEDS:
        return (
            f"{method} against supervised: {found['difference']:+.2f} points of test error, n = {found['n']}; cannot "
            f"tell below {ENOUGH_SEEDS} seeds."
        )
    known = facts(document, found)
    if not found["told_apart"]:
        return f"{method} cannot be told from supervised: {known}."
    return f"{method} {'beats' if found['difference'] < 0 else 'is worse than'} supervised: {known}."


def _keep_for_studies(finals: Sequence[_Final], results: Mapping[int, Trained], redrawn: Redrawn) -> None:
    """Each study's own confirmation, beside the baseline of the comparison: no training is made for it."""
    baseline = next((final for final in finals if final.entrant.method == BASELINE), None)
    for final in finals:
        candidates, tasks = [final.candidate], list(final.tasks)
        trained = [results[id(task)] for task in tasks]
        if baseline is not None and final is not baseline:
            candidates.append(replace(baseline.candidate, who=TUNED))
            tasks += [replace(task, who=TUNED) for task in baseline.tasks]
            trained += [results[id(task)] for task in baseline.tasks]
        document = document_of(final.entrant.study, candidates, tasks, trained, redrawn)
        keep(document, final.entrant.study, final.entrant.sitting.tracker)
