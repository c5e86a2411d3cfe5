"""Train the best configurations again on fresh seeds, beside the supervised baseline, and read the test set.

The winner of a search is the best of many draws, so its validation error flatters it. Here each configuration
is trained from scratch on training seeds and labelled sets that the search never used (the validation images
stay where they are), the baseline on the same ones for the same number of steps; then the test set is read
once per final model. The winner among those confirmed is the one with the lowest validation error on the
fresh seeds: the test set chooses nothing, so the winner's test error flatters nobody. With a refit the winner is then
trained once more on each seed, on training and validation images together, and read once for each of these models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypedDict

from search_spaces import dump_yaml
from ssl_core.config import from_document, options_of
from ssl_core.data.datasets import describe
from ssl_core.system.errors import ConfigError, counted
from ssl_core.system.files import write_atomically
from tune.cluster.capacity import MOST_PLACES
from tune.confirmation.document import (
    Candidate,
    FinalTraining,
    document_of,
    refits_of,
    trainings_of,
    with_refit,
)
from tune.confirmation.models import make_models
from tune.confirmation.trainings import Places, Redrawn, Trained, Training, train_all
from tune.definition.coherence import check_fresh_sets
from tune.definition.spec import StudySpec
from tune.engine.progress import Progress
from tune.engine.sitting import Sitting
from tune.errors import Exit, ServiceError
from tune.findings.confirmation import PLAIN, TUNED, title
from tune.findings.ranking import best_record
from tune.findings.study import Study
from tune.images.study import read_images
from tune.launch.preparation import check_machines
from tune.launch.start import moved, tune_baseline
from tune.store.home import Home
from tune.store.layout import CONFIRM_FILE
from tune.tracking.tracker import Tracker
from tune.tracking.views import confirmation_view, experiment_event
from tune.trials.record import TrialRecord

BASELINES = ("tuned", "plain")
NO_GPUS = "The study was searched with them: confirm it where they are, or on a cluster with --address."


class ConfirmOptions(TypedDict, total=False):
    """What may be said of a confirmation, as keywords: see `confirm`, which has their meaning and defaults."""

    top: int
    seeds: int
    baseline: str
    resample: bool
    refit: bool
    models: bool
    trust_method: bool
    address: str | None


def confirm(
    name: str,
    *,
    top: int = 1,
    seeds: int = 5,
    baseline: str = "tuned",
    resample: bool = False,
    refit: bool = False,
    models: bool = False,
    home: Home | Path | str | None = None,
    say: Callable[[str], None] = lambda message: None,
    progress: Progress | None = None,
    trust_method: bool = False,
    sitting: Sitting | None = None,
    address: str | None = None,
) -> dict[str, Any]:
    """Confirm a study's best configurations; what is done already is not done again.

    Args:
        name: the study.
        top, seeds: how many configurations, those at full budget first; trainings of each.
        baseline: "tuned": the best of a supervised study of as many trials, made if need be; "plain": not searched.
        resample: each seed draws the validation images anew as well, not the labelled ones alone.
        refit: train the winner once more on each seed, on the validation images too, for as many steps.
        models: make a model of each training of the winner.
        home: the home folder.
        say, progress: told as each training ends; shows the search of the tuned baseline, where one is made.
        trust_method: run the method's file also where this user has not run it before (`ssl_core.trusted`).
        sitting: of the search, which holds the study, Ray and the sender; None: a sitting of its own.
        address: of the Ray cluster that this process has joined, to train there; None: here, or where the sitting is.

    Returns:
        What `ssl-tune confirm --json` prints; also written to ``confirm.json`` in the study's folder.

    Raises:
        ConfigError: no such study, fewer trials with a result than `top`, or no data or machine for the trainings.
        ServiceError: a driver has the study, or the search of the baseline was interrupted or failed.
    """
    place = home if isinstance(home, Home) else Home(home)
    study = _study(name, baseline, place, sitting, address, trust_method, say)
    redrawn: Redrawn = "everything" if resample else redrawn_of(study)
    chosen = _chosen(study, top, seeds, redrawn)
    with ExitStack() as stack:
        if sitting is None:
            sitting = stack.enter_context(Sitting(study.spec, study.folder, place, progress or Progress()))
        candidates = [candidate_of(study, record) for record in chosen]
        candidates += _baseline(study, baseline, place, progress or Progress())
        tasks = trainings_of(study, candidates, seeds, redrawn)
        sitting.start_sender()
        tracker, places = sitting.tracker, places_of(study, place)
        trained = _train(tasks, places, tracker, say)
        document = document_of(study, candidates, tasks, trained, redrawn)
        mine = _of_winner(document["winner"], tasks, trained)
        if refit and mine:
            document, more = _refitted(document, [task for task, _ in mine], places, tracker, say)
            mine += more
        document |= _models(study, mine, places, tracker, say) if models and mine else {}
        keep(document, study, tracker)
        sitting.deliver(study.spec.tracking_timeout)
    return document


def _study(
    name: str,
    baseline: str,
    home: Home,
    sitting: Sitting | None,
    address: str | None,
    trust_method: bool,
    say: Callable[[str], None],
) -> Study:
    """The study with its method loaded, to be trained where it was asked for, or where its search is.

    Raises:
        ConfigError: an unknown kind of baseline, a method file that is not trusted, or machines that cannot train it.
        ServiceError: machines that do not share the home.
    """
    study = Study(home.existing_study_folder(name))
    if baseline not in BASELINES:
        raise ConfigError(f"baseline = {baseline!r}: must be tuned or plain.")
    if sitting is None:
        study.spec = moved(study.spec, address or "local")
        check_machines(study.spec, study.folder, say, NO_GPUS)
    study.load_method(trust_method=trust_method)
    return study


def _refitted(
    document: dict[str, Any],
    tasks: Sequence[FinalTraining],
    places: Places,
    tracker: Tracker,
    say: Callable[[str], None],
) -> tuple[dict[str, Any], list[tuple[FinalTraining, Trained]]]:
    """The document with the refits of the winner's trainings, and what came out of each."""
    refits = refits_of(tasks, document["winner"])
    again = _train(refits, places, tracker, say)
    return with_refit(document, refits, again), list(zip(refits, again, strict=True))


