"""What a confirmation trains, and the document that says what came out: ``confirm.json``."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ssl_core.config import RunConfig
from tune.confirmation.looks import Looks
from tune.confirmation.power import plan_of, second_of
from tune.confirmation.trainings import FIRST_SEED, Redrawn, Trained, fresh
from tune.confirmation.verdicts import sentences
from tune.definition.objective import FIELDS, told
from tune.findings.comparisons import LEVEL, Comparison, Spread, compare_all, selection_luck
from tune.findings.confirmation import PLAIN, TUNED
from tune.findings.study import Study
from tune.images.study import read_images
from tune.store.layout import CONFIRM_FOLDER
from tune.trials.record import TrialRecord


@dataclass(frozen=True)
class Candidate:
    """A configuration to be confirmed: `who` is a trial's name or the baseline's."""

    who: str
    config: RunConfig
    record: TrialRecord | None
    study: str
    folder: str


@dataclass(frozen=True)
class FinalTraining:
    """One training of a confirmation: `number` counts the fresh seeds from 1, `out` is its folder."""

    who: str
    number: int
    config: RunConfig
    out: Path

    @property
    def run(self) -> str:
        """Its run in the tracking: ``5/confirm-1``, of a refit ``5/confirm-1-refit``."""
        return f"{self.who}/confirm-{self.out.name.removeprefix(SEED)}"


SEED, REFIT = "seed-", "-refit"


def trainings_of(
    study: Study, candidates: Sequence[Candidate], seeds: int, redrawn: Redrawn = "labels"
) -> list[FinalTraining]:
    """The trainings, seed by seed: every candidate on the same training seeds and the same images.

    Args:
        study: the study.
        candidates: what is confirmed.
        seeds: how many fresh seeds.
        redrawn: what a seed draws anew.
    """
    folder = study.folder.path / CONFIRM_FOLDER
    return [
        FinalTraining(c.who, n, fresh(c.config, n, redrawn), folder / c.folder / training_folder(n, redrawn))
        for n in range(1, seeds + 1)
        for c in candidates
    ]


def training_folder(number: int, redrawn: Redrawn) -> str:
    """The name of a training's folder."""
    return f"{SEED}{number}{_ENDS[redrawn]}"


_ENDS = {"training": "", "labels": "", "everything": "-resampled"}
"""What the folder of a training ends with: one training must not be taken for another."""


def refits_of(trainings: Sequence[FinalTraining], who: str) -> list[FinalTraining]:
    """The refits of a configuration: each of its trainings once more, on the validation images too."""
    return [
        replace(
            t, config=t.config.model_copy(update={"refit": True}), out=t.out.with_name(f"{t.out.name}{REFIT}")
        )
        for t in trainings
        if t.who == who
    ]


def with_refit(
    document: Mapping[str, Any], tasks: Sequence[FinalTraining], trained: Sequence[Trained]
) -> dict[str, Any]:
    """A confirmation's document with what the winner's refits came to, beside their siblings without refit.

    Args:
        document: as `document_of` gives it.
        tasks: the refits.
        trained: what came out of each.
    """
    (row,) = (row for row in document["rows"] if row["who"] == document["winner"])
    siblings = dict(zip(row["seeds"], row["test_error"], strict=True))
    with_it = {**document, "refit": _refit(row["who"], siblings, tasks, trained)}
    return with_it | {"verdict": sentences(with_it)}


def _refit(
    who: str, siblings: Mapping[int, float], tasks: Sequence[FinalTraining], trained: Sequence[Trained]
) -> dict[str, Any]:
    results = [(t, r.result) for t, r in zip(tasks, trained, strict=True) if r.result is not None]
    test = {t.config.seed: float(result["test_error"]) for t, result in results}
    spread = Spread(tuple(test.values())) if test else None
    paired = Spread(tuple(error - siblings[seed] for seed, error in test.items() if seed in siblings))
    return {
        "who": who,
        "seeds": list(test),
        "test_error": list(test.values()),
        "test_error_balanced": _values(results, "test_error_balanced"),
        "test_mean": spread and spread.mean,
        "test_std": spread and spread.std,
        "test_interval": spread and _list(spread.interval),
        "difference": paired.mean if paired.values else None,
        "difference_interval": _list(paired.interval) if paired.values else None,
        "folders": [t.out.name for t, _ in results],
        "problems": [r.problem for r in trained if r.problem is not None],
    }


def document_of(
    study: Study,
    candidates: Sequence[Candidate],
    tasks: Sequence[FinalTraining],
    trained: Sequence[Trained],
    redrawn: Redrawn = "labels",
    looks: Looks | None = None,
) -> dict[str, Any]:
    """The document: rows, comparisons, the winner and the verdict in words.

    Args:
        study: the study.
        candidates: what was confirmed.
        tasks: their trainings.
        trained: what came out of each.
        redrawn: what each seed drew anew.
        looks: the looks at the seeds, where there are several.
    """
    config = study.spec.base_config()
    assert config.epochs and config.steps_per_epoch
    objective = told(study.spec.objective)
    rows = [row_of(c, tasks, trained) for c in candidates]
    comparisons = comparisons_of(rows, looks)
    baseline, winner = baseline_of(rows), winner_of([row for row in rows if not _is_baseline(row)], objective)
    images = read_images(study.folder.path)
    document: dict[str, Any] = {
        "study": study.name,
        "method": config.method,
        "protocol": study.spec.protocol,
        "labels": config.labels,
        "hidden": None if images is None else images.hidden,
        "seeds": [FIRST_SEED + n for n in dict.fromkeys(t.number for t in tasks)],
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
        "doubts": study.doubts(),
    }
    if looks is not None:
        document["looks"] = {"first": looks.first, "most": looks.most, "level": looks.level(looks.most)}
    return document | {"verdict": sentences(document)}


