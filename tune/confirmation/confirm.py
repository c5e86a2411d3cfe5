"""Train the best configurations again on fresh seeds, beside the supervised baseline, and read the test set.

The winner of a search is the best of many draws, so its validation error flatters it. Here each configuration
is trained from scratch on training seeds and labelled sets that the search never used (the validation images
stay where they are), the baseline on the same ones for the same number of steps; then the test set is read
once per final model. The winner among those confirmed is the one with the lowest validation error on the
fresh seeds: the test set chooses nothing, so the winner's test error flatters nobody.
"""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_spaces import dump_yaml
from ssl_core.config import RunConfig, from_document
from ssl_core.data.datasets import describe
from ssl_core.system.errors import ConfigError
from ssl_core.system.files import write_atomically
from tune.confirmation.trainings import (
    FIRST_SEED,
    Places,
    Trained,
    Training,
    fresh,
    train_all,
)
from tune.confirmation.verdicts import sentences
from tune.definition.coherence import check_fresh_sets
from tune.definition.spec import StudySpec
from tune.engine.progress import Progress
from tune.errors import Exit, ServiceError
from tune.findings.comparisons import Comparison, Spread, compare_all, selection_luck
from tune.findings.confirmation import PLAIN, RESULT_FILE, TUNED, title
from tune.findings.ranking import best_record
from tune.findings.study import Study
from tune.store.home import Home
from tune.tracking.opening import open_log, open_tracker
from tune.tracking.tracker import Tracker
from tune.trials.record import TrialRecord

BASELINES = ("tuned", "plain")


@dataclass(frozen=True)
class Candidate:
    """A configuration to be confirmed: `who` is a trial's name or the baseline's."""

    who: str
    config: RunConfig
    record: TrialRecord | None
    study: str
    folder: str


@dataclass(frozen=True)
class Task:
    """One training of a confirmation."""

    who: str
    number: int
    config: RunConfig
    out: Path


def confirm(
    name: str,
    *,
    top: int = 1,
    seeds: int = 5,
    baseline: str = "tuned",
    home: Path | str | None = None,
    say: Callable[[str], None] = lambda message: None,
    progress: Progress | None = None,
    sender: subprocess.Popen[bytes] | None = None,
) -> dict[str, Any]:
    """Confirm a study's best configurations; what is done already is not done again.

    Args:
        name: the study.
        top: how many configurations, those at full budget first.
        seeds: trainings of each.
        baseline: "tuned": the best of a supervised study of the same setting with as many trials, which is
            made where there is none; "plain": supervised with the study's own common values.
        home: the home folder.
        say: told as each training ends.
        progress: shows the search of the tuned baseline, where one has to be made.
        sender: the process that delivers to MLflow, where the search has left it at work.

    Returns:
        What `ssl-tune confirm --json` prints; also written to ``confirm.json`` in the study's folder.

    Raises:
        ConfigError: no such study, fewer trials with a result than `top`, or too little data for the seeds.
        ServiceError: a driver has the study, or the search of the baseline was interrupted or failed.
    """
    place = Home(home)
    study = Study(place.existing_study_folder(name))
    if top < 1 or seeds < 1:
        raise ConfigError(f"top = {top}, seeds = {seeds}: both must be at least 1.")
    if baseline not in BASELINES:
        raise ConfigError(f"baseline = {baseline!r}: must be tuned or plain.")
    chosen = _ranked(study, top)
    if len(chosen) < top:
        raise ConfigError(
            f"--top {top}: the study {name!r} has {len(chosen)} trials with a result. Take at most that, or "
            f"carry it on with `ssl-tune resume {name}`."
        )
    _check_seeds(study.spec, seeds)
    study.folder.lock()
    try:
        candidates = [_candidate(study, record) for record in chosen]
        candidates += _baseline(study, baseline, place, progress or Progress())
        tasks = tasks_of(study, candidates, seeds)
        with _tracked(study, place, sender) as tracker:
            trained = train_all(
                [_training(t) for t in tasks],
                _places(study, place),
                say,
                lambda number, outcome: _track(tracker, tasks[number], outcome),
            )
            document = _document(study, candidates, tasks, trained)
            write_atomically(study.folder.path / RESULT_FILE, json.dumps(document, indent=1).encode())
            tracker.artifact(None, study.folder.path / RESULT_FILE)
    finally:
        study.folder.unlock()
    return document


def _check_seeds(spec: StudySpec, seeds: int) -> None:
    config = spec.base_config()
    info = describe(config.dataset, image_size=config.data.image_size)
    check_fresh_sets(info, config, seeds)


def _ranked(study: Study, top: int) -> list[TrialRecord]:
    left, ranked = study.records(), list[TrialRecord]()
    while len(ranked) < top:
        record, _ = best_record(left)
        if record is None:
            break
        ranked.append(record)
        left = [r for r in left if r.trial != record.trial]
    return ranked


def _candidate(study: Study, record: TrialRecord) -> Candidate:
    config = study.spec.trial_config(record.values)
    return Candidate(record.trial, config, record, study.name, record.trial)