def _of_winner(
    who: str | None, tasks: Sequence[FinalTraining], trained: Sequence[Trained]
) -> list[tuple[FinalTraining, Trained]]:
    """The trainings of the winner, each with what came out of it; none where nobody won."""
    return [(task, done) for task, done in zip(tasks, trained, strict=True) if task.who == who]


def _models(
    study: Study,
    trainings: Sequence[tuple[FinalTraining, Trained]],
    places: Places,
    tracker: Tracker,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Models of the winner's trainings, for the document; each is logged with its run."""
    tasks, trained = zip(*trainings, strict=True)
    found = make_models(study, tasks, trained, places, say)
    for row in found["rows"]:
        tracker.model(row["run"], study.folder.path / row["folder"])
    return {"models": found}


def redrawn_of(study: Study) -> Redrawn:
    """What each seed draws anew: in the real protocol, and where all labels are used, the training alone."""
    if study.spec.protocol == "real":
        return "training"
    config, images = study.spec.base_config(), read_images(study.folder.path)
    all_used = images is not None and images.hidden == 0
    is_plain = describe(
        config.dataset, options=options_of(config)
    ).is_plain  # there each seed has labels of its own
    return "training" if all_used and not is_plain else "labels"


def keep(document: dict[str, Any], study: Study, tracker: Tracker) -> None:
    """Write what was found into the study's folder; it is an artifact of the study's run, too."""
    path = study.folder.path / CONFIRM_FILE
    write_atomically(path, json.dumps(document, indent=1).encode())
    tracker.artifact(None, path)
    tracker.log.append_many([experiment_event(study.spec.name, confirmation_view(study.spec))])


def _train(
    tasks: Sequence[FinalTraining], places: Places, tracker: Tracker, say: Callable[[str], None]
) -> list[Trained]:
    """Train what is not trained yet; each is tracked as it ends."""
    return train_all(
        [_training(t) for t in tasks],
        places,
        say,
        lambda number, outcome: track(tracker, tasks[number], outcome),
    )


def _chosen(study: Study, top: int, seeds: int, redrawn: Redrawn) -> list[TrialRecord]:
    """The best trials, as many as are asked for.

    Raises:
        ConfigError: there are fewer, or too little data for the seeds.
    """
    if top < 1 or seeds < 1:
        raise ConfigError(f"top = {top}, seeds = {seeds}: both must be at least 1.")
    chosen = ranked_of(study, top)
    if len(chosen) < top:
        raise ConfigError(
            f"--top {top}: the study {study.name!r} has {counted(len(chosen), 'trial')} with a result. Take at "
            f"most that, or carry it on with `{study.folder.command('resume')}`."
        )
    if redrawn == "labels":
        _check_seeds(study.spec, seeds)
    return chosen


def _check_seeds(spec: StudySpec, seeds: int) -> None:
    config = spec.base_config()
    info = describe(config.dataset, options=options_of(config))
    check_fresh_sets(info, config, seeds)


def ranked_of(study: Study, top: int) -> list[TrialRecord]:
    """The best trials of a study, a pinned one before all; fewer where there are fewer with a result."""
    left, pinned = study.records(), study.pinned()
    ranked = [r for r in left if r.trial == pinned]  # whoever recommends a trial means this one
    left = [r for r in left if r.trial != pinned]
    while len(ranked) < top:
        record, _ = best_record(left)
        if record is None:
            break
        ranked.append(record)
        left = [r for r in left if r.trial != record.trial]
    return ranked


def candidate_of(study: Study, record: TrialRecord) -> Candidate:
    """A trial as a configuration to be confirmed."""
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
    outcome = tune_baseline(study, home, progress)
    if outcome.code in (Exit.INTERRUPTED, Exit.TERMINATED):
        raise ServiceError("the search of the tuned baseline was interrupted", outcome.code)
    ranked = ranked_of(outcome.study, 1)
    if not ranked:
        raise ServiceError(
            f"the tuned baseline, study {outcome.study.name}, has no trial with a result: see why with "
            f"`{outcome.study.folder.command('trials')}`, or take --baseline plain.",
            Exit.NO_TRIAL_SUCCEEDED,
        )
    best = candidate_of(outcome.study, ranked[0])
    folder = f"{TUNED}-{outcome.study.name}-{best.who}"
    return [Candidate(TUNED, best.config, best.record, outcome.study.name, folder)]


def _training(task: FinalTraining) -> Training:
    what = ", refit" if task.config.refit else ""
    return Training(f"{title(task.who)}, seed {task.number}{what}", task.config, task.out)


def places_of(study: Study, home: Home) -> Places:
    """Where the final models of a study are trained: where its trials were."""
    from tune.cluster import local_ray  # loads Ray

    reserved = local_ray.resources(study.spec)
    return Places(
        home=home,
        data_root=study.spec.data_root,
        concurrent=MOST_PLACES if study.spec.elastic else study.spec.concurrent,
        cpus=reserved["cpu"],
        gpus=reserved["gpu"],
        held_out=None if (images := read_images(study.folder.path)) is None else images.held_out,
        address=study.spec.address,
        warmup_cache=study.spec.warmup_cache,
    )


def track(tracker: Tracker, task: FinalTraining, outcome: Trained) -> None:
    """Each confirmation is a run below its trial's (the baseline's below the study's), at the time it was trained.

    It is written when the training has ended, or later, by a `confirm` that finds it done.
    """
    run = task.run
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
        summary=_test_metrics(result),
        test_confusion=result.get("test_confusion"),
        error=outcome.problem,
        time_ms=outcome.ended_ms,
        warmup=outcome.warmup,
    )


def _test_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """The reading of the test set as metrics of the run; none where the training failed."""
    fields = {"test/error": "test_error", "test/error_balanced": "test_error_balanced"}
    return {name: float(result[field]) for name, field in fields.items() if field in result}