def _is_baseline(row: Mapping[str, Any]) -> bool:
    return row["who"] in (PLAIN, TUNED)


def baseline_of(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The name of the baseline among the rows of a confirmation; None: there is none."""
    return next((str(row["who"]) for row in rows if _is_baseline(row)), None)


def comparisons_of(rows: Sequence[Mapping[str, Any]], looks: Looks | None = None) -> list[dict[str, Any]]:
    """All pairs of rows, compared by their test errors.

    Args:
        rows: as `row_of` gives them.
        looks: the looks at the seeds, where there are several.
    """
    test = {
        row["who"]: dict(zip(row["seeds"], row["test_error"], strict=True)) for row in rows if row["seeds"]
    }
    found = compare_all(test, None if looks is None else looks.corrected)
    return [comparison_document(c, looks) for c in found]


def two_best(rows: Sequence[Mapping[str, Any]], objective: str) -> tuple[str, str] | None:
    """The two configurations that are best by the objective on the fresh seeds; of one, that and the baseline.

    None where there are no two, or not yet.
    """
    baseline, winner = baseline_of(rows), winner_of([row for row in rows if not _is_baseline(row)], objective)
    other = second_of(rows, winner, objective, baseline) or baseline
    return None if winner is None or other is None else (winner, other)


def row_of(
    candidate: Candidate, tasks: Sequence[FinalTraining], trained: Sequence[Trained]
) -> dict[str, Any]:
    """What a confirmation keeps of a candidate: its results on the fresh seeds, in the order of the seeds.

    Args:
        candidate: a configuration, or the supervised baseline.
        tasks, trained: all final trainings and what became of them, in one order; others' are left out.
    """
    mine = [(t, r) for t, r in zip(tasks, trained, strict=True) if t.who == candidate.who]
    results = [(t, r.result) for t, r in mine if r.result is not None]
    record = candidate.record
    val, test = ([float(r[key]) for _, r in results] for key in ("val_error", "test_error"))
    full = record is not None and record.state == "completed"
    spread = Spread(tuple(test)) if test else None
    at_selection = record.val_error if record is not None else None
    return {
        "who": candidate.who,
        "method": candidate.config.method,
        "params": {} if record is None else record.params,
        "study": candidate.study,
        "trial": None if record is None else record.trial,
        "full_budget": full,
        "val_error_at_selection": at_selection,
        "seeds": [t.config.seed for t, _ in results],
        "val_error": val,
        "test_error": test,
        "val_error_balanced": _values(results, "val_error_balanced"),
        "test_error_balanced": _values(results, "test_error_balanced"),
        "val_loss": _values(results, "val_loss"),
        "val_ece": _values(results, "val_ece"),
        "val_overconfidence": _values(results, "val_overconfidence"),
        "test_error_by_class": _mean_by_class([r for _, r in results]),
        "test_mean": spread and spread.mean,
        "test_std": spread and spread.std,
        "test_interval": spread and _list(spread.interval),
        # A score after fewer epochs says nothing of how lucky it was at the full budget.
        "luck": selection_luck(at_selection, val) if full and val and at_selection is not None else None,
        "seconds": statistics.fmean(r["seconds"] for _, r in results) if results else None,
        "problems": [r.problem for _, r in mine if r.problem is not None],
    }


def _values(results: Sequence[tuple[FinalTraining, dict[str, Any]]], key: str) -> list[float]:
    """A number of each result; none where some of an earlier version lack it."""
    found = [result.get(key) for _, result in results]
    return [] if None in found else [float(value) for value in found if value is not None]


def _mean_by_class(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The mean over seeds of each class's test error in percent; empty where a result has none (an earlier version)."""
    rows = [result.get("test_error_by_class") for result in results]
    if not rows or None in rows:
        return {}
    columns = zip(*[row for row in rows if row is not None], strict=True)
    named = zip(results[0]["classes"], columns, strict=True)
    return {name: statistics.fmean(values) for name, values in named if None not in values}


def winner_of(rows: Sequence[Mapping[str, Any]], objective: str) -> str | None:
    """Of these rows the configuration with the lowest mean of what is told of the objective on the fresh seeds."""
    field = FIELDS[told(objective)]
    best = min(
        [row for row in rows if row[field]], key=lambda row: statistics.fmean(row[field]), default=None
    )
    return None if best is None else str(best["who"])


def comparison_document(comparison: Comparison, looks: Looks | None = None) -> dict[str, Any]:
    """A paired comparison of two rows as plain data; `p_holm` is corrected for all that were made.

    With several looks it is corrected for them, too, and the interval holds at all looks together.
    """
    difference = comparison.difference
    level = LEVEL if looks is None else looks.level(len(difference.values))
    return {
        "one": comparison.one,
        "other": comparison.other,
        "n": len(difference.values),
        "difference": difference.mean,
        "std": difference.std,
        "interval": _list(difference.interval_at(level)),
        "p": comparison.p,
        "p_holm": comparison.adjusted,
        "told_apart": comparison.told_apart,
    }


def _list(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)