def _baseline(study: Study, kind: str, home: Home, progress: Progress) -> list[Candidate]:
    """The baseline as a candidate; none for a supervised study, which is one itself."""
    if study.spec.config["method"] == PLAIN:
        return []
    if kind == "plain":
        own = {study.spec.config["method"], "method_digest"}
        common = {k: v for k, v in study.spec.config.items() if k not in own}
        return [Candidate(PLAIN, from_document({**common, "method": PLAIN}), None, study.name, PLAIN)]
    from tune.launch.baseline import tune_baseline

    outcome = tune_baseline(study, home, progress)
    if outcome.code in (Exit.INTERRUPTED, Exit.TERMINATED):
        raise ServiceError("the search of the tuned baseline was interrupted", outcome.code)
    ranked = _ranked(outcome.study, 1)
    if not ranked:
        raise ServiceError(
            f"the tuned baseline, study {outcome.study.name}, has no trial with a result: see why with "
            f"`ssl-tune trials {outcome.study.name}`, or take --baseline plain.",
            Exit.NO_TRIAL_SUCCEEDED,
        )
    best = _candidate(outcome.study, ranked[0])
    folder = f"{TUNED}-{outcome.study.name}-{best.who}"
    return [Candidate(TUNED, best.config, best.record, outcome.study.name, folder)]


def tasks_of(study: Study, candidates: Sequence[Candidate], seeds: int) -> list[Task]:
    """The trainings, seed by seed: every candidate on the same training seeds and labelled sets."""
    return [
        Task(c.who, n, fresh(c.config, n), study.folder.path / "confirm" / c.folder / f"seed-{n}")
        for n in range(1, seeds + 1)
        for c in candidates
    ]


def _training(task: Task) -> Training:
    return Training(f"{title(task.who)}, seed {task.number}", task.config, task.out)


def _places(study: Study, home: Home) -> Places:
    from tune.cluster import local_ray

    reserved = local_ray.resources(study.spec)
    return Places(
        home=home,
        data_root=study.spec.data_root,
        concurrent=study.spec.concurrent,
        cpus=reserved["cpu"],
        gpus=reserved["gpu"],
    )


def _document(
    study: Study, candidates: Sequence[Candidate], tasks: Sequence[Task], trained: Sequence[Trained]
) -> dict[str, Any]:
    config = study.spec.base_config()
    assert config.epochs and config.steps_per_epoch
    rows = [_row(c, tasks, trained) for c in candidates]
    test = {
        row["who"]: dict(zip(row["seeds"], row["test_error"], strict=True)) for row in rows if row["seeds"]
    }
    document: dict[str, Any] = {
        "study": study.name,
        "method": config.method,
        "seeds": [FIRST_SEED + n for n in dict.fromkeys(t.number for t in tasks)],
        "epochs": config.epochs,
        "steps": config.total_steps,
        "network": config.network,
        "baseline": next((row["who"] for row in rows if row["who"] in (PLAIN, TUNED)), None),
        "winner": _winner(rows),
        "rows": rows,
        "comparisons": [_comparison(c) for c in compare_all(test)],
    }
    return document | {"verdict": sentences(document)}


def _row(candidate: Candidate, tasks: Sequence[Task], trained: Sequence[Trained]) -> dict[str, Any]:
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
        "test_mean": spread and spread.mean,
        "test_std": spread and spread.std,
        "test_interval": spread and _list(spread.interval),
        # A score after fewer epochs says nothing of how lucky it was at the full budget.
        "luck": selection_luck(at_selection, val) if full and val and at_selection is not None else None,
        "seconds": statistics.fmean(r["seconds"] for _, r in results) if results else None,
        "problems": [r.problem for _, r in mine if r.problem is not None],
    }


def _winner(rows: Sequence[dict[str, Any]]) -> str | None:
    """The configuration with the lowest mean val/error on the fresh seeds."""
    trials = [row for row in rows if row["who"] not in (PLAIN, TUNED) and row["val_error"]]
    best = min(trials, key=lambda row: statistics.fmean(row["val_error"]), default=None)
    return None if best is None else str(best["who"])


def _comparison(comparison: Comparison) -> dict[str, Any]:
    difference = comparison.difference
    return {
        "one": comparison.one,
        "other": comparison.other,
        "n": len(difference.values),
        "difference": difference.mean,
        "std": difference.std,
        "interval": _list(difference.interval),
        "p": comparison.p,
        "p_holm": comparison.adjusted,
        "told_apart": comparison.told_apart,
    }


def _list(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)


@contextmanager
def _tracked(study: Study, home: Home, sender: subprocess.Popen[bytes] | None) -> Iterator[Tracker]:
    """The study's tracking, open for what is confirmed; what MLflow lacks after an interruption, `sync` delivers."""
    with open_log(study.folder) as log:
        tracker = open_tracker(log, study.spec, home)
        tracker.start_sender(sender)
        timeout = 0.0
        try:
            yield tracker
            timeout = study.spec.tracking_timeout
        finally:
            tracker.close(timeout)


def _track(tracker: Tracker, task: Task, outcome: Trained) -> None:
    """Each confirmation is a run below its trial's (the baseline's below the study's), at the time it was trained.

    It is told of when it has ended, or later still by a `confirm` that finds it done.
    """
    run = f"{task.who}/confirm-{task.number}"
    document = task.config.document()
    result = outcome.result or {}
    tracker.trial_started(
        run,
        {"seed": task.config.seed, "data.label_seed": task.config.data.label_seed},
        {k: v for k, v in document.items() if k != "method"},
        dump_yaml(document),
        parent=None if task.who in (PLAIN, TUNED) else task.who,
        tags={"ssl.method": task.config.method, "ssl.split_hash": result.get("split_hash", "")},
        time_ms=outcome.began_ms,
    )
    for report in outcome.reports:
        tracker.report(
            run, report.epoch, report.metrics, time_ms=report.time_ms or None, classes=report.classes
        )
    tracker.trial_ended(
        run,
        "completed" if outcome.problem is None else "nan",
        summary={"test/error": result["test_error"]} if result else None,
        error=outcome.problem,
        time_ms=outcome.ended_ms,
        warmup=outcome.warmup,
    )
